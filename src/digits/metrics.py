"""The metric list: every figure that a run logs, with its label, its torchmetrics class and its direction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from digits.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import MetricCollection

EVALUATION = ("val", "test")
STAGES = ("train", *EVALUATION)


@dataclass(frozen=True)
class MetricEntry:
    """One line of the list.

    Args:
        name: as in `val/acc`.
        label: for tables.
        direction: whether the higher value is the better one (`max`) or the lower one (`min`).
        target: dotted name of a torchmetrics class that takes `num_classes`; None: the loss, which is no metric of it.
        stages: that it is measured in.
        arguments: of that class.
    """

    name: str
    label: str
    direction: Literal["min", "max"]
    target: str | None = None
    stages: tuple[str, ...] = EVALUATION
    arguments: dict[str, Any] = field(default_factory=dict)


MULTICLASS = "torchmetrics.classification.Multiclass"
LOSS = MetricEntry("loss", "loss", "min", stages=STAGES)
SCORES = (
    MetricEntry("acc", "accuracy", "max", f"{MULTICLASS}Accuracy", STAGES, {"average": "micro"}),
    MetricEntry("precision", "precision", "max", f"{MULTICLASS}Precision", arguments={"average": "weighted"}),
    MetricEntry("recall", "recall", "max", f"{MULTICLASS}Recall", arguments={"average": "weighted"}),
    MetricEntry("f1", "F1", "max", f"{MULTICLASS}F1Score", arguments={"average": "weighted"}),
)
METRICS = (LOSS, *SCORES)
# What a run can choose by: logged while it trains.
LOGGED = {f"{stage}/{one.name}": one for stage in ("train", "val") for one in METRICS if stage in one.stages}
OBJECTIVE = "val/acc"  # of sweeps and searches


def direction_of(monitor: str, key: str) -> Literal["min", "max"]:
    """Which value of a logged figure is the better one.

    Args:
        monitor: its name, such as `val/loss`.
        key: of the config that watches it, to name it in the error.

    Raises:
        UserError: for a name that no run logs.
    """
    if monitor not in LOGGED:
        raise UserError(f"{key}.monitor={monitor}: there are {', '.join(LOGGED)}")
    return LOGGED[monitor].direction


def metric_collection(stage: str, num_classes: int) -> "MetricCollection":
    """The list's torchmetrics for a stage, under their logged names, and outside of training the confusion matrix."""
    from hydra.utils import get_class
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassConfusionMatrix

    metrics = {
        one.name: get_class(one.target)(num_classes, validate_args=False, **one.arguments)
        for one in SCORES
        if stage in one.stages and one.target
    }
    if stage in EVALUATION:
        metrics["confusion"] = MulticlassConfusionMatrix(num_classes, validate_args=False)
    return MetricCollection(metrics, prefix=f"{stage}/")


def plain(metrics: "Mapping[str, Tensor | float]") -> dict[str, float]:
    """Metrics as plain numbers, each the shortest that is the same float32: 0.9899, not 0.9898999929428101."""
    import numpy as np

    return {name: float(str(np.float32(float(value)))) for name, value in metrics.items()}
