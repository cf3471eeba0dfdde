"""Hydra's overrides: what the command line gives, and what may be wrong with it."""

import difflib
import functools
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field

from digits.errors import UserError
from digits.targets import parameters_of, target_of
from digits.validation import FilePath, Name, Names, Seed, Settings, as_typed, problem_of

PACKAGE = Path(__file__).parent
# A number in the config that may be overridden with something else: devices=auto, devices=[1] for the second GPU,
# a size that is a share, pixel statistics to be computed or given for each channel, images of their own size.
ANY_KIND = {
    "trust",
    "teacher",
    "trainer.devices",
    "data.val_size",
    "data.test_size",
    "data.mean",
    "data.std",
    "data.image_size",
}
# Read only beside another key that is given: without it, an override would change nothing.
READ_BESIDE = {"distillation": "teacher", "tta_below": "tta", "submission_header": "submission"}
AT_LEAST_ONE = ("trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches")
# Groups of which none can be chosen.
OPTIONAL_GROUPS = ("experiment", "hparams_search", "debug")
# Of the groups that are one class each: settings that the class does not get.
READ_BY_BUILD: dict[str, set[str]] = {
    "data": set(),
    "model": set(),
    "loss": set(),
    "augmentation": set(),
    "mixing": set(),
    "optimizer": {"_partial_", "groups", "no_decay"},
    "scheduler": {"_partial_", "interval", "frequency", "monitor", "warmup"},
}
OUR_DATA = "digits.data.module.DigitsDataModule"  # by name, as to import it takes seconds
SLURM_LAUNCHERS = ("slurm", "submitit_slurm")
# What somebody may have meant by an argument that is no override.
EXAMPLES = {
    **dict.fromkeys(("predict", "explain"), "images={}"),
    **dict.fromkeys(("eval", "export", "demo", "label_errors", "robustness"), "ckpt_path={}"),
    "explore": "data={}",
}
NAME = re.compile(r"[\w.+-]{1,60}")  # of a run: it becomes part of its folder's
FLAGS_WITH_VALUES = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
)
# In an override's value: what is quoted already, or an item with letters that Hydra's grammar does not know.
QUOTED_OR_FOREIGN = re.compile(
    r"""(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<item>[^,\[\]{}'"]*[^\x00-\x7F][^,\[\]{}'"]*)"""
)


def project_file(name: str) -> Path:
    """A file or folder of the project's top level; a wheel carries it inside the package."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parents[1] / name


CONFIGS = project_file("configs")


def quoted(value: str) -> str:
    """A value as Hydra's overrides take it, whatever is in it."""
    # Hydra's grammar reads a backslash as an escape only in front of a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value) + "'"


def quote_foreign_letters(argument: str) -> str:
    """Quotes the values with letters outside ASCII, such as `images=Größe.png`, which Hydra's grammar does not know."""
    key, equals, value = argument.partition("=")
    if argument.isascii() or not equals or value.startswith("{"):
        return argument
    replaced = QUOTED_OR_FOREIGN.sub(lambda found: found["quoted"] or quoted(found["item"].strip()), value)
    return f"{key}={replaced}"


def flags_first(arguments: Iterable[str]) -> list[str]:
    """Hydra's flags, with their values, in front of the overrides: it does not know them between those."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in FLAGS_WITH_VALUES and (value := next(rest, None)) is not None:
            flags += [argument, value]
        else:
            (flags if argument.startswith("-") else overrides).append(argument)
    return [*flags, *overrides]


def given_values(arguments: Iterable[str], key: str) -> list[str]:
    """What a command line gives for a key, parsed."""
    chosen = [argument for argument in arguments if argument.lstrip("+").startswith(f"{key}=")]
    return [str(override.value()) for override in OverridesParser.create().parse_overrides(chosen)]


def log_dir(arguments: Sequence[str]) -> str:
    """Where a command line has its results written."""
    return ["logs", *given_values(arguments, "log_dir")][-1]


def sweep_overrides(arguments: Iterable[str]) -> list[Override]:
    """Those of the overrides that give several values; none where they do not parse."""
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in arguments if not word.startswith("-")])
    except HydraException:
        return []
    return [override for override in parsed if override.is_sweep_override()]


def is_group(key: str) -> bool:
    return bool(key) and (CONFIGS / key).is_dir()


def name_in_folder(name: object) -> str:
    """A run's name as part of its folder's; nothing where there is none.

    Raises:
        UserError: for a name that could lead elsewhere, or has to be quoted in a shell.
    """
    if name is not None and not NAME.fullmatch(str(name)):
        raise UserError(f"name={name}: a folder is named by it. Give 1 to 60 letters, digits and . _ + -")
    return "" if name is None else f"{name}_"


def choices_of(group: str) -> list[str]:
    """The files that a group has in configs/."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def check_arguments(arguments: Sequence[str], config_name: str) -> None:
    """Refuses what Hydra would accept to the user's surprise, or explain in terms of its parser.

    Raises:
        UserError: naming the argument.
    """
    flags = any(argument.startswith("-") for argument in arguments)
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if problem := _problem(argument, following, flags, config_name):
            raise UserError(f"{argument}: {problem}")


def _problem(argument: str, following: str, flags: bool, config_name: str) -> str | None:
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or (not equals and argument.startswith("~")):
        return None
    if argument.endswith(",") and following:
        return f"several values go without blanks between them: {argument}{following}"
    if not equals:
        example = EXAMPLES.get(config_name, "seed=2").format(argument)
        return None if flags else f"give key=value, such as {example}"
    if key == "log_dir" and value in ("", "null"):
        return "give a folder; the default is log_dir=logs"
    if key == "log_dir" and sweep_overrides([argument]):
        return "a sweep has one log_dir. A comma in its name needs quotes: 'log_dir=\"...\"'"
    if key == "hydra.sweep.subdir" and "hydra.job." not in value:
        return "the jobs of a sweep need a folder each; leave it as it is"
    if key == "hydra/launcher" and value in SLURM_LAUNCHERS and not shutil.which("srun"):
        return "this machine has no SLURM (srun is not there). hydra/launcher=joblib runs on this machine"
    if value == "null" and is_group(key) and key not in OPTIONAL_GROUPS:
        none = f"give {key}=[] for none. " if key in ("callbacks", "logger") else ""
        return f"{none}There are: {', '.join(choices_of(key))}"
    return None


def job_overrides() -> list[str]:
    """The overrides of the job that Hydra runs, as they were given: interpolations stay what they are."""
    return list(OmegaConf.to_container(HydraConfig.get().overrides)["task"])  # type: ignore[call-overload, index]


def adopt_targets(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Where a `_target_` was overridden, removes the chosen file's settings that the other class does not take.

    `optimizer._target_=torch.optim.NAdam` is not to fail for want of a parameter `fused`. What was typed stays.
    """
    typed = [override.partition("=")[0].lstrip("+") for override in overrides]
    for group in READ_BY_BUILD.keys() & {key.removesuffix("._target_") for key in typed if key.endswith("._target_")}:
        part = OmegaConf.select(cfg, group)
        kind = target_of(group, part)
        if any(f"{base.__module__}.{base.__qualname__}" == OUR_DATA for base in getattr(kind, "__mro__", ())):
            continue  # it checks its settings itself
        takes = {*parameters_of(kind), "_target_", *READ_BY_BUILD[group]}
        takes |= {key.split(".")[1] for key in typed if key.startswith(f"{group}.")}
        with open_dict(part):
            for key in [key for key in part if key not in takes]:
                del part[key]


def check_job(cfg: DictConfig) -> None:
    """Refuses `optimizer.lr=abc` and `+loss=focal` before any training starts.

    A number, a list, true or false has to stay one, and a key at the top has to be one that somebody reads.

    Raises:
        UserError: naming the override.
    """
    name_in_folder(cfg.get("name"))
    if problem := _job_problem(cfg):
        raise UserError(problem)


class _Untold(Settings, extra="ignore"):
    """Keys whose default does not tell what else they may hold."""

    seed: Seed = 0
    pretrained: FilePath | None = None
    teacher: Names = Field([])
    freeze: list[Name] = Field([])
    tags: list[Name] = Field([])
    compile: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = None


@functools.cache  # to compose takes a tenth of a second: the jobs of a sweep often share it
def _default(config_name: str, chosen: tuple[str, ...], sources: tuple[str, ...]) -> DictConfig:
    """The config with only these choices of groups, from the folders `sources`. Not to be changed."""
    return compose(config_name, overrides=[*chosen])


def _job_problem(cfg: DictConfig) -> str | None:
    overrides = job_overrides()
    chosen = [override for override in overrides if is_group(override.partition("=")[0])]
    sources = tuple(source.path for source in HydraConfig.get().runtime.config_sources)
    default = _default(HydraConfig.get().job.config_name, tuple(chosen), sources)
    for name in map(str, default.keys() - cfg.keys()):
        return f"~{name}: {name} is needed. Choose another ({name}=...), or remove a key inside it"
    for name in map(str, cfg.keys() - default.keys()):
        return f"+{name}: nothing reads this key.{nearest(name, known_keys(default))}"
    keys = [override.partition("=")[0].lstrip("+") for override in overrides if override not in chosen]
    if kinds := [problem for key in keys if key[0] != "~" and (problem := _kind_problem(key, default, cfg))]:
        return kinds[0]
    for key in keys:
        beside = READ_BESIDE.get(key.partition(".")[0])
        if beside and not cfg.get(beside):
            return f"{key}: is read only beside {beside}=, which is not given"
    if zeros := [key for key in AT_LEAST_ONE if OmegaConf.select(cfg, key) == 0]:
        return f"{zeros[0]}=0: give 1 or more"
    return problem_of(_Untold, OmegaConf.to_container(cfg), "")


def _kind_problem(key: str, default: DictConfig, cfg: DictConfig) -> str | None:
    expected, value = (_plain(OmegaConf.select(config, key)) for config in (default, cfg))
    kind = type(expected)
    if kind not in (bool, int, float, list, dict) or key in ANY_KIND:
        return None
    if value is None and (kind is dict or (key.startswith("trainer.") and kind is not bool)):
        return None  # it leaves a callback or a metric out; of Lightning's numbers it is the default
    if key == "trainer.fast_dev_run" and not isinstance(value, bool):
        kind = int  # how many batches
    problem = problem_of(kind, value, key, strict=True)
    return problem and f"{problem} (the default is {key}={as_typed(expected)})"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at what may have been meant: the name elsewhere (`lr`, `epochs`), else the one that looks most like it."""
    last = [(key, key.rpartition(".")[2]) for key in known]
    elsewhere = [key for key, end in last if end == name] or [key for key, end in last if end.endswith(f"_{name}")]
    matches = elsewhere or difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def keys_of(config_name: str, arguments: Sequence[str]) -> list[str]:
    """Each key of a config, dotted, with the choices of the command line where they compose."""
    chosen = [argument for argument in arguments if is_group(argument.partition("=")[0])]
    for overrides in (chosen, []):
        try:
            with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
                return known_keys(compose(config_name, overrides=overrides))
        except HydraException:
            continue
    return []


def known_keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Each key, dotted."""
    keys = []
    for key in map(str, cfg):
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            value = cfg[key]
            if isinstance(value, DictConfig):
                keys += known_keys(value, f"{prefix}{key}.")
    return keys
