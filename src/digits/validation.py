"""Settings of the right kind and range: pydantic finds what is wrong, this module says it in one line."""

import functools
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    validate_call,
)

from digits.errors import UserError
from digits.targets import packages


class Settings(BaseModel):
    """A base for settings: exact types (an int is a float, a bool is no number), no unknown keys, not to be changed.

    A validator of several fields raises a ValueError that begins with the field and its value: "fold=5: give ...".
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def _as_name(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError("give a name")
    return str(value)


def _as_list(value: Any) -> Any:
    """A single value stands for a list of it."""
    return value if value is None or isinstance(value, list) else [value]


Trust = Annotated[list[str], BeforeValidator(packages)]  # packages of which a checkpoint may name code
Name = Annotated[str, BeforeValidator(_as_name)]  # from what YAML makes of it: 5 is one
AsList = BeforeValidator(_as_list)
Names = Annotated[list[Name], AsList]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
FilePath = Annotated[Path, AfterValidator(Path.expanduser), BeforeValidator(_as_name), Field(strict=False)]


class DataPlace(Settings):
    """The key `data` of a command that finds the data by its checkpoint."""

    root: FilePath | None


S = TypeVar("S", bound=Settings)
P = ParamSpec("P")
R = TypeVar("R")


def read_settings(kind: type[S], cfg: DictConfig) -> S:
    """A whole config as settings.

    Raises:
        UserError: naming the first key whose value is of another kind or out of range.
    """
    with user_errors(""):
        return kind.model_validate(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))


@contextmanager
def user_errors(prefix: str) -> Iterator[None]:
    """Turns a ValidationError into a UserError of one line, as `one_line` has it."""
    try:
        yield
    except ValidationError as error:
        raise UserError(one_line(error, prefix)) from error


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Checks a function's arguments against its annotations.

    Raises:
        ValueError: naming the argument, its value and what it should be.
    """
    checking = validate_call(config={"strict": True, "arbitrary_types_allowed": True})(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return checking(*args, **kwargs)
        except ValidationError as error:
            raise ValueError(one_line(error, "")) from error

    return checked


def problem_of(kind: type, content: Any, prefix: str, strict: bool | None = None) -> str | None:
    """What is wrong with content that should be of a kind, such as a model of settings, in one line; None if it is."""
    try:
        TypeAdapter(kind).validate_python(content, strict=strict)
    except ValidationError as error:
        return one_line(error, prefix)
    return None


def one_line(error: ValidationError, prefix: str) -> str:
    """The first problem, as `prefix.key=value: should be greater than 0`.

    Args:
        error: of a model of settings.
        prefix: the config's group that the settings are; empty: they are no group's.
    """
    first = error.errors(include_url=False)[0]
    key = ".".join([*([prefix] if prefix else []), *(part for part in first["loc"] if isinstance(part, str))])
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    match first["type"]:
        case "missing":
            return f"{key}: missing, give a value"
        case "extra_forbidden":
            return f"{key}: there is no such setting"
        case "value_error" if not first["loc"]:  # of several fields: it names them itself
            return f"{prefix}.{said}" if prefix else said
    return f"{key}={as_typed(first['input'])}: {said}"


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line, shortened if it is long."""
    names = {True: "true", False: "false", None: "null"}
    text = names[value] if value is None or isinstance(value, bool) else str(value)
    return textwrap.shorten(text, 100, placeholder="...") or "''"
