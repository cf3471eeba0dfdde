"""What the project promises on the full MNIST: minutes, so it is marked slow."""

from pathlib import Path

import pytest
from conftest import Command

pytestmark = pytest.mark.slow


def test_defaults_reach_the_promised_accuracy(command: Command, mnist_root: Path) -> None:
    outcome = command("train", f"data.root={mnist_root}", "data.offline_fallback=false")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert record["dataset"] == "mnist"
    assert record["split_sizes"] == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert record["epochs"] == 15
    assert record["test/acc"] >= 0.992

    checkpoint = outcome.folder / "checkpoints" / "best.ckpt"
    evaluated = command("eval", f"ckpt_path={checkpoint}", f"data.root={mnist_root}")
    assert evaluated.code == 0, evaluated.err
    assert {name: evaluated.record[name] for name in record if name.startswith("test/")} == {
        name: value for name, value in record.items() if name.startswith("test/")
    }
    assert evaluated.record["confusion_matrix"] == record["confusion_matrix"]
