"""What only a GPU shows; benchmarks/gpu.sh runs these there, and everywhere else they are skipped."""

import copy

import pytest
import torch
from conftest import Command
from torch import Tensor, nn

from digits import hardware
from digits.data import DigitsDataModule
from digits.networks import CNN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def batch(sample: DigitsDataModule) -> Tensor:
    """100 normalised digits."""
    return sample.normalise(sample.splits.train.images[:100].float() / 255)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    return CNN(dropout=0.0).to(memory_format=torch.channels_last)


def relative(ours: Tensor, reference: Tensor) -> float:
    return ((ours.double().cpu() - reference).norm() / reference.norm()).item()


def gradients(network: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and all gradients of their mean square in one vector."""
    logits = network(batch)
    logits.float().square().mean().backward()
    return logits.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def test_float32_is_float32(network: nn.Module, batch: Tensor) -> None:
    hardware.plain_float32()
    reference = gradients(copy.deepcopy(network).double(), batch.double())
    found = gradients(network.cuda(), batch.cuda())
    for ours, theirs in zip(found, reference, strict=True):
        assert relative(ours, theirs) < 1e-5  # TF32 has 11 bits: 5e-4


def test_bf16_is_near_float32(network: nn.Module, batch: Tensor) -> None:
    reference = gradients(copy.deepcopy(network).double(), batch.double())
    with torch.autocast("cuda", torch.bfloat16):
        logits, gradient = gradients(network.cuda(), batch.cuda())
    assert logits.dtype == torch.bfloat16
    assert 1e-4 < relative(logits, reference[0]) < 0.02  # it has 8 bits
    assert relative(gradient, reference[1]) < 0.05


def test_the_device_is_taken_and_named() -> None:
    assert hardware.device_type("auto") == hardware.device_type("gpu") == "cuda"
    assert torch.cuda.get_device_name() in hardware.describe_device(torch.device("cuda", 0))
    native = torch.cuda.get_device_capability()[0] >= 8  # Ampere and later
    assert hardware.resolve_precision("auto", "cuda") == ("bf16-mixed" if native else "32-true")


def test_want_of_memory_is_known() -> None:
    device = torch.device("cuda", 0)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2 * torch.cuda.get_device_properties(device).total_memory, dtype=torch.uint8, device=device)
    assert hardware.is_out_of_memory(caught.value, device)


def test_a_seed_gives_the_same_figures_on_it(command: Command) -> None:
    few = ["data=mnist5k", "augmentation=affine", "trainer.max_epochs=1", "trainer.limit_train_batches=10"]
    first, second = (command("train", *few).record for _ in range(2))
    assert "CUDA" in first["device"]
    assert first["test/loss"] == second["test/loss"]
