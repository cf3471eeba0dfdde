"""python eval.py ckpt_path=...: the same report for a checkpoint as training gave."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, call
from sklearn.metrics import accuracy_score, log_loss

SMALL = ["data=mnist5k", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=20", "figures=false"]


def test_figures_equal_what_training_reported(trained: Path, command: Command) -> None:
    record = json.loads((trained / "metrics.json").read_text())
    outcome = command("eval", f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}", "trainer=cpu", "figures=true")
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
    trained = command("train", *SMALL, "trainer=cpu", f"trainer.precision={precision}")
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


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of two different little networks."""
    paths = []
    for seed, dropout in ((1, 0.5), (2, 0.1)):
        logs = tmp_path_factory.mktemp("member")
        assert call("train", *SMALL, f"seed={seed}", f"model.dropout={dropout}", f"log_dir={logs}") == 0
        paths += logs.glob("train/runs/*/checkpoints/best.ckpt")
    return paths


def test_ensemble_is_evaluated_beside_its_members(members: list[Path], command: Command) -> None:
    outcome = command("eval", f"ckpt_path=[{members[0]},{members[1]}]")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    mean = 0
    for path, found in zip(members, record["members"], strict=True):
        alone = json.loads((path.parents[1] / "metrics.json").read_text())
        assert found["ckpt_path"] == str(path)
        assert {name: found[name] for name in found if "/" in name} == {
            name: alone[name] for name in alone if name.startswith("test/")
        }
        predictions = np.load(path.parents[1] / "predictions.npz")
        mean = mean + predictions["probabilities"] / 2
        assert f"{alone['test/acc']:.2%}" in outcome.out
    assert record["test/acc"] == pytest.approx(accuracy_score(predictions["target"], mean.argmax(1)), abs=1e-6)
    assert record["test/loss"] == pytest.approx(log_loss(predictions["target"], mean), abs=1e-4)
    assert "mean of their probabilities" in outcome.out
    assert sum(map(sum, record["confusion_matrix"])) == 500


def test_ensemble_of_one_is_its_member(members: list[Path], command: Command) -> None:
    alone, listed = command("eval", f"ckpt_path={members[0]}"), command("eval", f"ckpt_path=[{members[0]}]")
    assert alone.record["test/acc"] == listed.record["test/acc"]
    assert "members" not in listed.record


def test_members_without_a_common_test_set_are_refused(members: list[Path], command: Command, tmp_path: Path) -> None:
    checkpoint = torch.load(members[1], weights_only=True)
    checkpoint["hyper_parameters"]["data"]["split_seed"] = 7
    torch.save(checkpoint, tmp_path / "other.ckpt")
    outcome = command("eval", f"ckpt_path=[{members[0]},{tmp_path / 'other.ckpt'}]")
    assert outcome.code == 1
    assert "data.split_seed is 0 for the one and 7 for the other" in outcome.err


def test_same_member_twice_is_refused(members: list[Path], command: Command) -> None:
    outcome = command("eval", f"ckpt_path=[{members[0]},{members[0]}]")
    assert outcome.code == 1
    assert "ckpt_path has the same checkpoint twice" in outcome.err


def test_evaluations_can_be_swept(members: list[Path], command: Command) -> None:
    outcome = command("eval", "-m", f"ckpt_path={members[0]},{members[1]}")
    assert outcome.code == 0, outcome.err
    records = [json.loads((outcome.folder / job / "metrics.json").read_text()) for job in "01"]
    assert [record["ckpt_path"] for record in records] == [str(path) for path in members]


def test_empty_ensemble_is_one_line(command: Command) -> None:
    outcome = command("eval", "ckpt_path=[]")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ckpt_path=[]: give a checkpoint or a run's folder")


def test_without_a_checkpoint_it_is_the_newest_run(command: Command) -> None:
    trained = command("train", *SMALL)
    for given in ([], [f"ckpt_path={trained.folder}"]):
        outcome = command("eval", *given)
        assert outcome.code == 0, outcome.err
        assert outcome.record["test/acc"] == trained.record["test/acc"]
        assert outcome.record["ckpt_path"] == str(trained.folder / "checkpoints" / "best.ckpt")


def test_without_a_mistake_there_is_no_picture_of_them(command: Command, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "eval" / "runs" / "again"
    folder.mkdir(parents=True)
    (folder / "misclassified.png").write_bytes(b"of an earlier test")
    one = ("trainer.limit_test_batches=1", "data.eval_batch_size=1", "figures=true", f"hydra.run.dir={folder}")
    outcome = command("eval", f"ckpt_path={trained}", *one)
    assert outcome.code == 0, outcome.err
    assert outcome.record["misclassification"]["errors"] == 0
    assert (folder / "confusion_matrix.png").exists()
    assert not (folder / "misclassified.png").exists()
