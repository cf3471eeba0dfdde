"""The ink network, its file, and its training."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch.utils.data import DataLoader

from digits.data.datasets import Mnist5k
from digits.ink import network as ink_network
from digits.ink.export import to_onnx
from digits.ink.marks import SEPARATORS
from digits.ink.network import InkNetwork
from digits.ink.train import InkTraining, Pages, losses
from digits.pictures import ink


def test_the_finder_knows_the_network() -> None:
    assert ink.SEPARATORS == SEPARATORS
    for name in ("CELL", "OFFSET_UNIT", "MULTIPLE"):
        assert getattr(ink, name) == getattr(ink_network, name)


def test_the_file_computes_what_the_network_does() -> None:
    torch.manual_seed(0)
    network = InkNetwork().eval()
    for module in network.modules():  # weights that 16 bits hold exactly
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.half().float()
    pixels = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    with torch.inference_mode():
        expected, cells = network(pixels.float())
    session = onnxruntime.InferenceSession(to_onnx(network), providers=["CPUExecutionProvider"])
    found, found_cells = session.run(None, {"pixels": pixels.numpy()})
    assert found.shape == (1, 96, 128)
    np.testing.assert_allclose(found, expected.sigmoid()[:, 0], atol=2e-3)
    np.testing.assert_allclose(found_cells[:, 1:4], cells[:, 1:4], atol=2e-3)
    np.testing.assert_allclose(found_cells[:, 4:].sum(axis=1), 1, atol=1e-5)


def test_the_file_that_ships() -> None:
    assert ink.NETWORK.stat().st_size < 2_000_000
    assert {one.name for one in ink._network().get_outputs()} == {"ink", "cells"}


def test_losses_are_least_for_the_targets() -> None:
    """Against answers that are somewhat off; by construction, no answer has less than the targets themselves."""
    shape = (2, 16, 16)
    batch = {
        "clean": torch.zeros(2, 1, 64, 64, dtype=torch.uint8),
        "middle": torch.zeros(shape),
        "offset": torch.zeros(2, 2, 16, 16),
        "kind": torch.full(shape, -1),
        "weight": torch.zeros(shape),
        "angle": torch.tensor([0.1, -0.2]),
    }
    batch["clean"][:, :, 20:40, 20:30] = 255
    batch["middle"][:, 7, 6] = 1
    here = (slice(None), slice(5, 10), slice(5, 8))
    batch["kind"][here], batch["weight"][here] = 2, 1.5
    ink_logits = torch.where(batch["clean"] > 0, 12.0, -12.0)
    cells = torch.zeros(2, 4 + ink_network.KINDS, 16, 16)
    cells[:, 0] = torch.where(batch["middle"] > 0, 12.0, -12.0)
    cells[:, 3] = batch["angle"][:, None, None]
    cells[:, 6] = 12.0
    best = losses(ink_logits, cells, batch)
    assert all(value < 1e-2 for value in best.values())
    for channel, name in ((0, "middle"), (1, "offset"), (3, "angle"), (6, "kind")):
        other = cells.clone()
        other[:, channel] -= 13
        assert losses(ink_logits, other, batch)[name] > best[name] + 0.1
    assert losses(-ink_logits, cells, batch)["ink"] > 1


def test_a_step_of_training_lowers_the_loss_of_its_pages() -> None:
    digits = Mnist5k().load().train.images[:, 0].numpy()
    batch = next(iter(DataLoader(Pages(digits, seed=1, count=4), 4)))
    torch.manual_seed(0)
    training = InkTraining(lr=2e-3, steps=100)
    training.log_dict = lambda *_, **__: None
    optimizer = training.configure_optimizers()["optimizer"]
    first = training.training_step(batch, 0)
    for _ in range(12):
        optimizer.zero_grad()
        training.training_step(batch, 0).backward()
        optimizer.step()
    assert training.training_step(batch, 0) < 0.9 * first
    training.validation_step(batch, 0)
    assert len(list(Pages(digits, seed=1, start=2, count=3))) == 3


@pytest.mark.slow
def test_training_writes_the_file_and_resumes(mnist_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "digits.ink.train", "--batch-size", "2", "--data", str(mnist_root)]
    output, other = tmp_path / "ink.onnx", tmp_path / "other.onnx"
    for steps in (2, 3):
        subprocess.run([*command, "--output", str(output), "--steps", str(steps)], check=True, capture_output=True)
    onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    start = InkTraining(lr=1e-9, steps=2)
    torch.save({"state_dict": start.state_dict()}, tmp_path / "start.ckpt")
    more = ["--start", str(tmp_path / "start.ckpt"), "--lr", "1e-9", "--steps", "2"]
    subprocess.run([*command, *more, "--output", str(other)], check=True, capture_output=True)
    kept = {one.name: numpy_helper.to_array(one) for one in onnx.load(other).graph.initializer}
    one_of_them = start.network.across[0].weight.detach().numpy()  # which no batch norm follows
    assert any(np.allclose(one, one_of_them, atol=1e-3) for one in kept.values() if one.shape == one_of_them.shape)
