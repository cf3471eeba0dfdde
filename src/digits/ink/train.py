"""Trains the ink network on pages that it draws:  python -m digits.ink.train"""

import argparse
import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from digits.data.datasets import Mnist
from digits.ink.network import InkNetwork
from digits.ink.pages import page
from digits.ink.targets import targets

HELD_OUT = 5_000  # of the training digits, for pages to validate on
SEPARATOR_WEIGHT = 3.0


class Pages(IterableDataset):
    """Pages with their targets, without end; from a number on, each is the same in every training of a seed."""

    def __init__(self, digits: np.ndarray, seed: int, start: int = 0) -> None:
        self.digits, self.seed, self.start = digits, seed, start

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        cv2.setNumThreads(1)
        number = self.start
        while True:
            drawn = page(np.random.default_rng((self.seed, number)), self.digits)
            yield {"image": np.ascontiguousarray(drawn.image.transpose(2, 0, 1)), **targets(drawn)}
            number += 1


def losses(ink: Tensor, cells: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each part of the answer."""
    clean = batch["clean"].float() / 255
    p = ink.sigmoid()
    overlap = 1 - (2 * (p * clean).sum(dim=(1, 2, 3)) + 20) / ((p + clean).sum(dim=(1, 2, 3)) + 20)
    middle, offset, sine, kinds = cells.split([1, 2, 1, cells.shape[1] - 4], dim=1)
    q, goal = middle[:, 0].sigmoid().clamp(1e-4, 1 - 1e-4), batch["middle"]
    # Zhou et al. 2019, Objects as Points, https://arxiv.org/abs/1904.07850, equation 1
    top = goal > 0.999
    peaks = torch.where(top, (1 - q) ** 2 * q.log(), (1 - goal) ** 4 * q**2 * (1 - q).log())
    weight = batch["weight"]
    away = F.smooth_l1_loss(offset, batch["offset"], reduction="none", beta=0.05).sum(dim=1)
    turned = (sine[:, 0] - batch["angle"][:, None, None]).abs()
    known = weight > 0
    kind = F.cross_entropy(kinds, batch["kind"].clamp(0), reduction="none") * (
        1 + (SEPARATOR_WEIGHT - 1) * (batch["kind"] > 0)
    )
    number = known.sum().clamp(1)
    return {
        "ink": 4 * F.binary_cross_entropy_with_logits(ink, clean) + 0.5 * overlap.mean(),
        "middle": -0.3 * peaks.sum() / top.sum().clamp(1),
        "offset": 2 * (away * weight).sum() / weight.sum().clamp(1),
        "kind": 0.4 * (kind * known).sum() / number,
        "angle": (turned * known).sum() / number,
    }


def mnist(root: Path) -> np.ndarray:
    return Mnist(root).load().train.images[:, 0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--output", type=Path, default=Path("ink.pt"))
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    digits = mnist(arguments.data)
    network = InkNetwork().to(memory_format=torch.channels_last)
    if arguments.start:
        network.load_state_dict(torch.load(arguments.start)["ema"])
    ema = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, arguments.steps, pct_start=0.1)
    step = 0
    if arguments.output.exists():
        saved = torch.load(arguments.output)
        step = saved["step"]
        network.load_state_dict(saved["network"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    pages = Pages(digits[:-HELD_OUT], arguments.seed, step * arguments.batch)
    loader = iter(DataLoader(pages, arguments.batch, num_workers=1, prefetch_factor=4))
    sums: dict[str, float] = {}
    start, since = time.time(), step
    while step < arguments.steps:
        batch = next(loader)
        image = batch["image"].to(memory_format=torch.channels_last).float()
        with torch.autocast("cpu", torch.bfloat16):
            ink, cells = network(image)
        parts = losses(ink.float(), cells.float(), batch)
        loss = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        step += 1
        with torch.no_grad():
            rate = min(0.998, step / (step + 20))
            for mean, now in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
                mean.lerp_(now, 1 - rate) if mean.is_floating_point() else mean.copy_(now)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0) + value.item()
        if step % 100 == 0 or step == arguments.steps:
            done = step - since
            print(
                step,
                *(f"{name} {value / done:.4f}" for name, value in sums.items()),
                f"{done * arguments.batch / (time.time() - start):.0f}/s",
                flush=True,
            )
            sums, start, since = {}, time.time(), step
        if step % 500 == 0 or step == arguments.steps:
            state = {
                "step": step,
                "network": network.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save(state, arguments.output.with_suffix(".tmp"))
            arguments.output.with_suffix(".tmp").replace(arguments.output)


if __name__ == "__main__":
    main()
