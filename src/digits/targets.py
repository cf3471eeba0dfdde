"""Classes by name: what a config or a checkpoint says is to be made, and whether it may be.

Whoever types a `_target_` may run anything anyway. One that comes from a file is data of somebody's: of the packages
below it may name the parts of an experiment, and code of other packages only where the user trusts them (`trust=`).
"""

import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from hydra._internal.utils import _locate  # by which Hydra's instantiate finds them: what is checked is what is made
from hydra.utils import instantiate

from digits.errors import UserError

T = TypeVar("T")
# Where they have them: other modules of theirs do much else while they are imported.
PLACES = (
    "digits.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.models.",
    "torchvision.transforms.",
    "lightning.",
    "torchmetrics.",
    "kornia.augmentation.",
    "optuna.pruners.",
)
PACKAGES = ("digits", "torch", "torchvision", "lightning", "torchmetrics", "kornia", "optuna")
# What these libraries have classes of that an experiment is made of. By name: to import them all would take seconds.
KINDS = (
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "lightning.pytorch.core.datamodule.LightningDataModule",
    "lightning.pytorch.trainer.trainer.Trainer",
    "lightning.pytorch.callbacks.callback.Callback",
    "lightning.pytorch.loggers.logger.Logger",
    "lightning.pytorch.profilers.profiler.Profiler",
    "lightning.pytorch.strategies.strategy.Strategy",
    "optuna.pruners._base.BasePruner",
    "torchvision.transforms.v2._transform.Transform",
    "digits.data.dataset.DataSet",
)


def target_of(key: str, part: Any) -> Any:
    """What a part of the config says is to be made: a class, as a rule.

    Raises:
        UserError: if the part names nothing that can be imported.
    """
    target = part.get("_target_") if isinstance(part, Mapping) else None
    try:
        return _locate(str(target))
    except Exception as error:  # a module can fail in any way while it is imported
        what = f"{key}._target_={target}" if target else f"{key}={part}"
        reason = textwrap.shorten(str(error.__cause__ or error), 200) if target else "it has no _target_"
        raise UserError(f"{what}: names nothing that can be made ({reason})") from error


def check_kind(key: str, part: Any, kind: Any, base: type) -> None:
    """Refuses a class that is no `base`; what a function makes is not known before.

    Raises:
        UserError: naming the part's `_target_`.
    """
    if isinstance(kind, type) and not issubclass(kind, base):
        raise UserError(f"{key}._target_={part['_target_']}: makes no {base.__name__}. Name a class of that kind")


def make_kind(key: str, part: Any, base: type[T], **arguments: Any) -> T:
    """Makes what a part of the config names, with further arguments.

    Raises:
        UserError: if that is no `base`.
    """
    check_kind(key, part, target_of(key, part), base)
    made = instantiate(part, **arguments)
    check_kind(key, part, type(made), base)
    return made


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function; none where it does not tell, as some builtins."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def packages(trust: Any) -> list[str]:
    """The packages that `trust=` names: one, or a list of them, or none."""
    return [trust] if isinstance(trust, str) else [str(name) for name in trust or []]


def make(settings: Mapping[str, Any]) -> Any:
    """Makes what plain settings describe: `_target_` with its arguments, which may have a `_target_` themselves."""
    made = {key: _made(value) for key, value in settings.items() if key != "_target_"}
    return target_of("settings", settings)(**made)


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        return make(value) if "_target_" in value else {key: _made(part) for key, part in value.items()}
    return [_made(part) for part in value] if isinstance(value, list) else value


def untrusted(settings: Any, trust: Collection[str], prefix: str = "") -> str | None:
    """What settings from a file name that may not run; None if nothing. Of packages not trusted, nothing is imported.

    The object counts, not only its name (`torch.os.system` is not torch's), and its kind: torch has classes that start
    any process.

    Args:
        settings: plain.
        trust: packages that the user has named.
        prefix: of the settings' keys, to name them.
    """
    for key, target in _targets(settings, prefix):
        package = str(target).partition(".")[0]
        allowed = {*PACKAGES, *trust} - (sys.stdlib_module_names - {"digits"})
        if package not in allowed:
            advice = "" if package in sys.stdlib_module_names else f". If you trust it: trust={package}"
            return f"{key}={target}: code that is not of {', '.join(PACKAGES[:3])}, and so is not run{advice}"
        found, reason = None, f"of {package}, a file may name what begins with {', '.join(PLACES)}"
        if package in trust or str(target).startswith(PLACES):
            try:
                found, reason = _locate(str(target)), "no class that an experiment is made of"
            except Exception as error:  # a module that is missing, or fails when imported
                reason = f"names nothing that can be made ({textwrap.shorten(str(error.__cause__ or error), 200)})"
        home = str(getattr(found, "__module__", "")).partition(".")[0]
        if home not in allowed or not (home in trust or _is_part(found)):
            return f"{key}={target}: {reason}"
    return None


def foreign_packages(settings: Any) -> list[str]:
    """The packages of one's own that settings name: those to trust, to open them again."""
    named = {str(target).partition(".")[0]: None for _, target in _targets(settings)}
    return [package for package in named if package not in PACKAGES]


def _is_part(found: Any) -> bool:
    """Whether it is a part of an experiment: a class of one of the kinds, or what builds a network of torchvision's."""
    name, module = getattr(found, "__name__", ""), str(getattr(found, "__module__", ""))
    if isinstance(found, type):
        layers = not module.startswith("torch.") or module.startswith(("torch.nn.modules.", "torch.optim."))
        return layers and any(f"{base.__module__}.{base.__qualname__}" in KINDS for base in found.__mro__)
    if not module.startswith("torchvision.models."):
        return False
    from torchvision import models

    return name in models.list_models() and models.get_model_builder(name) is found


def _targets(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        if key == "_target_" or (key == "dataset" and "." in str(value)):  # a class of one's own
            yield f"{prefix}{key}", value
        yield from _targets(value, f"{prefix}{key}.")
