"""Test-time augmentation: the mean answer to views of unsure images, in PyTorch, in exported files and in eval.py."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from digits import load_classifier
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.networks import AveragedViews
from digits.onnx_model import to_onnx
from digits.pictures.reader import onnx_classifier
from digits.views import VIEWS, TtaSettings

BELOW, TEMPERATURE = 0.9, 1.5


@pytest.fixture(scope="module")
def network(trained: Path) -> nn.Module:
    return Checkpoint.open(trained).network().eval()


def shifted(images: Tensor, x: int, y: int) -> Tensor:
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, 1 - y : 29 - y, 1 - x : 29 - x]


def by_hand(network: nn.Module, images: Tensor, tta: str) -> tuple[Tensor, Tensor]:
    """The probabilities (N, 10) that are to be stated, and which images are seen again."""
    black = images.min().item()

    def answers(view: Tensor) -> Tensor:
        return (network(view).double() / TEMPERATURE).softmax(dim=1)

    with torch.inference_mode():
        stated = answers(images)
        unsure = stated.max(dim=1).values < BELOW
        views = [
            rotate(shifted(images[unsure], x, y), turn, InterpolationMode.BILINEAR, fill=[black])
            for x, y, turn in VIEWS[tta]
        ]
        stated[unsure] = torch.stack([answers(view) for view in views]).mean(dim=0)
    return stated, unsure


# torchvision resamples a turned image by other sums.
@pytest.mark.parametrize(("tta", "tolerance"), [("shifts", 1e-4), ("turns", 2e-3)])
def test_unsure_images_get_the_mean_answer_to_their_views(
    network: nn.Module, sample: DigitsDataModule, tta: str, tolerance: float
) -> None:
    pixels = sample.splits.test.images
    inside = pixels[:, :, 2:-2, 2:-2].sum(dim=(1, 2, 3)) == pixels.sum(dim=(1, 2, 3))  # torchvision fills with black
    images = sample.normalise(pixels[inside] / 255)
    expected, unsure = by_hand(network, images, tta)
    assert 20 < unsure.sum() < 400
    with torch.inference_mode():
        logits = AveragedViews(network, VIEWS[tta], BELOW, TEMPERATURE)(images)
        alone = AveragedViews(network, VIEWS[tta], BELOW, TEMPERATURE)(images[unsure][:1])
    stated = (logits / TEMPERATURE).softmax(dim=1).double()
    torch.testing.assert_close(stated, expected, rtol=1e-3, atol=tolerance)
    torch.testing.assert_close(alone, logits[unsure][:1], rtol=1e-4, atol=1e-4)


def test_below_says_which_images_are_seen_again(network: nn.Module, sample: DigitsDataModule) -> None:
    images = sample.normalise(sample.splits.test.images[::25] / 255)
    with torch.inference_mode():
        plain = network(images).log_softmax(dim=1)
        none, everything = (AveragedViews(network, VIEWS["shifts"], below)(images) for below in (0.01, 1.0))
    torch.testing.assert_close(none, plain)
    assert all((everything - plain).abs().amax(dim=1) > 1e-7)


def test_weights_of_another_type(network: nn.Module, sample: DigitsDataModule) -> None:
    images = sample.normalise(sample.splits.test.images[:50] / 255)
    facts = VIEWS["turns"], BELOW, TEMPERATURE
    with torch.inference_mode():
        expected = AveragedViews(network, *facts)(images)
        double = AveragedViews(deepcopy(network), *facts).double()(images.double())
    torch.testing.assert_close(double, expected, rtol=1e-3, atol=1e-3)


def test_exported_model_answers_as_torch_does_for_any_number_of_images(
    trained: Path, network: nn.Module, sample: DigitsDataModule
) -> None:
    checkpoint = Checkpoint.open(trained)
    settings = TtaSettings(tta="shifts_and_turns", tta_below=BELOW)
    written = onnx_classifier(to_onnx(settings.applied(checkpoint.network(), checkpoint.facts), checkpoint.facts))
    opened = load_classifier(trained / "checkpoints" / "best.ckpt", tta="shifts_and_turns", tta_below=BELOW)
    images = sample.splits.test.images.numpy()[::7]
    plain = load_classifier(trained / "checkpoints" / "best.ckpt").probabilities(images)
    stated = opened.probabilities(images)
    unsure = plain.max(axis=1) < BELOW
    assert 3 < unsure.sum() < 70
    np.testing.assert_allclose(stated[~unsure], plain[~unsure], atol=1e-6)
    assert (np.abs(stated - plain)[unsure].max(axis=1) > 1e-4).all()
    for batch in (images, images[:1], images[unsure][:2]):
        np.testing.assert_allclose(written.probabilities(batch), opened.probabilities(batch), atol=1e-5)


def test_evaluation_and_export_say_so(trained: Path, command: Command, tmp_path: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    outcome = command("eval", f"ckpt_path={best}", "tta=turns", "tta_below=0.9")
    assert outcome.code == 0, outcome.err
    assert "tta:    the mean of turns for each image with a highest probability below 0.9" in outcome.out
    assert (outcome.record["tta"], outcome.record["tta_below"]) == ("turns", 0.9)
    images, target = (getattr(Checkpoint.open(best).data().splits.test, name).numpy() for name in ("images", "target"))
    opened = load_classifier(best, tta="turns", tta_below=0.9)
    stated = opened.probabilities(images)
    assert outcome.record["test/acc"] == pytest.approx((stated.argmax(axis=1) == target).mean())
    nll = -np.log(stated[np.arange(len(target)), target]).mean()
    assert outcome.record["confidence"]["calibrated"]["nll"] == pytest.approx(nll, rel=1e-4)

    output = tmp_path / "views.onnx"
    exported = command("digits.export", f"ckpt_path={best}", "tta=turns", "tta_below=0.9", f"output={output}")
    assert exported.code == 0, exported.err
    np.testing.assert_allclose(load_classifier(output).probabilities(images), stated, atol=1e-4)
    refused = command("digits.export", f"ckpt_path={best}", "tta=turns", "format=state_dict")
    assert "tta=turns: for format=onnx or torch_export" in refused.err
    with pytest.raises(UserError, match=r"tta=turns: views.onnx answers as it was exported"):
        load_classifier(output, tta="turns")


def test_members_of_an_ensemble_have_their_views(trained: Path, command: Command, tmp_path: Path) -> None:
    best, other = Checkpoint.open(trained), tmp_path / "other.ckpt"
    weights = {name: value * 0.9 for name, value in best.content["state_dict"].items()}
    torch.save(best.content | {"state_dict": weights}, other)
    outcome = command("eval", f"ckpt_path=[{best.path},{other}]", "tta=shifts", "tta_below=0.9")
    assert outcome.code == 0, outcome.err
    assert "calibrated: together" in outcome.out
    images, target = (getattr(best.data().splits.test, name) for name in ("images", "target"))
    members = []
    for path in (best.path, other):
        opened = load_classifier(path, tta="shifts", tta_below=0.9)
        members.append(torch.from_numpy(opened.logits(images.numpy())).softmax(dim=1))
        accuracy = (members[-1].argmax(dim=1) == target).double().mean().item()
        assert outcome.record["members"][len(members) - 1]["test/acc"] == pytest.approx(accuracy)
    together = (sum(members).argmax(dim=1) == target).double().mean().item()
    assert outcome.record["test/acc"] == pytest.approx(together)


def test_gradients_pass_through_the_views(network: nn.Module, sample: DigitsDataModule) -> None:
    images = sample.normalise(sample.splits.test.images[:2] / 255).requires_grad_()
    AveragedViews(network, VIEWS["turns"], 1.0)(images).max(dim=1).values.sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("script", ["eval", "digits.predict", "digits.export", "digits.demo"])
def test_wrong_settings_are_one_line(script: str, trained: Path, command: Command) -> None:
    images = ["images=docs/images/seven.png"] if script == "digits.predict" else []
    wrong = {"tta=flips": "tta=flips: should be 'shifts', 'turns' or 'shifts_and_turns'"}
    wrong["tta=turns tta_below=0"] = "tta_below=0: should be greater than 0"
    wrong["tta_below=0.9"] = "tta_below: is read only beside tta="
    for words, message in wrong.items():
        outcome = command(script, f"ckpt_path={trained}", *words.split(), *images)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1
        assert message in outcome.err
