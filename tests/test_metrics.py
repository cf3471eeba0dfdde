"""The metric list: what an entry may say, and which value is the better one."""

import pytest
import torch

from digits.errors import UserError
from digits.metrics import (
    LOSS,
    MetricEntry,
    default_entries,
    direction_of,
    entries,
    logged,
    metric_collection,
    recorded,
)

TORCHMETRICS = "torchmetrics.classification.Multiclass"


def test_the_class_says_which_value_is_better() -> None:
    assert MetricEntry.of("ece", {"_target_": f"{TORCHMETRICS}CalibrationError"}).direction == "min"
    assert MetricEntry.of("mcc", {"_target_": f"{TORCHMETRICS}MatthewsCorrCoef"}).direction == "max"
    assert MetricEntry.of("mcc", {"_target_": f"{TORCHMETRICS}MatthewsCorrCoef", "direction": "min"}).direction == "min"


def test_an_entry_keeps_its_own_settings_from_the_class() -> None:
    settings = {
        "_target_": f"{TORCHMETRICS}Accuracy",
        "top_k": 3,
        "label": "top 3",
        "percent": True,
        "stages": ["test"],
    }
    one = MetricEntry.of("top3", settings)
    assert (one.label, one.percent, one.stages, one.text(0.98764)) == ("top 3", True, ("test",), "98.76%")
    assert one.metric == {"_target_": f"{TORCHMETRICS}Accuracy", "top_k": 3, "validate_args": False}
    assert set(metric_collection("test", 10, [one]).keys()) == {"test/top3", "test/confusion"}
    assert set(metric_collection("val", 10, [one]).keys()) == {"val/confusion"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("k", {"_target_": "nowhere.Metric"}, r"metrics.k._target_=nowhere.Metric: names nothing .*No module named"),
        ("k", {}, "metrics.k={}: names nothing that can be made .it has no _target_"),
        ("k", {"_target_": f"{TORCHMETRICS}ConfusionMatrix"}, "metrics.k.direction=null: give max or min"),
        ("k", {"_target_": f"{TORCHMETRICS}Accuracy", "direction": "up"}, "metrics.k.direction=up: give max or min"),
        (
            "k",
            {"_target_": f"{TORCHMETRICS}Accuracy", "stages": ["end"]},
            r"metrics.k.stages=\['end'\]: there are train",
        ),
        ("k", {"_target_": f"{TORCHMETRICS}Accuracy", "percent": "yes"}, "metrics.k.percent=yes: give true or false"),
        ("loss", {"_target_": f"{TORCHMETRICS}Accuracy"}, "metrics.loss: a reserved name"),
        ("a/b", {"_target_": f"{TORCHMETRICS}Accuracy"}, "metrics.a/b: a reserved name, or one with a slash"),
    ],
)
def test_what_no_entry_can_say_is_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MetricEntry.of(name, settings)


def test_a_record_gives_the_list_back() -> None:
    known = default_entries()
    facts = {"metrics": {one.name: one.facts for one in known}}
    assert [(one.name, one.facts) for one in recorded(facts)] == [(one.name, one.facts) for one in known]
    assert [one.name for one in recorded({})] == ["acc", "precision", "recall", "f1"]  # of a run before there was one


def test_directions() -> None:
    ece = MetricEntry.of("ece", {"_target_": f"{TORCHMETRICS}CalibrationError"})
    assert direction_of("val/ece", "scheduler", [ece]) == "min"
    assert direction_of("val/loss", "scheduler", []) == LOSS.direction == "min"
    with pytest.raises(UserError, match=r"scheduler.monitor=val/acc: there are train/loss, val/loss, val/ece"):
        direction_of("val/acc", "scheduler", [ece])
    assert list(logged(default_entries(), ["test"])) == [
        f"test/{name}" for name in ("loss", "acc", "precision", "recall", "f1")
    ]


def test_metrics_do_not_share_their_states() -> None:
    """Two agree on a first batch without an 8; torchmetrics would take them for one from then on."""
    blind = MetricEntry.of("a_no8", {"_target_": f"{TORCHMETRICS}Accuracy", "average": "micro", "ignore_index": 8})
    known = [blind, MetricEntry.of("acc", {"_target_": f"{TORCHMETRICS}Accuracy", "average": "micro"})]
    collection = metric_collection("val", 10, known)
    for target, preds in (([1, 2], [1, 2]), ([8, 8], [1, 8])):
        collection.update(torch.tensor(preds), torch.tensor(target))
    values = collection.compute()
    assert (values["val/acc"], values["val/a_no8"]) == (0.75, 1.0)


def test_accuracy_stays_in_the_list() -> None:
    with pytest.raises(UserError, match=r"metrics.acc=null: runs are compared by it"):
        entries({"acc": None})
    assert [one.name for one in entries({"acc": {"_target_": f"{TORCHMETRICS}Accuracy"}, "f1": None})] == ["acc"]
