"""The networks against hand calculations, torchvision's and plain compositions of torch's own functions."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from digits.data import DigitsDataModule
from digits.networks import CNN, DenseNet, Ensemble, ResNet18, StagedCNN, Whitening


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
        ("channels", [1, 2, 4, 8, 16], "5 halvings leave nothing of 28 pixels"),
        ("hidden", 0, "hidden=0"),
    ],
)
def test_argument_out_of_range_is_named(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNN(**{argument: value})


def test_strided_stem_is_one_convolution() -> None:
    torch.manual_seed(0)
    network = CNN(channels=[16, 32], hidden=64, strided_stem=True).eval()
    assert count(network) == (25 * 16 + 16) + (16 * 9 * 32 + 32) + (32 * 7 * 7 * 64 + 64) + (64 * 10 + 10)
    images = torch.randn(4, 1, 28, 28)
    w = network.state_dict()
    x = F.relu(F.conv2d(images, w["features.0.weight"], w["features.0.bias"], stride=2, padding=2))
    x = F.relu(F.max_pool2d(F.conv2d(x, w["features.2.weight"], w["features.2.bias"], padding=1), 2))
    torch.testing.assert_close(network(images), network.head(x))


def test_resnet18_is_torchvisions_but_for_the_stem() -> None:
    torch.manual_seed(0)
    network = ResNet18().eval()
    original = torchvision.models.resnet18()
    stems = 7 * 7 * 3 * 64 - 3 * 3 * 1 * 64
    assert count(network) == count(original) - stems - (512 * 1000 + 1000) + (512 * 10 + 10) == 11_172_810

    original.conv1 = torch.nn.Conv2d(1, 64, 3, padding=1, bias=False)
    original.fc = torch.nn.Linear(512, 10)
    original.load_state_dict({name.replace("fc.1.", "fc."): value for name, value in network.state_dict().items()})
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(network(images), original.eval()(images))


def test_densenet_121_is_torchvisions_but_for_the_stem() -> None:
    network = DenseNet(growth_rate=32, blocks=[6, 12, 24, 16], init_channels=64)
    original = torchvision.models.densenet121()
    stems = 7 * 7 * 3 * 64 - 3 * 3 * 1 * 64
    assert count(network) == count(original) - stems - (1024 * 1000 + 1000) + (1024 * 10 + 10)
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("network_class", "first_block"), [(ResNet18, "layer1"), (DenseNet, "features.denseblock1")])
@pytest.mark.parametrize(("stem_pool", "size"), [(True, 14), (False, 28)])
def test_stem_keeps_the_digit(network_class: type, first_block: str, stem_pool: bool, size: int) -> None:
    network = network_class(stem_pool=stem_pool).eval()
    seen = []
    network.get_submodule(first_block).register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    network(torch.randn(1, 1, 28, 28))
    assert seen[0][-2:] == (size, size)


@pytest.mark.parametrize("network_class", [CNN, ResNet18, DenseNet, StagedCNN])
@pytest.mark.parametrize("image_size", [16, 28, 32])
def test_takes_the_datas_channels_classes_and_size(network_class: type, image_size: int) -> None:
    network = network_class(in_channels=3, num_classes=47, image_size=image_size)
    logits = network(torch.randn(2, 3, image_size, image_size))
    assert logits.shape == (2, 47)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("network_class", [ResNet18, DenseNet])
def test_dropout_is_off_in_evaluation_only(network_class: type) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 1, 28, 28)
    network = network_class(dropout=0.5)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    ("network_class", "arguments", "message"),
    [
        (ResNet18, {"dropout": 2}, "dropout=2"),
        (StagedCNN, {"widths": [8, 16]}, "give one of each for each stage, not 2, 3 and 3"),
        (StagedCNN, {"pooled": [True] * 3, "stride": 4, "whitening": 4}, "3 halvings leave nothing of 7 pixels"),
        (StagedCNN, {"crop": 13}, "2 halvings leave nothing of 1 pixels"),
        (StagedCNN, {"head": "sum"}, "head=sum"),
        (StagedCNN, {"convolutions": [10**9, 1, 1]}, "less than or equal to 1000"),
        (StagedCNN, {"whitening": 1, "stride": 4}, "stride=4: between patches of 1 pixels at most 2"),
        (ResNet18, {"blocks": [2, 2, 2]}, "at least 4 items"),
        (ResNet18, {"image_size": 8}, "4 halvings leave nothing of 8 pixels"),
        (DenseNet, {"dropout": -1}, "dropout=-1"),
        (DenseNet, {"blocks": []}, "blocks="),
        (DenseNet, {"blocks": [2, 0]}, "blocks="),
        (DenseNet, {"growth_rate": 0}, "growth_rate=0"),
        (DenseNet, {"image_size": 4, "blocks": [1, 1, 1]}, "3 halvings leave nothing of 4 pixels"),
    ],
)
def test_deep_networks_name_what_is_out_of_range(network_class: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_class(**arguments)


def test_ensemble_is_the_mean_of_probabilities() -> None:
    torch.manual_seed(0)
    members = [CNN().eval(), CNN(channels=[8, 16]).eval(), CNN().double().eval()]
    images = torch.randn(5, 1, 28, 28)
    expected = sum(member(images.to(next(member.parameters()).dtype)).softmax(dim=1) for member in members) / 3
    log_probabilities = Ensemble(members)(images)
    torch.testing.assert_close(log_probabilities.exp(), expected.float())
    torch.testing.assert_close(log_probabilities.softmax(dim=1), expected.float())


def test_whitened_patches_are_uncorrelated_and_of_variance_1(sample: DigitsDataModule) -> None:
    images = sample.normalise(sample.splits.train.images[:1000].double() / 255)
    layer = Whitening(1, size=2, stride=2).double()
    layer.fit(images, epsilon=0)
    patches = layer(images).movedim(1, 0).flatten(1)  # (8, patches), those that the layer looks at in each second place
    torch.testing.assert_close(patches[:4], -patches[4:])
    everywhere = F.conv2d(images, layer.weight).movedim(1, 0).flatten(1)[:4]
    torch.testing.assert_close(everywhere.cov(), torch.eye(4).double())
    assert not layer.weight.requires_grad


def test_staged_network_written_out() -> None:
    torch.manual_seed(0)
    network = StagedCNN(widths=[8, 16], convolutions=[2, 1], pooled=[True, False], squeeze=8, head="mean").eval()
    stages = (8 * 9 * 8 + 8 * 9 * 8 + 4 * 8) + (8 * 9 * 16 + 2 * 16)  # convolutions and batch norms
    squeezes = (8 * 1 + 1 + 1 * 8 + 8) + (16 * 2 + 2 + 2 * 16 + 16)
    assert count(network) == 4 * 8 + stages + squeezes + (16 * 10 + 10)

    images = torch.randn(3, 1, 28, 28)
    w = network.state_dict()
    scale = (1 + 1e-5) ** -0.5  # of a batch norm that has seen nothing
    x = F.conv2d(images, w["features.0.weight"], stride=2)
    assert x.shape == (3, 8, 14, 14)
    x = F.relu(F.max_pool2d(F.conv2d(x, w["features.1.weight"], padding=1), 2) * scale)
    x = F.relu(F.conv2d(x, w["features.5.weight"], padding=1) * scale)
    factors = F.linear(x.mean((2, 3)), w["features.8.factors.0.weight"], w["features.8.factors.0.bias"]).relu()
    factors = F.linear(factors, w["features.8.factors.2.weight"], w["features.8.factors.2.bias"]).sigmoid()
    x = F.relu(F.conv2d(x * factors[:, :, None, None], w["features.9.weight"], padding=1) * scale)
    factors = F.linear(x.mean((2, 3)), w["features.12.factors.0.weight"], w["features.12.factors.0.bias"]).relu()
    factors = F.linear(factors, w["features.12.factors.2.weight"], w["features.12.factors.2.bias"]).sigmoid()
    x = (x * factors[:, :, None, None]).mean((2, 3))
    torch.testing.assert_close(network(images), F.linear(x, w["head.1.weight"], w["head.1.bias"]))


def test_cropped_edges_are_not_looked_at(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    small, cropping = StagedCNN(image_size=24).eval(), StagedCNN(crop=2).eval()
    cropping.load_state_dict(dict(zip(cropping.state_dict(), small.state_dict().values(), strict=True)))
    images = sample.normalise(sample.splits.test.images[:20] / 255)
    torch.testing.assert_close(cropping(images), small(images[:, :, 2:26, 2:26]))


def test_a_stage_begins_as_a_partial_identity() -> None:
    network = StagedCNN(whitening=0, widths=[4], convolutions=[2], pooled=[False])
    second = network.features[3]
    assert isinstance(second, torch.nn.Conv2d)
    features = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(second(features), features)


def test_head_takes_the_largest_value_wherever_it_is() -> None:
    network = StagedCNN(whitening=0, widths=[4], convolutions=[1], pooled=[False]).eval()
    images = torch.zeros(1, 1, 28, 28)
    images[..., 10:14, 8:12] = 1
    torch.testing.assert_close(network(images), network(images.roll((5, -3), (2, 3))))


def test_parameters_of_the_small_networks() -> None:
    assert count(StagedCNN()) == 142_506
    tiny = StagedCNN(widths=[8, 12, 14], convolutions=[1, 2, 3], whitening=0, head="mean")
    assert count(tiny) == 7_570
