"""What the folder of a run or a sweep remembers.

It may come from anywhere: nothing in it is run, none of it is of another type than this project writes, and none of it
takes memory or time without end. What is not so counts as damaged.
"""

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException

CONFIGS = Path(__file__).parents[3] / "configs"
MOST_YAML_CHARACTERS, DEEPEST_YAML = 500_000, 50
JOBS = "hydra.sweeper.params."
OWN_CHOICES = re.compile(r"""[\w\s,()[\]'"*-]*""")  # without a path to other files, and nothing to be looked up
INSIDE = re.compile(r"([\w,=-]|\$\{hydra[:.][\w.]+\})+")  # of the sweep's folder
TEXT, NUMBER = (str, NoneType), (int, float, NoneType)
# The types of a record's facts; a name with a slash is a figure's.
FACT_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "started_at"), (str,)),
    **dict.fromkeys(("error", "data", "dataset", "device", "precision"), TEXT),
    **dict.fromkeys(("mlflow_run_id", "wandb_id", "slurm_job_id"), TEXT),
    **dict.fromkeys(("duration_seconds", "train_seconds", "seed", "epochs", "tested_epoch", "parameters"), NUMBER),
    **dict.fromkeys(("overrides", "resumed_at", "command"), (list,)),
    "split_sizes": (dict,),
}


def parse_record(text: str) -> dict[str, Any]:
    """The facts in a metrics.json.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        facts = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(facts, dict):
        raise ValueError(f"a {type(facts).__name__}, no facts")
    for name, value in facts.items():
        kinds = FACT_TYPES.get(name, NUMBER if "/" in name else (object,))
        if not isinstance(value, kinds) or (isinstance(value, list) and not _all_text(value, name)):
            raise ValueError(f"{name} is a {type(value).__name__}, or of such")
    return facts


def _all_text(values: list[Any], name: str) -> bool:
    return name not in FACT_TYPES or all(isinstance(value, str) and value for value in values)


def read_record(folder: Path) -> dict[str, Any]:
    """A run's facts so far; empty where there are none, or the file is damaged."""
    try:
        return parse_record((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_yaml(path: Path) -> Any:
    """The plain content of a YAML file that this project or Hydra wrote; interpolations stay what they are.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    text = path.read_text(encoding="utf-8")
    if len(text) > MOST_YAML_CHARACTERS:
        raise ValueError(f"more than {MOST_YAML_CHARACTERS:,} characters")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_YAML:  # small, it could still unfold without end
                raise ValueError("aliases, or nested too deep")
        return OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_config(path: Path) -> DictConfig:
    """As `read_yaml`, of keys with values."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"keys with values are expected, not a {type(content).__name__}")
    return OmegaConf.create(content)


def plain_dict(cfg: Any, resolve: bool = False) -> dict[str, Any]:
    """A config as plain types; interpolations stay what they are, unless they are to be resolved.

    Raises:
        ConfigTypeError: an OmegaConfBaseException, for one that is a list.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=resolve)
    if not isinstance(plain, dict):
        raise ConfigTypeError(f"keys with values are expected, not a {type(plain).__name__}")
    return plain


def experiment_words(words: Any) -> list[str]:
    """Of the overrides that a folder remembers, those about the experiment.

    Hydra would call what it finds under `hydra`, or in a file of somebody else's (`--config-dir=...`,
    `experiment=../../...`), before anybody looks.

    Raises:
        ValueError: for what is no list of overrides, or chooses a file that is none of configs/.
    """
    kept = []
    for word, override in _parsed(words):
        key, value = override.key_or_group, word.partition("=")[2]
        if key.startswith("hydra") or key in ("resume", "resume_sweep"):
            continue
        if override.package is not None:  # it may lead into hydra, too
            raise ValueError(f"{word}: for another place in the config")
        if (CONFIGS / key).is_dir() and not OWN_CHOICES.fullmatch(value):
            raise ValueError(f"{word}: no choice of {key}")
        kept.append(word)
    return kept


def sweep_words(words: Any) -> list[str]:
    """Of the overrides of Hydra that a sweep's folder remembers, those that say what its jobs are and where.

    Other settings of a launcher are to be given again: some of them are shell commands.

    Raises:
        ValueError: for what is no list of overrides.
    """
    kept = []
    for word, override in _parsed(words):
        key, value = override.key_or_group, word.partition("=")[2]
        if key.startswith(JOBS):  # further overrides of the jobs
            experiment_words([word.partition(JOBS)[2]])
        elif not (
            (key == "hydra/launcher" and value.isidentifier())
            or key == "hydra.launcher.n_jobs"
            or (key == "hydra.sweep.subdir" and INSIDE.fullmatch(value))
        ):
            continue
        kept.append(word)
    return kept


def _parsed(words: Any) -> list[tuple[str, Override]]:
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ValueError("no list of overrides")
    try:
        return list(zip(words, OverridesParser.create().parse_overrides(words), strict=True))
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error
