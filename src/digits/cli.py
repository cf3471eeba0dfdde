"""The way in from the command line: Hydra's main, with errors of one line instead of tracebacks."""

import difflib
import functools
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digits.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
# A number in the config that may be overridden with something else.
NOT_ONLY_NUMBERS = {"trainer.devices"}

# Tells runs apart that start in the same second.
OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True)


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a task on a config into a command: `hydra.main` over `configs/`.

    An error that the user can put right ends the command with one line and exit code 1; any other keeps its
    traceback, and HYDRA_FULL_ERROR=1 shows all of them.

    Args:
        config_name: the primary config, without `.yaml`.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        command = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)

        @functools.wraps(task)
        def main() -> None:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                return command()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra hand its errors on instead of printing them
            try:
                command()
            except KeyboardInterrupt:
                sys.exit(130)
            except Exception as error:
                line = one_line(error, config_name)
                if line is None:
                    traceback.print_exc()
                else:
                    print(f"error: {line}", file=sys.stderr)
                sys.exit(1)
            finally:
                del os.environ["HYDRA_FULL_ERROR"]

        return main

    return decorate


def one_line(error: Exception, config_name: str) -> str | None:
    """An error that the user can put right, in one line; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException):
        return _instantiation(error, config_name)
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return _mistyped_key(error.__cause__.full_key, config_name)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give {error.full_key}=..."
    if isinstance(error, HydraException):
        # Hydra lists the search path behind the choices; it helps nobody who mistyped a choice.
        return _flat(str(error).partition("\nConfig search path:")[0])
    if isinstance(error, OmegaConfBaseException):
        return _flat(str(error).partition("\n    full_key:")[0]) + f" (in {error.full_key})"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; importing it would take seconds
        return _flat(str(error))
    return None


def _instantiation(error: InstantiationException, config_name: str) -> str:
    """`instantiate` wraps what a class says of its arguments."""
    cause = error.__cause__
    if cause is None:
        return _flat(str(error))
    if isinstance(cause, Exception) and (line := one_line(cause, config_name)):
        return line
    head, _, tail = str(error).partition("\n")
    where = tail.rpartition("full_key: ")[2]
    what = str(cause) if isinstance(cause, ValueError | TypeError) else f"{type(cause).__name__}: {cause}"
    return _flat(f"{where}: {what} ({head.rstrip(':')})")


def _mistyped_key(key: str, config_name: str) -> str:
    matches = difflib.get_close_matches(key, _known_keys(config_name), n=3)
    last = key.rpartition(".")[2]
    if not matches:  # the right key in the wrong place: lr for optimizer.lr
        matches = [known for known in _known_keys(config_name) if known.rpartition(".")[2] == last]
    hint = f" Did you mean {' or '.join(matches[:3])}?" if matches else " See --help for the keys that there are."
    return f"there is no key {key}.{hint}"


def _known_keys(config_name: str) -> list[str]:
    """Each key of the config, dotted, with the choices of the command line where they compose."""
    choices = [word for word in sys.argv[1:] if "=" in word and (CONFIGS / word.partition("=")[0]).is_dir()]
    for overrides in (choices, []):
        try:
            with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
                return _flatten(compose(config_name, overrides=overrides))
        except HydraException:
            continue
    return []


def _flatten(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            value = cfg[key]
            if isinstance(value, DictConfig):
                keys += _flatten(value, f"{prefix}{key}.")
    return keys


def check_numbers(cfg: DictConfig) -> None:
    """Finds `optimizer.lr=abc` before any training starts: what is a number in the config has to stay one.

    Raises:
        UserError: for an override that is no number, or a fraction where the config has a whole number.
    """
    words = HydraConfig.get().overrides.task
    groups = [word for word in words if (CONFIGS / word.partition("=")[0]).is_dir()]
    default = compose(HydraConfig.get().job.config_name, overrides=groups)
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key in NOT_ONLY_NUMBERS or word in groups or word.startswith(("+", "~")):
            continue
        expected, value = OmegaConf.select(default, key), OmegaConf.select(cfg, key)
        if not _is_number(expected) or value is None:
            continue
        if not _is_number(value):
            raise UserError(f"{key}={value}: not a number (the default is {key}={expected})")
        if isinstance(expected, int) and not isinstance(value, int):
            raise UserError(f"{key}={value}: not a whole number (the default is {key}={expected})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(text: str) -> str:
    return " ".join(text.split())
