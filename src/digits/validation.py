"""Settings of the right kind and range: pydantic finds what is wrong, this module says it in one line."""

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, validate_call

from digits.errors import UserError


class Settings(BaseModel):
    """A base for settings: exact types (an int is a float, a bool is no number), no unknown keys, not to be changed.

    A validator of several fields raises a ValueError that begins with the field and its value: "fold=5: give ...".
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def _as_path(value: Any) -> Any:
    return Path(str(value)).expanduser() if isinstance(value, str | int | float) else value


FilePath = Annotated[Path, BeforeValidator(_as_path), Field(strict=False)]  # from what YAML makes of a name: 5 is one
S = TypeVar("S", bound=Settings)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


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


def target_of(key: str, part: Any) -> Any:
    """What a part of the config says is to be made: a class, as a rule.

    Raises:
        UserError: if the part names nothing that can be imported.
    """
    target = part.get("_target_") if isinstance(part, DictConfig) else None
    try:
        return get_object(str(target))
    except Exception as error:  # a module can fail in any way while it is imported
        what = f"{key}._target_={target}" if target else f"{key}={part}"
        reason = textwrap.shorten(str(error), 200) if target else "it has no _target_"
        raise UserError(f"{what}: names nothing that can be made ({reason})") from error


def make(key: str, part: DictConfig, base: type[T], **arguments: Any) -> T:
    """Makes what a part of the config names, with further arguments.

    Raises:
        UserError: if that is nothing of the kind `base`.
    """
    kind = target_of(key, part)
    made = instantiate(part, **arguments) if not isinstance(kind, type) or issubclass(kind, base) else None
    if not isinstance(made, base):
        raise UserError(f"{key}._target_={part._target_}: makes no {base.__name__}. Name a class of that kind")
    return made


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function; none where it does not tell, as some builtins."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


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


def problem_of(model: type[BaseModel], content: Any, prefix: str) -> str | None:
    """What is wrong with content that comes from a file, in one line; None if it fits the model."""
    try:
        model.model_validate(content)
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
