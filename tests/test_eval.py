"""python eval.py ckpt_path=...: the same report for a checkpoint as training gave."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Command


def test_figures_equal_what_training_reported(trained: Path, command: Command) -> None:
    record = json.loads((trained / "metrics.json").read_text())
    outcome = command("eval", f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}", "trainer=cpu")
    assert outcome.code == 0, outcome.err
    evaluated = outcome.record
    compared = [name for name in record if name.startswith("test/")]
    assert len(compared) == 5
    for name in [*compared, "confusion_matrix", "misclassification", "dataset", "split_sizes", "seed"]:
        assert evaluated[name] == record[name]
    assert evaluated["status"] == "completed"
    report = (trained / "train.log").read_text().partition("test set of mnist5k")[2].splitlines()[:25]
    for line in report[2:7]:
        assert line in outcome.out
    expected = {"confusion_matrix.png", "misclassified.png", "misclassified.csv", "metrics.json", "config.yaml"}
    assert expected <= {path.name for path in outcome.folder.iterdir()}
    for name in ("confusion_matrix.png", "misclassified.png", "misclassified.csv"):
        assert (outcome.folder / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_type_are_evaluated_as_in_training(precision: str, command: Command) -> None:
    trained = command("train", "data=mnist5k", "trainer=cpu", "trainer.max_epochs=1", f"trainer.precision={precision}")
    evaluated = command("eval", "trainer=cpu", f"ckpt_path={trained.folder / 'checkpoints' / 'best.ckpt'}")
    assert evaluated.code == 0, evaluated.err
    for name in ("test/loss", "test/acc", "confusion_matrix"):
        assert evaluated.record[name] == trained.record[name]


def test_does_not_depend_on_the_batch_size(trained: Path, command: Command) -> None:
    outcome = command("eval", f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}", "data.eval_batch_size=33")
    assert outcome.record["confusion_matrix"] == json.loads((trained / "metrics.json").read_text())["confusion_matrix"]


def test_sample_is_no_test_set_for_a_network_trained_on_mnist(trained: Path, command: Command, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["data"] |= {"dataset": "mnist", "test_size": None}
    torch.save(checkpoint, tmp_path / "mnist.ckpt")
    outcome = command("eval", f"ckpt_path={tmp_path / 'mnist.ckpt'}", "data.dataset=mnist5k")
    assert outcome.code == 1
    assert "all of mnist5k are training images of mnist" in outcome.err
    assert outcome.record["status"] == "failed"
    outcome = command(
        "eval", f"ckpt_path={tmp_path / 'mnist.ckpt'}", "data.offline_fallback=true", f"data.root={tmp_path / 'none'}"
    )
    assert outcome.code == 1
    assert "all of mnist5k are training images of mnist" in outcome.err
    # Nor may an unreachable MNIST bring the sample in by the back door.
    outcome = command("eval", f"ckpt_path={tmp_path / 'mnist.ckpt'}", f"data.root={tmp_path / 'none'}")
    assert outcome.code == 1
    assert "cannot be downloaded" in outcome.err


def test_network_trained_on_the_sample_can_be_tested_on_mnist(
    trained: Path, command: Command, mnist_root: Path
) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    outcome = command("eval", f"ckpt_path={path}", "data.dataset=mnist", f"data.root={mnist_root}")
    assert outcome.code == 0, outcome.err
    assert outcome.record["dataset"] == "mnist"
    assert sum(map(sum, outcome.record["confusion_matrix"])) == 10_000
    assert outcome.record["test/acc"] > 0.9
