"""The gate: it says no to strangers, stays with the checkpoint and its exports, and leaves the run as it was."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from torch import Tensor

from digits import export, load_classifier
from digits.checkpoints import Checkpoint, Confidence, add_confidence, plain_weights, save_state_dict
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.gate import Gate, known_logits
from digits.networks import CNN
from digits.onnx_model import quantized
from digits.pictures.reader import onnx_classifier
from digits.rejection import EXPECTED, Fitted, GateSettings, fit_gate, varied
from digits.strangers import Strangers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fitted(trained: Path, sample: DigitsDataModule) -> Fitted:
    facts = Checkpoint.open(trained).facts
    state = torch.get_rng_state()
    found = fit_gate(sample.splits, facts, CPU, GateSettings(images=2000, strangers=1500, passes=2))
    assert torch.equal(torch.get_rng_state(), state)
    return found


@pytest.fixture
def gated(trained: Path, fitted: Fitted, tmp_path: Path) -> Path:
    """A checkpoint with a gate, to spoil."""
    path = Path(shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path))
    temperature = Checkpoint.open(path).confidence.temperature
    gate = plain_weights(fitted.gate)
    add_confidence(path, Confidence(temperature=temperature, reject_below=fitted.reject_below, gate=gate))
    return path


def letters(sample: DigitsDataModule, trained: Path, count: int = 200) -> Tensor:
    facts = Checkpoint.open(trained).facts
    source = Strangers(sample.splits.train.images.numpy(), facts.class_names, facts.form)
    kinds = ["printed letters", "words", "drawings", "scribbles"]
    return torch.from_numpy(source.draw(count, np.random.default_rng(7), kinds))


def test_digits_are_known_and_strangers_are_not(fitted: Fitted, sample: DigitsDataModule, trained: Path) -> None:
    digits = known_logits(fitted.gate, sample.splits.test.images).sigmoid()
    strange = known_logits(fitted.gate, letters(sample, trained)).sigmoid()
    assert (digits < fitted.reject_below).double().mean() <= 2 / 500
    assert digits.median() > 0.95
    assert (strange > 0.9).double().mean() < 0.1
    assert strange.median() < 0.1
    assert fitted.report["auroc"] > 0.97
    assert "it rejects" in str(fitted)


def test_one_in_so_many_is_expected_to_be_strange(fitted: Fitted, sample: DigitsDataModule, trained: Path) -> None:
    """Calibrated: of all that is shown, `EXPECTED` being strange, the mean probability is the share that is known."""
    facts = Checkpoint.open(trained).facts
    source = Strangers(sample.splits.train.images.numpy(), facts.class_names, facts.form)
    strange = torch.from_numpy(source.draw(600, np.random.default_rng(8)))
    digits = known_logits(fitted.gate, sample.splits.test.images).sigmoid().mean().item()
    mean = (1 - EXPECTED) * digits + EXPECTED * known_logits(fitted.gate, strange).sigmoid().mean().item()
    assert mean == pytest.approx(1 - EXPECTED, abs=0.05)


def test_the_same_seed_gives_the_same_gate(fitted: Fitted, trained: Path, sample: DigitsDataModule) -> None:
    facts = Checkpoint.open(trained).facts
    again = [
        fit_gate(sample.splits, facts, CPU, GateSettings(images=200, strangers=100, passes=1, seed=seed))
        for seed in (0, 0, 1)
    ]
    first, second, other = (plain_weights(one.gate) for one in again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_reader_multiplies_and_rejects(
    gated: Path, fitted: Fitted, sample: DigitsDataModule, trained: Path
) -> None:
    classifier = load_classifier(gated)
    images = torch.cat([sample.splits.test.images[:20], letters(sample, trained, 40)])
    known = known_logits(fitted.gate, images).sigmoid().numpy()
    assert classifier.known(images.numpy()) == pytest.approx(known, abs=1e-5)
    for image in images:
        mark = classifier.predict(image[0].numpy())
        seen = mark.image[None]
        [certainty], [probabilities] = classifier.known(seen), classifier.probabilities(seen)
        assert mark.known == pytest.approx(certainty)
        assert mark.probability == pytest.approx(certainty * probabilities.max())
        assert sum(mark.probabilities.values()) == pytest.approx(certainty)
        assert mark.rejected == (certainty < fitted.reject_below)
    assert load_classifier(trained).known(images.numpy()).tolist() == [1.0] * 60  # it has none


@pytest.mark.parametrize("format", ["onnx", "torch_export", "state_dict"])
def test_exports_say_no_too(
    format: str, gated: Path, command: Command, sample: DigitsDataModule, trained: Path
) -> None:
    outcome = command("digits.export", f"ckpt_path={gated}", f"format={format}")
    assert outcome.code == 0, outcome.err
    suffix = {"onnx": "onnx", "torch_export": "pt2", "state_dict": "pth"}[format]
    path, classifier = gated.with_suffix(f".{suffix}"), load_classifier(gated)
    images = torch.cat([sample.splits.test.images[:20], letters(sample, trained, 20)]).numpy()
    if format == "torch_export":
        logits, known = torch.export.load(path).module()(torch.from_numpy(images))
        np.testing.assert_allclose(logits.detach(), classifier.logits(images), atol=1e-3)
        np.testing.assert_allclose(known.detach().sigmoid(), classifier.known(images), atol=1e-4)
        return
    written = load_classifier(path)
    assert written.facts == classifier.facts
    assert written.facts.reject_below > 0
    np.testing.assert_allclose(written.known(images), classifier.known(images), atol=1e-4)
    np.testing.assert_allclose(written.probabilities(images), classifier.probabilities(images), atol=1e-5)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in place fit a gate."""
    monkeypatch.setenv("DIGITS_TEST_GATES", "1")


@pytest.mark.usefixtures("gates")
def test_training_fits_one_and_resumes_as_before(command: Command) -> None:
    few = ["data=mnist5k", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    few += ["rejection.images=200", "rejection.strangers=100", "rejection.passes=1"]
    outcome = command("train", *few)
    assert outcome.code == 0, outcome.err
    assert "gate: of 4,300 images that it has not seen, it rejects" in outcome.out
    assert "times known" in outcome.record["confidence"]
    assert 0 <= outcome.record["rejected"] <= 1
    gate = Checkpoint.open(outcome.folder).gate()
    by_weights = load_classifier(outcome.folder / "mnist_cnn_model.pth")
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    assert by_weights.known(images.numpy()) == pytest.approx(known_logits(gate, images).sigmoid().numpy(), abs=1e-5)
    assert "confidence" not in torch.load(outcome.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert command("train", f"resume={outcome.folder}", "trainer.max_epochs=2").code == 0
    assert Checkpoint.open(outcome.folder).gate() is not None
    assert set(json.loads((outcome.folder / "metrics.json").read_text())["gate"]) >= {"rejected", "believed", "auroc"}


@pytest.mark.usefixtures("gates")
def test_settings_out_of_range_are_refused_before_training(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "rejection.passes=-1")
    assert (outcome.code, outcome.err) == (1, "error: rejection.passes=-1: should be greater than or equal to 0\n")


@pytest.mark.usefixtures("gates")
def test_folds_have_none(command: Command) -> None:
    few = ["data=mnist5k", "data.folds=2", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    outcome = command("train", *few)
    assert outcome.code == 0, outcome.err
    assert "gate:" not in outcome.out
    assert Checkpoint.open(outcome.folder).gate() is None


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda gate: gate | {"shift": torch.tensor(float("nan"))}, r"damaged: confidence\.gate=.*finite"),
        (lambda gate: gate | {"shift": "0"}, r"damaged: confidence"),
        (lambda gate: gate | {"head.2.weight": torch.zeros(4, 64)}, "its gate's weights are none, or of other classes"),
        (lambda gate: {}, "its gate's weights are none"),
        (lambda gate: [1], r"damaged: confidence\.gate"),
    ],
)
def test_hostile_gates_are_refused(spoil, problem: str, gated: Path) -> None:
    content = torch.load(gated, weights_only=True)
    content["confidence"]["gate"] = spoil(content["confidence"]["gate"])
    torch.save(content, gated)
    with pytest.raises(UserError, match=problem):
        load_classifier(gated)


def test_hostile_gate_beside_weights(fitted: Fitted, gated: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(gated)
    other = Gate(1, 4)
    save_state_dict(checkpoint.network(), checkpoint.settings["model"], checkpoint.facts, tmp_path / "w.pth", other)
    with pytest.raises(UserError, match=r"w\.pth: its gate's weights are none, or of other classes"):
        load_classifier(tmp_path / "w.pth")


def test_other_images(trained: Path) -> None:
    for channels, size in ((3, 64), (1, 16), (3, 100)):
        images = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
        assert Gate(channels, 5).eval()(images).shape == (2,)
        assert varied(images).shape == images.shape


def test_int8_leaves_the_gate_as_it_is(gated: Path, sample: DigitsDataModule) -> None:
    checkpoint = Checkpoint.open(gated)
    model = export.to_onnx(checkpoint.network(), checkpoint.facts, checkpoint.gate())
    images = sample.splits.test.images[:50].numpy()
    small = onnx_classifier(quantized(model, images))
    np.testing.assert_allclose(small.known(images), onnx_classifier(model).known(images), atol=1e-5)
    assert isinstance(checkpoint.network(), CNN)
