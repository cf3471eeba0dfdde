"""Parameter groups by name, and Muon with AdamW against torch.optim's own."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.networks import CNN
from digits.optimizers import MuonAdamW, make_optimizer

ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def names_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[list[str]]:
    """The names of the parameters in each group."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def small() -> nn.Module:
    """Layers of all kinds, of which the normalisation has a weight and a bias of three dimensions."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 26, 26]), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)
    )


def test_without_groups_all_parameters_have_the_same_settings() -> None:
    network = CNN()
    optimizer = make_optimizer(ADAMW, network)
    assert names_of(optimizer, network) == [[name for name, _ in network.named_parameters()]]
    assert "params" not in optimizer.defaults


def test_the_first_group_that_matches_counts() -> None:
    network = CNN()
    groups = [{"params": "features.*", "lr": 0.001}, {"params": ["*.bias", "head.4.*"], "weight_decay": 0.0}]
    optimizer = make_optimizer(ADAMW, network, groups)
    assert names_of(optimizer, network) == [
        ["head.1.weight"],
        ["features.0.weight", "features.0.bias", "features.3.weight", "features.3.bias"],
        ["head.1.bias", "head.4.weight", "head.4.bias"],
    ]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.01, 0.1),
        (0.001, 0.1),
        (0.01, 0.0),
    ]


def test_biases_and_norms_are_spared_from_decay_in_every_group() -> None:
    network = small()
    optimizer = make_optimizer(ADAMW, network, [{"params": "4.*", "lr": 0.5}], no_decay=True)
    assert names_of(optimizer, network) == [
        ["0.weight"],
        ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"],
        ["4.weight"],
        ["4.bias"],
    ]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.01, 0.1),
        (0.01, 0.0),
        (0.5, 0.1),
        (0.5, 0.0),
    ]


def test_frozen_parameters_are_left_out() -> None:
    network = CNN()
    network.features.requires_grad_(False)
    optimizer = make_optimizer(ADAMW, network)
    assert names_of(optimizer, network) == [[f"head.{i}.{kind}" for i in (1, 4) for kind in ("weight", "bias")]]
    with pytest.raises(
        UserError, match=r"optimizer.groups: features.\* matches no parameter. Those left to match: head.1.weight"
    ):
        make_optimizer(ADAMW, network, [{"params": "features.*", "lr": 1.0}])
    network.requires_grad_(False)
    with pytest.raises(UserError, match="model: nothing is left to train"):
        make_optimizer(ADAMW, network)


@pytest.mark.parametrize(
    ("groups", "no_decay", "message"),
    [
        (
            ["backbone.*"],
            False,
            r"optimizer.groups: backbone.\* matches no parameter. .*: features.0.weight, features.0.bias, ",
        ),
        (["*", "*.bias"], False, r"optimizer.groups: \*.bias matches no parameter. Those left to match: none$"),
        ([["*.bias", "nothing"]], False, "optimizer.groups: nothing matches no parameter"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(groups: list, no_decay: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(ADAMW, CNN(), [{"params": patterns, "lr": 0.1} for patterns in groups], no_decay)


def test_a_setting_that_the_optimizer_has_not_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer.groups: AdamW has no setting momentun. There are: lr, betas, "):
        make_optimizer(ADAMW, CNN(), [{"params": "*.bias", "momentun": 0.9}])
    with pytest.raises(UserError, match=r"optimizer.no_decay: Rprop has no setting weight_decay"):
        make_optimizer(torch.optim.Rprop, CNN(), no_decay=True)


def test_a_groups_setting_out_of_range_is_the_optimizers_error() -> None:
    for make in (ADAMW, partial(MuonAdamW, lr=0.02)):
        with pytest.raises(ValueError, match=r"-1"):
            make_optimizer(make, CNN(), [{"params": "*.bias", "lr": -1.0}])


def stepped(optimizer: torch.optim.Optimizer, network: nn.Module, sample: DigitsDataModule, steps: int) -> None:
    batch = sample.splits.train
    for step in range(steps):
        images, target = batch.__getitems__(list(range(step * 50, step * 50 + 50)))
        loss = nn.functional.cross_entropy(network(sample.normalise(images.float() / 255)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_and_adamw_are_torchs(sample: DigitsDataModule, memory_format: torch.memory_format) -> None:
    """Each gradient is given to torch.optim.Muon for the flattened weight, or to torch.optim.AdamW."""
    torch.manual_seed(0)
    network = CNN(dropout=0.0).to(memory_format=memory_format)
    settings = {"weight_decay": 0.3, "momentum": 0.9}
    optimizer = MuonAdamW(network.parameters(), network, lr=0.02, adamw_lr=0.003, **settings)
    hidden = ["features.3.weight", "head.1.weight"]
    assert names_of(optimizer, network)[0] == hidden
    matrices = {name: network.get_parameter(name).detach().flatten(1).clone() for name in hidden}
    others = {name: p.detach().clone() for name, p in network.named_parameters() if name not in hidden}
    muon = torch.optim.Muon(matrices.values(), lr=0.02, **settings)
    adamw = torch.optim.AdamW(others.values(), lr=0.003, weight_decay=0.3)
    for step in range(3):
        images, target = sample.splits.train.__getitems__(list(range(step * 50, step * 50 + 50)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(sample.normalise(images.float() / 255)), target).backward()
        for name, parameter in network.named_parameters():
            if name in matrices:
                matrices[name].grad = parameter.grad.flatten(1)
            else:
                others[name].grad = parameter.grad.clone()
        before = {name: network.get_parameter(name).detach().clone() for name in hidden}
        for one in (optimizer, muon, adamw):
            one.step()
        for name, parameter in network.named_parameters():
            if name in others:
                torch.testing.assert_close(parameter.detach(), others[name], rtol=0, atol=0)
            else:  # Muon computes in bfloat16, and sums in another order where the columns have another
                update = parameter.detach() - before[name]
                expected = matrices[name].view_as(update) - before[name]
                assert (update - expected).norm() < 0.02 * expected.norm()
                matrices[name].copy_(parameter.detach().flatten(1))
        assert network.features[3].weight.is_contiguous(memory_format=memory_format)


def test_muon_resumes_with_the_same_bits(sample: DigitsDataModule) -> None:
    def begun() -> tuple[nn.Module, MuonAdamW]:
        torch.manual_seed(0)
        network = CNN(dropout=0.0, batch_norm=True).to(memory_format=torch.channels_last)
        groups = [{"params": "head.1.*", "lr": 0.01}]
        return network, make_optimizer(MuonAdamW, network, groups, no_decay=True)

    network, optimizer = begun()
    stepped(optimizer, network, sample, 2)
    weights, state = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    assert [group["lr"] for group in state["param_groups"]] == [0.02, 0.001, 0.001, 0.01, 0.001]
    resumed, its_optimizer = begun()
    resumed.load_state_dict(weights)
    its_optimizer.load_state_dict(state)
    for one, its in ((network, optimizer), (resumed, its_optimizer)):
        its.param_groups[0]["lr"] = 0.03  # as a schedule does
        stepped(its, one, sample, 3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_muon_takes_the_weights_that_are_named() -> None:
    network = CNN()
    optimizer = MuonAdamW(network.parameters(), network, hidden=["head.*"])
    assert names_of(optimizer, network)[0] == ["head.1.weight", "head.4.weight"]
    with pytest.raises(UserError, match=r"optimizer.hidden: nowhere matches no parameter. .*features.0.weight"):
        MuonAdamW(network.parameters(), network, hidden=["nowhere"])
    with pytest.raises(ValueError, match=r"no hidden weight is trained.* Give optimizer.hidden"):
        MuonAdamW((linear := nn.Linear(2, 2)).parameters(), linear)
    for wrong in ({"lr": -1.0}, {"adamw_lr": -1.0}, {"adjust_lr_fn": "other"}):
        with pytest.raises(ValueError, match=r"-1|other"):
            MuonAdamW(network.parameters(), network, **wrong)


def test_muon_takes_a_closure() -> None:
    network = CNN()
    optimizer = MuonAdamW(network.parameters(), network)

    def closure() -> float:
        assert torch.is_grad_enabled()
        loss = network(torch.ones(1, 1, 28, 28)).sum()
        loss.backward()
        return loss.item()

    assert isinstance(optimizer.step(closure), float)
