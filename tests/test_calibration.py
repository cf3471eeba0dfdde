"""Temperature and the figures of stated probabilities, against a network whose miscalibration is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from digits import load_classifier
from digits.calibration import BINS, at_bound, bins_of, figures_of, fit_temperature
from digits.checkpoints import Checkpoint, add_confidence
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.model_facts import TEMPERATURES


def drawn(scale: float, images: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets drawn with the probabilities that the logits divided by `scale` state."""
    generator = torch.Generator().manual_seed(0)
    honest = 3 * torch.randn(images, 10, generator=generator)
    return scale * honest, honest.softmax(dim=1).multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_a_known_miscalibration(scale: float) -> None:
    logits, target = drawn(scale)
    temperature = fit_temperature(logits, target)
    assert temperature == pytest.approx(scale, rel=0.03)
    assert not at_bound(temperature)
    assert figures_of((logits / temperature).softmax(dim=1), target)["ece"] < 0.01


def test_where_all_are_right_nothing_becomes_certain() -> None:
    target = torch.arange(500) % 10
    logits = 20 * torch.nn.functional.one_hot(target, 10).float()
    temperature = fit_temperature(logits, target)
    probability = (logits / temperature).softmax(dim=1).max().item()
    assert probability == pytest.approx(501 / 502, abs=1e-3)  # Platt's rule of succession
    assert fit_temperature(torch.randn(50, 1), torch.zeros(50, dtype=torch.int64)) == 1.0
    worthless = fit_temperature(1e6 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0)), target)
    assert worthless == pytest.approx(TEMPERATURES[1], rel=1e-2)
    assert at_bound(worthless)


def test_figures_are_those_of_other_libraries() -> None:
    logits, target = drawn(2.0, 3000)
    probabilities = logits.double().softmax(dim=1)
    found = figures_of(probabilities, target)
    plain = probabilities.numpy()
    assert found["nll"] == pytest.approx(log_loss(target, plain))
    assert found["brier"] == pytest.approx(brier_score_loss(target, plain, scale_by_half=False, labels=range(10)))
    assert found["ece"] == pytest.approx(MulticlassCalibrationError(10, BINS)(probabilities, target).item())
    bins = list(bins_of(plain, target.numpy()))
    assert sum(images for images, *_ in bins) == 3000
    by_hand = sum(images * abs(stated - right / images) for images, stated, right in bins) / 3000
    assert found["ece"] == pytest.approx(by_hand, abs=1e-6)


def test_training_keeps_the_temperature_and_answers_with_it(trained: Path, sample: DigitsDataModule) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    checkpoint = Checkpoint.open(path)
    images, target = sample.splits.val.images, sample.splits.val.target
    with torch.inference_mode():
        logits = checkpoint.network().eval()(sample.normalise(images / 255))
    assert checkpoint.temperature == pytest.approx(fit_temperature(logits, target), rel=1e-3)
    assert checkpoint.facts.temperature == checkpoint.temperature != 1
    expected = (logits / checkpoint.temperature).softmax(dim=1).numpy()
    for file in (path, trained / "mnist_cnn_model.pth"):
        assert load_classifier(file).probabilities(images.numpy()) == pytest.approx(expected, abs=1e-5)
    assert Checkpoint.open(trained / "checkpoints" / "last.ckpt").temperature is None  # a run resumes from it


def test_the_report_shows_both(trained: Path) -> None:
    log = (trained / "train.log").read_text()
    assert "calibrated: temperature" in log
    assert "fitted on 500 validation images" in log
    assert "calibration error (15 bins)" in log
    assert (trained / "reliability.png").exists()


def test_without_validation_it_says_so(command: Command) -> None:
    few = ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "trainer.limit_test_batches=1"]
    outcome = command("train", "data=mnist5k", "model=fast", "data.val_size=0", *few)
    assert outcome.code == 0, outcome.err
    assert "not calibrated: there is no validation" in outcome.out
    assert outcome.record["temperature"] is None
    assert list(outcome.record["confidence"]) == ["as trained"]
    assert Checkpoint.open(outcome.folder).facts.temperature == 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-300, float("nan"), float("inf"), "1", True, [1.0]])
def test_hostile_temperatures_are_refused(temperature: object, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["confidence"] = {"temperature": temperature}
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt: damaged: confidence\.temperature="):
        Checkpoint.open(tmp_path / "best.ckpt")


def test_older_checkpoints_open(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    del content["confidence"]
    torch.save(content, tmp_path / "best.ckpt")
    assert Checkpoint.open(tmp_path / "best.ckpt").facts.temperature == 1
    add_confidence(tmp_path / "best.ckpt", 2.0)
    assert Checkpoint.open(tmp_path / "best.ckpt").facts.temperature == 2


def test_an_ensemble_gets_one_temperature(
    trained: Path, command: Command, tmp_path: Path, sample: DigitsDataModule
) -> None:
    other = tmp_path / "other.ckpt"
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for value in content["state_dict"].values():
        value += 0.01 * torch.randn(value.shape, generator=generator)
    torch.save(content, other)
    outcome = command("eval", f"ckpt_path=[{trained / 'checkpoints' / 'best.ckpt'},{other}]")
    assert outcome.code == 0, outcome.err
    assert "calibrated: together, on the 500 validation images that they share" in outcome.out
    networks = [Checkpoint.open(path).network().eval() for path in (trained, other)]
    with torch.inference_mode():
        images = sample.normalise(sample.splits.val.images / 255)
        mean = sum(network(images).softmax(dim=1) for network in networks) / 2
    expected = fit_temperature(mean.log(), sample.splits.val.target)
    assert outcome.record["temperature"] == pytest.approx(expected, rel=1e-2)
    assert np.isclose(outcome.record["confidence"]["as trained"]["nll"], outcome.record["test/loss"], atol=1e-4)
