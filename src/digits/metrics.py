"""The metric list: every figure that a run logs, with its label, its class and its direction.

configs/metrics/default.yaml says what an entry may hold. A run's record keeps the list, so that whoever reads a run
knows its figures.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from digits.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric, MetricCollection

EVALUATION = ("val", "test")
STAGES = ("train", *EVALUATION)
OBJECTIVE = "val/acc"  # of sweeps and searches: the higher, the better


@dataclass(frozen=True)
class MetricEntry:
    """One line of the list."""

    name: str  # as in `val/acc`
    label: str  # for tables
    direction: Literal["min", "max"]  # whether the higher value is the better one (`max`) or the lower one (`min`)
    stages: tuple[str, ...] = EVALUATION  # that it is measured in
    percent: bool = False  # whether it is a share, to be shown in percent
    prominent: bool = True  # whether it is in the epochs' line and in the tables of runs
    metric: dict[str, Any] = field(default_factory=dict)  # `_target_` and arguments of its class; the loss has none

    @classmethod
    def of(cls, name: str, settings: Any) -> Self:
        """An entry from its config.

        Raises:
            UserError: for a value that no entry can have, or a class that does not say which value is the better one.
        """
        from digits.targets import parameters_of, target_of

        kind = target_of(f"metrics.{name}", settings)
        rest = dict(settings)
        known: dict[Any, str] = {True: "max", False: "min"}
        direction: Any = rest.pop("direction", None) or known.get(getattr(kind, "higher_is_better", None))
        stages = rest.pop("stages", None) or EVALUATION
        shown = {key: rest.pop(key, default) for key, default in (("percent", False), ("prominent", True))}
        label = str(rest.pop("label", None) or name)
        problem = ""
        if direction not in ("min", "max"):
            problem = f"direction={direction or 'null'}: give max or min, whichever is the better value"
        elif not set(stages) <= set(STAGES):
            problem = f"stages={list(stages)}: there are {', '.join(STAGES)}"
        elif wrong := [key for key, value in shown.items() if not isinstance(value, bool)]:
            problem = f"{wrong[0]}={shown[wrong[0]]}: give true or false"
        if problem or name in (LOSS.name, "confusion") or "/" in name:
            raise UserError(f"metrics.{name}{f'.{problem}' if problem else ': a reserved name, or one with a slash'}")
        takes = parameters_of(kind)
        if "validate_args" in takes:
            rest.setdefault("validate_args", False)
        return cls(name, label, direction, tuple(stages), **shown, metric=rest)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {key: value for key, value in vars(self).items() if key not in ("name", "metric")}

    def text(self, value: float) -> str:
        """A value for people."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"


LOSS = MetricEntry("loss", "loss", "min", stages=STAGES)


def entries(metrics: Mapping[str, Any]) -> list[MetricEntry]:
    """The entries of the config group `metrics`, plain or not; one that is null is left out. Raises as `of`."""
    if not metrics.get("acc"):
        raise UserError("metrics.acc=null: runs are compared by it. Leave it in, and add others")
    return [MetricEntry.of(str(name), settings) for name, settings in metrics.items() if settings]


@functools.cache
def default_entries() -> tuple[MetricEntry, ...]:
    """Those of every run."""
    from omegaconf import OmegaConf

    from digits.overrides import CONFIGS

    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "metrics" / "default.yaml"))
    return tuple(entries(defaults))


def recorded(facts: Mapping[str, Any]) -> list[MetricEntry]:
    """The entries of a run's record, without their classes."""
    known = facts.get("metrics") or {entry.name: entry.facts for entry in default_entries()}
    return [MetricEntry(name, **{**one, "stages": tuple(one["stages"])}) for name, one in known.items()]


def logged(known: Iterable[MetricEntry], stages: Sequence[str] = ("train", "val")) -> dict[str, MetricEntry]:
    """The figures that a run logs in these stages, by name such as `val/acc`; by default what it can choose by."""
    return {f"{stage}/{one.name}": one for stage in stages for one in (LOSS, *known) if stage in one.stages}


def direction_of(monitor: str, key: str, known: Iterable[MetricEntry]) -> Literal["min", "max"]:
    """Which value of a logged figure is the better one.

    Args:
        monitor: its name, such as `val/loss`.
        key: of the config that watches it, to name it in the error.
        known: the run's metric list.

    Raises:
        UserError: for a name that the run does not log.
    """
    figures = logged(known)
    if monitor not in figures:
        raise UserError(f"{key}.monitor={monitor}: there are {', '.join(figures)}")
    return figures[monitor].direction


def metric_collection(stage: str, num_classes: int, known: Iterable[MetricEntry]) -> "MetricCollection":
    """The list's metrics for a stage, under their logged names, and outside of training the confusion matrix."""
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassConfusionMatrix

    from digits.targets import make, parameters_of, target_of

    metrics: dict[str, Metric | MetricCollection] = {}
    for one in known:
        if stage in one.stages:
            takes = parameters_of(target_of(f"metrics.{one.name}", one.metric))
            classes = {"num_classes": num_classes} if "num_classes" in takes else {}
            metrics[one.name] = make(classes | one.metric)
    if stage in EVALUATION:
        metrics["confusion"] = MulticlassConfusionMatrix(num_classes, validate_args=False)
    # Each for itself: torchmetrics would merge those whose states agree after the first batch, as they may by chance.
    return MetricCollection(metrics, prefix=f"{stage}/", compute_groups=False)


def plain(metrics: "Mapping[str, Tensor | float]") -> dict[str, float]:
    """Metrics as plain numbers, each the shortest that is the same float32: 0.9899, not 0.9898999929428101."""
    import numpy as np

    return {name: float(str(np.float32(float(value)))) for name, value in metrics.items()}
