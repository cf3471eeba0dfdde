"""What sets runs apart: where their resolved configs differ, in as few columns as tell them apart."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from digits.validation import as_typed

# Where a run is and what it writes, not what is trained.
NOT_COMPARED = re.compile(
    r"(name|tags|log_dir|trust|teacher|resume|resume_sweep|figures|checkpoint_every_seconds|hparams_search|data\.root"
    r"|trainer\.(enable_progress_bar|enable_model_summary|log_every_n_steps|profiler)"
    r"|callbacks\.(advice|data_figures|history|last_checkpoint|model_card|pruning|test_report)\b.*"
    r"|metrics\b.*|callbacks\.best_checkpoint\.(dirpath|filename|save_top_k)|logger\b.*|hydra\b.*)$"
)
REPEATED = {"seed": "seeds", "data.fold": "folds"}  # means are taken over these
FOUND = {"optimizer.lr": "find_lr", "data.batch_size": "find_batch_size"}  # each seed may find another value
COPIES = {"data.seed": "seed"}  # one interpolates the other in configs/
MISSING = "–"


def flat(config: Mapping[Any, Any]) -> dict[str, Any]:
    """A config's values by dotted key."""
    plain = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    return dict(_flatten(plain))


def _flatten(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a resolved config's values, by dotted key, that bear on the result; without seed and fold."""
    found = {key: "found" for key, switch in FOUND.items() if values.get(switch) is True}
    settings = {key: found.get(key, value) for key, value in values.items()}
    for copy, original in COPIES.items():
        if values.get(copy) == values.get(original):
            settings.pop(copy, None)
    return {key: value for key, value in settings.items() if not NOT_COMPARED.match(key) and key not in REPEATED}


class Differences:
    """The columns that tell runs apart: runs of different settings have different values in at least one of them.

    A choice that was typed (`optimizer=sgd`), or else a class, stands for the keys below it that follow from it. A key
    that was typed itself is always a column.

    Args:
        settings: of each run, as `settings_of` has them.
        overrides: of each run, the values that were typed, by key.
        datasets: of each run, what its images are. It stands for keys too, but is no column here.

    Attributes:
        columns: by name, the value of each run.
        stands_for: by a column's name, the other keys that differ and follow from it.
    """

    def __init__(
        self, settings: Sequence[Mapping[str, Any]], overrides: Sequence[Mapping[str, str]], datasets: Sequence[str]
    ) -> None:
        self.columns: dict[str, list[str]] = {}
        self.stands_for: dict[str, list[str]] = {}
        self._settings, self._overrides = settings, overrides
        keys = list(dict.fromkeys(key for run in settings for key in run))
        typed = list(dict.fromkeys(key for run in overrides for key in run))
        self._values = {key: [repr(run[key]) if key in run else "" for run in settings] for key in keys}
        self._told = {key for key, values in self._values.items() if len(set(values)) == 1}
        self._alone = {key for key in typed if key != "data.dataset"}

        self._add("data set", datasets, "data.")
        self.columns.pop("data set", None)
        for choice in (key for key in typed if key not in keys):
            scope = f"{choice}." if any(key.startswith(f"{choice}.") for key in keys) else ""  # such as an experiment
            self._add(choice, self._choices(choice, scope), scope)
        for key in keys:
            if key.endswith("._target_") and key not in self._told:
                group = key.removesuffix("._target_")
                self._add(group, self._classes(key), f"{group}.")
        for key in keys:
            if key not in self._told:
                self.columns[key] = [as_typed(run[key]) if key in run else MISSING for run in settings]
        self.columns = {
            name: self.columns[name] for name in dict.fromkeys([*typed, *self.columns]) if name in self.columns
        }

    def _add(self, name: str, labels: Sequence[str], scope: str) -> None:
        """Makes labels a column, if one of the keys in their scope follows from them."""
        untold = [key for key in self._below(scope) if key not in self._told]
        count = len(set(labels))
        follow = [key for key in untold if len(set(zip(labels, self._values[key], strict=True))) == count]
        target = f"{scope}_target_"
        if not follow or (target in untold and target not in follow):  # the same word, but another class
            return
        self._told.update(follow)
        self.columns[name] = list(labels)
        self.stands_for[name] = [key.removeprefix(scope) for key in follow if key != target]

    def _below(self, scope: str) -> list[str]:
        return [key for key in self._values if key.startswith(scope) and key not in self._alone]

    def _choices(self, group: str, scope: str) -> list[str]:
        """The word typed for each run; else that of a run with the same values, else the name of its class."""
        below = [self._values[key] for key in self._below(scope)]
        same = [tuple(values[number] for values in below) for number in range(len(self._settings))]
        words: dict[tuple, str] = {}
        for run, values in zip(self._overrides, same, strict=True):
            if group in run:
                words.setdefault(values, run[group])
        target = f"{scope}_target_"
        differs = target in self._values and target not in self._told
        others = self._classes(target) if differs else ["default"] * len(same)
        return [words.get(values, other) for values, other in zip(same, others, strict=True)]

    def _classes(self, target: str) -> list[str]:
        return [str(run[target]).rpartition(".")[2] if target in run else MISSING for run in self._settings]
