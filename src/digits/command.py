"""The way in from the command line: Hydra's main, with errors of one line instead of tracebacks."""

import difflib
import functools
import io
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digits.errors import Pruned, UserError
from digits.runs import processes, sweeps
from digits.runs.remembered import CONFIGS

# Set by command along with HYDRA_FULL_ERROR, and inherited by the processes that a run starts.
ONE_LINE_ERRORS = "DIGITS_ONE_LINE_ERRORS"
FULL_ERRORS = os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE_ERRORS not in os.environ
# A number in the config that may be overridden with something else: devices=auto, devices=[1] for the second GPU,
# a size that is a share, pixel statistics to be computed or given for each channel, images of their own size.
ANY_KIND = {"trainer.devices", "data.val_size", "data.test_size", "data.mean", "data.std", "data.image_size"}
AT_LEAST_ONE = ("trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches")
MAY_BE_MADE = ("digits", "torch", "torchvision", "lightning", "torchmetrics", "kornia", "optuna")
# What these libraries have classes of that a config may name.
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
)
# Launchers of packages that only some need.
EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
# What somebody may have meant by a word alone.
EXAMPLES = {
    **dict.fromkeys(("predict", "explain"), "images={}"),
    **dict.fromkeys(("eval", "export", "demo"), "ckpt_path={}"),
}
WHOLE, NUMBER, LIST, SWITCH = "a whole number", "a number", "a list", "true or false"

log = logging.getLogger(__name__)

# Tells runs apart that start in the same second.
OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)


class JobFailed(Exception):
    """A job of a sweep failed and has said why: the sweep goes on, and its exit code will tell."""


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a task on a config into a command: `hydra.main` over `configs/`.

    An error that the user can put right ends the command with one line and exit code 1; any other keeps its
    traceback, and HYDRA_FULL_ERROR=1 shows all of them. In a sweep the other jobs go on, and a summary ends it.

    Args:
        config_name: the primary config, without `.yaml`.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                try:
                    with processes.alone_in_its_environment():
                        return task(cfg)
                except Exception as error:
                    if FULL_ERRORS:
                        raise
                    _exit(error, config_name)  # at once: Hydra would add a line of its own
            before = sweeps.begun_before(cfg)
            if before.get("status") == "completed":
                log.info("done before: %s", HydraConfig.get().runtime.output_dir)
                return before.get("val/acc")
            sweeps.go_on(cfg, before)
            try:
                processes.refuse_sweep_in_many()
                with processes.alone_in_its_environment():
                    return task(cfg)
            except Pruned as pruned:
                log.info("%s", pruned)
                return None
            except Exception as error:
                line = one_line(error, config_name)
                if line is None or FULL_ERRORS:
                    traceback.print_exception(error)
                line = line or f"{type(error).__name__}: {error}"
                print(f"error in {HydraConfig.get().runtime.output_dir}: {line}", file=sys.stderr)
                raise JobFailed(line) from None  # the sweep goes on with its next job, and Hydra raises this at its end

        command = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)

        @functools.wraps(task)
        def main() -> None:
            _survive_any_output()
            before, environment = sys.argv, dict(os.environ)
            sweeps.SweepFolder.current = None
            # Under `uv run`, Ray would copy the project for its jobs and build their environment anew, without extras.
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            try:
                sys.argv = [sys.argv[0], *_words(sys.argv[1:], config_name)]
                if not FULL_ERRORS:
                    # Has Hydra hand its errors on.
                    os.environ |= {"HYDRA_FULL_ERROR": "1", ONE_LINE_ERRORS: "1"}
                command()
            except KeyboardInterrupt:
                sys.exit(130)
            except JobFailed:
                sys.exit(1)
            except BrokenPipeError:  # by `train.py --help | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush it once more
            except Exception as error:
                if FULL_ERRORS:
                    raise
                # A task's own errors ended above: this one is about the command line, in whatever words of Hydra's.
                reason = f"{type(error).__name__}: {_flat(str(error))} (HYDRA_FULL_ERROR=1 shows where)"
                _exit(error if one_line(error, config_name) else UserError(reason), config_name)
            finally:
                sys.argv = before
                processes.restore(environment)
                sweeps.summarise()

        return main

    return decorate


def _words(words: list[str], config_name: str) -> list[str]:
    """The command line to run, where that is not the one that was given.

    Raises:
        UserError: for a combination that cannot work.
    """
    if {"-m", "--multirun"} & set(words):
        processes.refuse_sweep_in_many()
        # Hydra knows it in front of the overrides, or behind them, but not between them.
        words = ["--multirun", *(word for word in words if word not in ("-m", "--multirun"))]
    _check_words(words, config_name)
    given = (word.lstrip("+").partition("=") for word in words if config_name == "train")
    asked = {key: value.strip("'\"") for key, _, value in given if value != "null"}
    if "resume" in asked and ("resume_sweep" in asked or "--multirun" in words):
        raise UserError(
            f"resume={asked['resume']}: goes on with one run. A sweep goes on with resume_sweep=<its folder>"
        )
    # Of several processes that torchrun or SLURM started, each finds the run by itself.
    if "resume" in asked and not processes.started_by_lightning():
        words = sweeps.resumed_run_words(words, asked["resume"])
    single = config_name == "train" and not asked.keys() & {"resume", "resume_sweep"} and "--multirun" not in words
    if single and (requeued := sweeps.requeued_run(words)):
        words = sweeps.resumed_run_words([], str(requeued))
    if processes.is_secondary():
        return processes.secondary_words(words)
    return sweeps.resumed_words(words, asked["resume_sweep"]) if "resume_sweep" in asked else words


def _check_words(words: list[str], config_name: str) -> None:
    """Refuses what Hydra would take, or not understand, to the surprise of whoever typed it.

    Raises:
        UserError: naming the word.
    """
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~") and not any(other.startswith("-") for other in words):
            raise UserError(f"{word}: give key=value, such as {EXAMPLES.get(config_name, 'seed=2').format(word)}")
        if not equals:
            continue
        if key == "log_dir" and value in ("", "null"):
            raise UserError(f"{word}: give a folder; the default is log_dir=logs")
        if key == "log_dir" and OverridesParser.create().parse_override(word).is_sweep_override():
            raise UserError(f"{word}: a sweep has one log_dir. A comma in its name needs quotes: 'log_dir=\"...\"'")
        if key == "hydra.sweep.subdir" and "hydra.job." not in value and not processes.started_by_lightning():
            raise UserError(f"{word}: the jobs of a sweep need a folder each; leave it as it is")
        if value == "null" and (CONFIGS / key).is_dir() and key not in ("experiment", "hparams_search", "debug"):
            none = f"give {key}=[] for none. " if key in ("callbacks", "logger") else ""
            raise UserError(f"{word}: {none}There are: {', '.join(_files(key))}")


def _survive_any_output() -> None:
    """A terminal without × and →, a closed or a broken pipe must not cost a run or its report."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - open as long as the process lives
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False  # by `train.py | head`: the log file has the rest


def _exit(error: Exception, config_name: str) -> NoReturn:
    line = str(error) if isinstance(error, Pruned) else one_line(error, config_name)
    if line is None:
        traceback.print_exception(error)
    elif processes.is_secondary():
        processes.leave(line)
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


def one_line(error: BaseException, config_name: str) -> str | None:
    """An error that the user can put right, in one line; None for any other."""
    match error:
        case UserError():
            return str(error)
        case InstantiationException():
            return _instantiation(error, config_name)
        case MissingConfigException() if error.missing_cfg_file:
            return _mistyped_choice(error.missing_cfg_file, error.options)
        case ConfigCompositionException() if "Ambiguous value" in str(error):
            return f"{_flat(str(error)).partition(' 1. ')[0]}: several values. -m in front runs each of them"
        case ConfigCompositionException() if config_name == "eval" and "No match in the defaults" in str(error):
            return f"{_flat(str(error)).partition('. ')[0]}: a checkpoint brings its own. Data: data.dataset=..."
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return _mistyped_key(cause.full_key, config_name)
        case RuntimeError() if "remote worker" in str(error) or type(error).__name__ == "DistBackendError":
            return "another process of this run died; its own output says why. Go on with resume=<the run's folder>"
        case MissingMandatoryValue():
            return f"{error.full_key} is not set: give {error.full_key}=..."
        case OverrideParseException():
            return f"{_flat(str(error))} (a value with = , [ or a space needs quotes: 'key=\"value\"')"
        case HydraException():
            return _flat(str(error))
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        case OmegaConfBaseException():
            return f"{_flat(str(error).partition('    full_key:')[0])} (in {error.full_key})"
    # By name: importing Lightning or W&B would take seconds.
    if type(error).__name__ in ("MisconfigurationException", "UsageError"):
        return _flat(str(error))
    if "Could not detect" in str(error):  # submitit's
        return f"{_flat(str(error))} hydra/launcher=joblib runs on this machine"
    return None


def _instantiation(error: InstantiationException, config_name: str) -> str:
    """`instantiate` wraps what a class says of its arguments."""
    cause = error.__cause__
    if cause is None:
        return _flat(str(error))
    if line := one_line(cause, config_name):
        return line
    for extra in ("wandb", "mlflow"):
        if isinstance(cause, ImportError) and extra in str(cause):
            return f"logger={extra} needs a package: uv sync --extra {extra}, or pip install -e '.[{extra}]'"
    what = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
    target = str(error).partition("\n")[0].removeprefix("Error in call to target ").rstrip(":").strip("'")
    return _flat(f"{what} (in {target})")


def _mistyped_choice(missing: str, options: Sequence[str] | None) -> str:
    group, _, choice = missing.rpartition("/")
    if extra := EXTRAS.get(choice):
        return f"{group}={choice} needs a package: uv sync --extra {extra}, or pip install -e '.[{extra}]'"
    # Hydra does not say which there are for one of several: logger=[tensorboard,cvs].
    options = options or _files(group)
    return f"there is no {group}={choice}.{_nearest(choice, options)} There are: {', '.join(options)}"


def _files(group: str) -> list[str]:
    """The choices that a group has in configs/."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _mistyped_key(key: str, config_name: str) -> str:
    known = _known_keys(config_name)
    if key in known:
        return f"{key}: not every choice of the sweep has this key. Sweep over those that have it"
    # The right name in the wrong place, lr for optimizer.lr, else the nearest name.
    elsewhere = [other for other in known if other.endswith(f".{key}")]
    hint = f" Did you mean {elsewhere[0]}?" if elsewhere else _nearest(key, known)
    return f"there is no key {key}.{hint or ' See --help for the keys that there are.'}"


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def _known_keys(config_name: str) -> list[str]:
    """Each key of the config, dotted, with the choices of the command line where they compose."""
    for overrides in (_choices(sys.argv[1:]), []):
        try:
            with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
                return _flatten(compose(config_name, overrides=overrides))
        except HydraException:
            continue
    return []


def check_targets(cfg: DictConfig) -> None:
    """What a config has made (`_target_`) is of a kind that an experiment is made of.

    A run's config.yaml may come from anywhere, and Hydra would call whatever it names. The object counts, not only its
    name (`torch.os.system` is none of torch's), and its kind: torch has classes that start any process.

    Raises:
        UserError: naming the key.
    """
    from hydra._internal.utils import _locate

    # As it stands, and resolved: ${oc.create:...} can hold a part that is not there yet.
    parts = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (False, True))
    for key, target in (found for part in parts for found in _targets(part)):
        found = None
        if str(target).partition(".")[0] in MAY_BE_MADE:
            try:
                found = _locate(str(target))
            except Exception:  # a module that is not there, or fails when it is imported: it says so when it is made
                continue
        if not _may_be_made(found):
            kinds = ", ".join(kind.rpartition(".")[2] for kind in KINDS)
            raise UserError(
                f"{key}={target}: may not be made here; what is of one of these kinds may, from"
                f" {', '.join(MAY_BE_MADE)}: {kinds}"
            )


def _may_be_made(found: Any) -> bool:
    home = str(getattr(found, "__module__", ""))
    if not isinstance(found, type):
        return home == "digits.augmentation" and callable(found)  # it puts modules together
    if home.partition(".")[0] not in MAY_BE_MADE:
        return False
    # By name: to import them all would take seconds.
    return any(f"{base.__module__}.{base.__qualname__}" in KINDS for base in found.__mro__)


def _targets(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        if key == "_target_":
            yield f"{prefix}{key}", value
        yield from _targets(value, f"{prefix}{key}.")


def _choices(words: Sequence[str]) -> list[str]:
    """The overrides that choose a file in a group, such as optimizer=sgd."""
    return [word for word in words if "=" in word and (CONFIGS / word.partition("=")[0]).is_dir()]


def _flatten(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        if not isinstance(key, str):
            continue
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            value = cfg[key]
            if isinstance(value, DictConfig):
                keys += _flatten(value, f"{prefix}{key}.")
    return keys


def check_overrides(cfg: DictConfig) -> None:
    """Finds `optimizer.lr=abc` before any training starts: a number, a list, true or false has to stay one.

    Raises:
        UserError: for an override of another kind than the default, or a seed out of range.
    """
    words = sweeps.job_overrides()
    choices = _choices(words)
    default = compose(HydraConfig.get().job.config_name, overrides=choices)
    for name in map(str, default.keys() - cfg.keys()):
        raise UserError(f"~{name}: {name} is needed. Choose another ({name}=...), or remove a key inside it")
    keys = [word.partition("=")[0].lstrip("+") for word in words if word not in choices]
    for key in keys:
        if key in ANY_KIND or key.startswith("~"):
            continue
        expected, value = OmegaConf.select(default, key), OmegaConf.select(cfg, key)
        kind = _kind(expected)
        fits = {kind}
        if kind == NUMBER or key == "trainer.fast_dev_run":  # 1 is a number too; and that switch may be a count
            fits.add(WHOLE)
        if value is None and key.startswith("trainer.") and kind != SWITCH:  # Lightning's default for several numbers
            continue
        if kind and _kind(value) not in fits:
            value = "null" if value is None else value
            raise UserError(f"{key}={value}: not {kind} (the default is {key}={str(expected).lower()})")
    for key in AT_LEAST_ONE:
        if OmegaConf.select(cfg, key) == 0:
            raise UserError(f"{key}=0: give 1 or more")
    if "seed" in cfg and not (_kind(cfg.seed) == WHOLE and 0 <= cfg.seed < 2**32):
        raise UserError(f"seed={cfg.seed}: a seed lies between 0 and {2**32 - 1}")


def _kind(value: Any) -> str | None:
    match value:
        case bool():
            return SWITCH
        case int():
            return WHOLE
        case float():
            return NUMBER
        case ListConfig():
            return LIST
    return None


def _flat(text: str) -> str:
    return " ".join(text.split())
