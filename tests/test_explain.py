"""python -m digits.explain: a picture for each file, and attributions that have the properties of their method."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image

from digits import figures
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.explain import Layers, attribution
from digits.networks import CNN, DenseNet, RawPixels, ResNet18
from digits.resized import Resized


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


# Filters and features


def layers_of(network: torch.nn.Module, channels: int = 1) -> Layers:
    return Layers(RawPixels(network, [0.5], [0.25]).eval(), (channels, 28, 28))


def test_filters_are_the_weights(model: RawPixels) -> None:
    layers = Layers(model, (1, 28, 28))
    assert layers.chosen(None, "filters") == "features.0"
    weights = layers.filters["features.0"]
    assert np.array_equal(weights, model.network.features[0].weight.detach().numpy())
    figure = figures.filters(weights, "Filters")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 32
    assert np.array_equal(shown[5], weights[5, 0][..., None].squeeze())
    many = figures.filters(layers.filters["features.3"], "Filters")
    shown = [axes.images[0].get_array() for axes in many.axes if axes.images]
    assert len(shown) == 16 * 16
    assert np.array_equal(shown[17], layers.filters["features.3"][1, 1])


def test_features_by_hand(model: RawPixels, sample: DigitsDataModule) -> None:
    """What the convolution gives for the normalised image."""
    image = sample.splits.test.images[3]
    first = model.network.features[0]
    expected = torch.nn.functional.conv2d((image[None] / 255 - 0.1307) / 0.3081, first.weight, first.bias, padding=1)
    layers = Layers(model, (1, 28, 28))
    maps = layers.features(layers.chosen(None, "features"), image.numpy())
    np.testing.assert_allclose(maps, expected[0].detach().numpy(), atol=1e-5)
    figure = figures.feature_maps(image.numpy(), maps, "a.png")
    assert sum(len(axes.images) for axes in figure.findobj(lambda one: hasattr(one, "images"))) >= 33


def test_colours_are_shown_as_such() -> None:
    network = CNN(in_channels=3, channels=[8, 8])
    with torch.no_grad():
        network.features[0].weight.zero_()[0, 0] = 1.0  # red
    layers = layers_of(network, channels=3)
    assert layers.sees_colours("features.0")
    assert not layers.sees_colours("features.3")
    figure = figures.filters(layers.filters["features.0"], "Filters", colours=True)
    red, none = (axes.images[0].get_array()[1, 1].tolist() for axes in figure.axes[:2])
    assert red == pytest.approx([1, 0.5, 0.5])
    assert none == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("network", "first"),
    [
        (ResNet18(), "conv1"),
        (DenseNet(), "features.conv0"),
        (Resized(ResNet18(in_channels=3), 32, 3), "conv1"),
        (torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 4, 3), torch.nn.Flatten()), "1"),
    ],
    ids=["ResNet18", "DenseNet", "Resized", "1x1 first"],
)
def test_layers_of_any_network(network: torch.nn.Module, first: str) -> None:
    layers = layers_of(network)
    assert layers.chosen(None, "filters") == first
    name = layers.chosen(None, "features")
    assert layers.features(name, np.zeros((1, 28, 28), np.uint8)).ndim == 3
    assert all(layers.features(name, np.zeros((1, 28, 28), np.uint8)).shape[1] > 1 for name in layers.maps[::10])


def test_layers_that_cannot_be_shown() -> None:
    layers = layers_of(CNN(channels=[4, 4]))
    with pytest.raises(UserError, match=r"^layer=head.1: no convolution .*; there are features.0, features.3$"):
        layers.chosen("head.1", "filters")
    with pytest.raises(UserError, match=r"^layer=nope: no layer that gives maps; there are features.0, features.1, "):
        layers.chosen("nope", "features")
    linear = layers_of(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)))
    for what in ("filters", "features"):
        with pytest.raises(UserError, match=f"^what={what}: Sequential has no .*; take what=saliency$"):
            linear.chosen(None, what)
    with pytest.raises(UserError, match=r"and \d+ more$"):
        layers_of(ResNet18()).chosen("nope", "features")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["what=filters", "images=docs/images/seven.png"], "what=filters: shows the network alone"),
        (["what=features"], "images=null: what=features shows pictures"),
        ([], "images=null: what=saliency shows pictures"),
        (["images=docs/images/seven.png", "layer=features.0"], "layer=features.0: is for what=filters"),
        (["what=weights"], "what=weights: should be 'saliency', 'filters' or 'features'"),
    ],
)
def test_settings_that_do_not_fit(command: Command, words: list[str], message: str) -> None:
    outcome = command("digits.explain", *words)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {message}")
    assert len(outcome.err.splitlines()) == 1


def test_the_commands(command: Command, trained: Path) -> None:
    outcome = command("digits.explain", "what=filters", "layer=features.3", f"ckpt_path={trained}")
    assert outcome.code == 0, outcome.err
    assert (outcome.folder / "filters.png").exists()
    assert outcome.record["layer"] == "features.3"
    outcome = command("digits.explain", "what=features", "images=docs/images/seven.png", f"ckpt_path={trained}")
    assert outcome.code == 0, outcome.err
    assert (outcome.folder / "seven.png").exists()
    assert outcome.record["layer"] == "features.0"
