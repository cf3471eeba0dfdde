"""Parts that a user brings: they get what they need, and what cannot work is named before any data is read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from digits.errors import UserError
from digits.losses import CrossEntropy
from digits.metrics import MetricEntry, default_entries
from digits.networks import CNN
from digits.parts import (
    load_pretrained,
    loss_settings,
    make_network,
    network_settings,
    rehearse,
    without_pretraining,
)
from digits.resized import Resized

SHAPE = {"in_channels": 1, "num_classes": 10, "image_size": 28}
MOBILENET = {"_target_": "torchvision.models.mobilenet_v3_small"}
NAMES = {"model": "model._target_=mine", "loss": "loss._target_=mine"}


def test_a_class_gets_what_it_has_parameters_for() -> None:
    cnn = {"_target_": "digits.networks.CNN", "hidden": 5}
    assert network_settings(cnn, SHAPE) == {**cnn, **SHAPE}
    assert network_settings(MOBILENET, SHAPE) == {**MOBILENET, "num_classes": 10}  # which takes any keyword
    linear = {"_target_": "torch.nn.Linear", "in_features": 784, "out_features": 10}
    assert network_settings(linear, SHAPE) == linear


def test_a_network_that_takes_other_images() -> None:
    settings = network_settings(MOBILENET, SHAPE, image_size=64, channels=3)
    assert settings == {
        "_target_": "digits.resized.Resized",
        "network": {**MOBILENET, "num_classes": 10},
        "image_size": 64,
        "channels": 3,
    }
    network = make_network(settings, None, [])
    seen: list[tuple[int, ...]] = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    assert network.eval()(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert seen == [(2, 3, 64, 64)]
    inner = network_settings({"_target_": "digits.networks.CNN"}, SHAPE, image_size=14)["network"]
    assert (inner["image_size"], inner["in_channels"]) == (14, 1)


def test_resized_keeps_the_images_and_leaves_alone_what_fits() -> None:
    images = torch.rand(2, 1, 8, 8)
    assert Resized(nn.Identity(), 8, 1)(images).equal(images)
    grown = Resized(nn.Identity(), 16, 3)(images)
    assert grown.shape == (2, 3, 16, 16)
    assert grown[:, 0].equal(grown[:, 2])
    torch.testing.assert_close(grown.mean(), images.mean(), rtol=0.05, atol=0)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert Resized(nn.Identity(), 4)(ramp)[0, 0, 0, 1:3].tolist() == pytest.approx([2.5, 4.5])  # means of two


def test_pretraining_is_not_asked_for_again() -> None:
    """What is rebuilt gets its weights from the checkpoint."""
    timm = {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True}
    assert without_pretraining(timm) == {"_target_": "timm.create_model", "model_name": "resnet18"}
    nested = {"_target_": "digits.resized.Resized", "network": {**MOBILENET, "weights": "DEFAULT"}}
    assert without_pretraining(nested)["network"] == MOBILENET
    assert without_pretraining({"weights": 3, "pretrained": False}) == {"weights": 3, "pretrained": False}


def test_pretrained_weights_that_fit_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    letters, digits = CNN(num_classes=26), CNN()
    torch.save(letters.state_dict(), tmp_path / "letters.pth")
    before = digits.head[4].weight.clone()
    with caplog.at_level("INFO", "digits.parts"):
        load_pretrained(digits, tmp_path / "letters.pth")
    assert digits.features[0].weight.equal(letters.features[0].weight)
    assert digits.head[1].weight.equal(letters.head[1].weight)
    assert digits.head[4].weight.equal(before)  # of other classes
    assert "6 of 8 weights" in caplog.text
    assert "the others: head.4.weight, head.4.bias" in caplog.text


def test_pretrained_weights_of_a_checkpoint(tmp_path: Path) -> None:
    other, network = CNN(), Resized(CNN(image_size=14), 14)
    torch.save({"state_dict": {f"network.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "best.ckpt")
    settings = {"_target_": "digits.networks.CNN", **SHAPE}
    assert make_network(settings, str(tmp_path / "best.ckpt"), []).head[4].bias.equal(other.head[4].bias)
    load_pretrained(network.network, tmp_path / "best.ckpt")
    assert network.network.features[3].weight.equal(other.features[3].weight)
    named_so = nn.ModuleDict({"network": nn.Linear(2, 2)})
    torch.save({"state_dict": {f"network.{k}": v for k, v in named_so.state_dict().items()}}, tmp_path / "n.ckpt")
    load_pretrained(nn.ModuleDict({"network": nn.Linear(2, 2)}), tmp_path / "n.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "pretrained=.*: No such file or directory"),
        ({"a": torch.ones(3)}, "none of its 1 weights fits a CNN"),
        ({"loss.weight": torch.ones(3)}, "none of its 1 weights fits a CNN"),
        ({1: torch.ones(3)}, "none of its 1 weights fits a CNN"),
        ([1, 2], "no file of weights"),
        ("text", "no file of weights"),
    ],
)
def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path: Path, content: object, message: str) -> None:
    if content is not None:
        torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_pretrained(CNN(), tmp_path / "w.pth")


def test_frozen_parts_do_not_train_and_keep_their_statistics() -> None:
    settings = {"_target_": "digits.networks.CNN", "batch_norm": True, **SHAPE}
    network = make_network(settings, None, ["features"])
    assert not any(parameter.requires_grad for parameter in network.features.parameters())
    assert all(parameter.requires_grad for parameter in network.head.parameters())
    before = network.features[1].running_mean.clone()
    network(torch.rand(4, 1, 28, 28))
    assert network.features[1].running_mean.equal(before)
    assert network.head[3].training  # dropout
    one = make_network(settings, None, ["head.*.bias"])
    frozen = [name for name, parameter in one.named_parameters() if not parameter.requires_grad]
    assert frozen == ["head.1.bias", "head.4.bias"]


@pytest.mark.parametrize(
    ("settings", "freeze", "message"),
    [
        ({"_target_": "digits.networks.CNN"}, ["body"], "freeze=body: fits no parameter. There are features, head"),
        ({"_target_": "pathlib.Path"}, [], "model._target_=pathlib.Path: makes no Module"),
    ],
)
def test_what_is_no_network_and_freezes_nothing(settings: dict, freeze: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_network(settings, None, freeze)


def test_balanced_weights_by_hand() -> None:
    loss = {"_target_": "digits.losses.CrossEntropy", "class_weights": "balanced"}
    target = np.array([0, 0, 0, 1])
    assert loss_settings(loss, target, 2)["class_weights"] == pytest.approx([4 / 6, 4 / 2])
    assert loss_settings(loss, None, 2)["class_weights"] == [1, 1]
    other = {"_target_": "torch.nn.CrossEntropyLoss"}
    assert loss_settings(other, target, 2) == other


class Mean(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.mean(dim=0)


class Constant(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return torch.tensor(1.0)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(images.flatten(1)), images


@pytest.mark.parametrize(
    ("network", "loss", "metric", "message"),
    [
        (CNN(num_classes=7), CrossEntropy(), None, r"model._target_=mine: gives \(2, 7\) for 2 images, not logits"),
        (Both(), CrossEntropy(), None, "model._target_=mine: gives a tuple for 2 images"),
        (CNN(image_size=20), CrossEntropy(), None, r"model._target_=mine: fails on images of shape \(2, 1, 28, 28\) "),
        (CNN(), Mean(), None, r"loss._target_=mine: gives torch.float32 of shape \(10,\), not a loss for each image"),
        (CNN(), Constant(), None, "loss._target_=mine: has no gradient"),
        (CNN(), nn.Identity(), None, r"loss._target_=mine: fails on logits of shape \(2, 10\)"),
        (CNN(), CrossEntropy(), {"average": None}, "MulticlassAccuracy: gives no single number"),
        (CNN(), CrossEntropy(), {"average": "sum"}, "MulticlassAccuracy: "),
    ],
)
def test_rehearsal_names_the_part(network: nn.Module, loss: nn.Module, metric: dict | None, message: str) -> None:
    target = "torchmetrics.classification.MulticlassAccuracy"
    entries = [MetricEntry.of("mine", {"_target_": target, "validate_args": True, **metric})] if metric else []
    with pytest.raises(UserError, match=message):
        rehearse(network, loss, entries, SHAPE, NAMES)


def test_rehearsal_of_what_works() -> None:
    rehearse(CNN(), nn.CrossEntropyLoss(), default_entries(), SHAPE, NAMES)


def test_rehearsal_of_a_mixing_gives_the_loss_probabilities() -> None:
    rehearse(CNN(), CrossEntropy(), [], SHAPE, NAMES, mixed=True)
    with pytest.raises(
        UserError, match=r"loss._target_=mine: fails on .* probabilities, as a mixing or a teacher makes"
    ):
        rehearse(CNN(), nn.MultiMarginLoss(), [], SHAPE, NAMES, mixed=True)
