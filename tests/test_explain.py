"""python -m digits.explain: a picture for each file, and attributions that have the properties of their method."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image

from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.explain import attribution
from digits.networks import CNN, DenseNet, RawPixels, ResNet18


@pytest.fixture(scope="module")
def model(trained: Path) -> RawPixels:
    path = trained / "checkpoints" / "best.ckpt"
    return RawPixels(Checkpoint.open(path).network(), [0.1307], [0.3081]).eval()


@pytest.mark.parametrize("label", [0, 7])
def test_integrated_gradients_are_complete(model: RawPixels, sample: DigitsDataModule, label: int) -> None:
    """They sum up to the difference between the logits of the image and of the black one (the paper's axiom 3)."""
    image = sample.splits.test.images[3]
    with torch.inference_mode():
        difference = (model(image[None]) - model(torch.zeros_like(image)[None]))[0, label].item()
    weights = attribution(model, image.numpy(), label)
    assert weights.shape == (28, 28)
    assert weights.sum() == pytest.approx(difference, abs=0.02 * abs(difference) + 0.05)
    assert np.abs(weights[image[0].numpy() == 0]).max() == 0  # a pixel as black as the baseline says nothing


def test_grad_cam_by_hand(model: RawPixels, sample: DigitsDataModule) -> None:
    """The last feature maps, weighted by the mean gradient of the logit (the paper's equations 1 and 2)."""
    image = sample.splits.test.images[3]
    features = {}
    handle = model.network.features.register_forward_hook(lambda _, __, out: features.setdefault("out", out))
    logit = model(image[None])[0, 4]
    handle.remove()
    [gradient] = torch.autograd.grad(logit, features["out"])
    coarse = (gradient.mean(dim=(2, 3), keepdim=True) * features["out"]).sum(dim=1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[0, 0].detach().numpy()
    assert attribution(model, image.numpy(), 4, "grad_cam") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["integrated_gradients", "grad_cam"])
def test_a_picture_for_each_file(
    command: Command, trained: Path, sample: DigitsDataModule, tmp_path: Path, method: str
) -> None:
    for i in range(2):
        Image.fromarray(sample.splits.test.images[i, 0].numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    two = np.hstack([sample.splits.test.images[i, 0].numpy() for i in range(2)])
    Image.fromarray(two).resize((224, 112)).save(tmp_path / "3.png")
    Image.new("L", (90, 90)).save(tmp_path / "4.png")
    words = [f"images='{tmp_path}/?.png'", f"ckpt_path={trained}/checkpoints/best.ckpt", f"method={method}"]
    outcome = command("digits.explain", *words)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "error: 1 of 5 files cannot be read, as said above"
    assert sorted(path.name for path in outcome.folder.glob("*.png")) == ["0.png", "1.png", "3_1.png", "3_2.png"]
    assert np.asarray(Image.open(outcome.folder / "0.png").convert("L")).std() > 10
    answers = {Path(name).stem: said for name, said in outcome.record["answers"].items()}
    assert [len(re.findall(r"\d \(\d+\.\d%; or", answers[name])) for name in "01234"] == [1, 1, 0, 2, 0]
    assert "no picture" in answers["2"]
    assert "blank" in answers["4"]


@pytest.mark.parametrize(
    "network", [CNN(channels=[8, 8, 8]), ResNet18(), DenseNet()], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("method", ["integrated_gradients", "grad_cam"])
def test_every_network_has_attributions(network: torch.nn.Module, method: str, sample: DigitsDataModule) -> None:
    model = RawPixels(network, [0.1307], [0.3081]).eval()
    weights = attribution(model, sample.splits.test.images[3].numpy(), 4, method)
    assert weights.shape == (28, 28)
    assert np.isfinite(weights).all()


def test_an_unknown_method(command: Command, trained: Path) -> None:
    outcome = command("digits.explain", "images=a.png", "method=lime")
    assert outcome.code == 1
    assert outcome.err == "error: method=lime: should be 'integrated_gradients' or 'grad_cam'\n"
