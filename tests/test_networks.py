"""The network against hand calculations and a plain composition of torch's own functions."""

import pytest
import torch
import torch.nn.functional as F

from digits.networks import CNN


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_by_hand() -> None:
    convolutions = (1 * 3 * 3 * 32 + 32) + (32 * 3 * 3 * 64 + 64)
    linear = (64 * 7 * 7 * 128 + 128) + (128 * 10 + 10)
    assert convolutions + linear == 421_642
    assert count(CNN()) == 421_642


def test_parameters_of_every_knob_by_hand() -> None:
    network = CNN(channels=[8, 16, 32], hidden=64, batch_norm=True, num_classes=26, in_channels=3)
    convolutions = 3 * 9 * 8 + 8 * 9 * 16 + 16 * 9 * 32  # no bias in front of batch norm
    norms = 2 * (8 + 16 + 32)
    linear = (32 * 3 * 3 * 64 + 64) + (64 * 26 + 26)
    assert count(network) == convolutions + norms + linear
    assert network(torch.randn(2, 3, 28, 28)).shape == (2, 26)


def test_is_the_tutorials_function() -> None:
    """Convolution, ReLU, then pooling, written out."""
    torch.manual_seed(0)
    network = CNN().eval()
    images = torch.randn(4, 1, 28, 28)
    w = network.state_dict()
    x = F.max_pool2d(F.relu(F.conv2d(images, w["features.0.weight"], w["features.0.bias"], padding=1)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w["features.3.weight"], w["features.3.bias"], padding=1)), 2)
    assert x.shape == (4, 64, 7, 7)
    x = F.relu(F.linear(x.flatten(1), w["head.1.weight"], w["head.1.bias"]))
    expected = F.linear(x, w["head.4.weight"], w["head.4.bias"])
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(images), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.5])
def test_dropout_is_the_share_of_dropped_units(dropout: float) -> None:
    torch.manual_seed(0)
    network = CNN(dropout=dropout)
    layer = next(module for module in network.modules() if isinstance(module, torch.nn.Dropout))
    assert layer.p == dropout
    dropped = (layer(torch.ones(100_000)) == 0).float().mean()
    assert dropped == pytest.approx(dropout, abs=0.01)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("dropout", 1.5, "dropout=1.5"),
        ("dropout", -0.1, "dropout=-0.1"),
        ("channels", [], "channels="),
        ("channels", [32, 0], "channels="),
        ("channels", [1, 2, 4, 8, 16], "poolings"),
        ("hidden", 0, "hidden=0"),
    ],
)
def test_argument_out_of_range_is_named(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNN(**{argument: value})
