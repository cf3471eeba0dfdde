"""Errors that the user can put right, in one line each."""

import sys
from collections.abc import Sequence

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digits.errors import Pruned, UserError
from digits.overrides import CONFIGS, choices_of, is_group, keys_of, nearest, sweep_overrides

# Extras of pyproject.toml, by the choice that needs them and by the package that is missing.
EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray", "wandb": "wandb", "mlflow": "mlflow"}
# Errors of libraries that say well what is wrong. To import these would take seconds: only what is loaded can raise.
WELL_SAID = (("lightning.fabric.utilities.exceptions", "MisconfigurationException"), ("wandb.errors", "UsageError"))


def one_line(error: BaseException, config_name: str = "") -> str | None:
    """An error that the user can put right, in one line; None for any other."""
    if notes := getattr(error, "__notes__", None):  # such as digits.callbacks.Advice adds
        return flat(notes[-1])
    if isinstance(error, (UserError, Pruned, *_loaded(WELL_SAID))):
        return flat(str(error))
    match error:
        case InstantiationException():
            return _instantiation(error, config_name)
        case MissingConfigException() if error.missing_cfg_file:
            return _mistyped_choice(error.missing_cfg_file, error.options)
        case ConfigCompositionException():
            return _composition(error, config_name)
        case MissingMandatoryValue():
            return f"{error.full_key} is not set: give {error.full_key}=..."
        case OverrideParseException():
            return f"{flat(str(error))} (a value with = , [ or a space needs quotes: 'key=\"value\"')"
        case HydraException():
            return flat(str(error))
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        case OmegaConfBaseException():
            said = (
                str(error)
                .partition("    full_key:")[0]
                .removeprefix("UserError raised while resolving interpolation: ")
            )
            return f"{flat(said)} (in {error.full_key})"
    return None


def _loaded(classes: Sequence[tuple[str, str]]) -> tuple[type[BaseException], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in classes if module in sys.modules)


def _composition(error: ConfigCompositionException, config_name: str) -> str:
    cause, arguments = error.__cause__, sys.argv[1:]
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        known = keys_of(config_name, arguments)
        if any(one.startswith(f"{cause.full_key.partition('.')[0]}._target_=") for one in arguments):
            return f"there is no key {cause.full_key} in the chosen file. For your own class: +{cause.full_key}=..."
        if cause.full_key in known and sweep_overrides(arguments):
            return f"{cause.full_key}: not every choice of the sweep has this key. Sweep over those that have it"
        if cause.full_key in known:  # of this project's choices, but not of one's own
            return f"{cause.full_key}: the chosen {cause.full_key.partition('.')[0]} has no such key"
        hint = nearest(cause.full_key, known) or " See --help for the keys that there are."
        return f"there is no key {cause.full_key}.{hint}"
    groups = [next(iter(one)) for one in OmegaConf.load(CONFIGS / f"{config_name}.yaml").defaults if one != "_self_"]
    for argument in arguments:
        group = argument.partition("=")[0]
        if is_group(group) and not any(group == str(own).removeprefix("override ") for own in groups):
            return f"{argument}: {config_name} has no such choice; a checkpoint brings its own. Data: data.dataset=..."
    if several := sweep_overrides(arguments):
        return f"{several[0].input_line}: several values. -m in front runs each of them"
    return flat(str(error))


def _instantiation(error: InstantiationException, config_name: str) -> str:
    """`instantiate` wraps what a class says of its arguments."""
    cause = error.__cause__
    if cause is None:
        return flat(str(error))
    if line := one_line(cause, config_name):
        return line
    if isinstance(cause, ImportError) and cause.name in EXTRAS:
        return _extra("logger", cause.name)
    what = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
    target = str(error).partition("\n")[0].removeprefix("Error in call to target ").rstrip(":").strip("'")
    return flat(f"{what} (in {target})")


def _mistyped_choice(missing: str, options: Sequence[str] | None) -> str:
    group, _, choice = missing.rpartition("/")
    if choice in EXTRAS:
        return _extra(group, choice)
    # Hydra does not say which there are for one of several: logger=[tensorboard,cvs].
    options = options or choices_of(group)
    return f"there is no {group}={choice}.{nearest(choice, options)} There are: {', '.join(options)}"


def _extra(group: str, choice: str) -> str:
    extra = EXTRAS[choice]
    return f"{group}={choice} needs a package: uv sync --extra {extra}, or pip install -e '.[{extra}]'"


def flat(text: str) -> str:
    """A text in one line."""
    return " ".join(text.split())
