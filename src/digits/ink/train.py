"""Trains the ink network on pages that it draws:  python -m digits.ink.train --output ink.onnx

It takes hours on two cores. The same command resumes a run that was interrupted: its checkpoint is beside the output.
The file belongs at src/digits/pictures/ink.onnx; docs/pictures.md says what it is worth.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from digits.atomic import atomic_write
from digits.data.datasets import Mnist
from digits.errors import UserError, one_line_errors
from digits.ink.export import to_onnx
from digits.ink.network import InkNetwork
from digits.ink.pages import page
from digits.ink.targets import targets

HELD_OUT = 5_000  # of MNIST's training digits, for the pages to validate on
VALIDATION_PAGES = 256
SAVE_EVERY = 500  # steps
SEPARATOR_WEIGHT = 3.0  # of a cell, for they are few


class Pages(IterableDataset):
    """Pages with their targets; the one of a number is the same in every training with this seed.

    Args:
        digits: to write with: uint8 (N, 28, 28).
        seed: of what varies.
        start: the first page's number.
        count: of pages; None: without end.
    """

    def __init__(self, digits: np.ndarray, seed: int, start: int = 0, count: int | None = None) -> None:
        self.digits, self.seed = digits, seed
        self.start, self.stop = start, None if count is None else start + count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        cv2.setNumThreads(1)
        number = self.start
        while number != self.stop:
            drawn = page(np.random.default_rng((self.seed, number)), self.digits)
            yield {"image": np.ascontiguousarray(drawn.image.transpose(2, 0, 1)), **targets(drawn)}
            number += 1


def losses(ink: Tensor, cells: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each part of the answer.

    Args:
        ink, cells: as `InkNetwork` answers.
        batch: the targets, see `digits.ink.targets`.
    """
    clean = batch["clean"].float() / 255
    p = ink.sigmoid()
    overlap = 1 - (2 * (p * clean).sum(dim=(1, 2, 3)) + 20) / ((p + clean).sum(dim=(1, 2, 3)) + 20)
    middle, offset, sine, kinds = cells.split([1, 2, 1, cells.shape[1] - 4], dim=1)
    q, goal = middle[:, 0].sigmoid().clamp(1e-4, 1 - 1e-4), batch["middle"]
    # Zhou et al. 2019, Objects as Points, https://arxiv.org/abs/1904.07850, equation 1
    top = goal > 0.999
    peaks = torch.where(top, (1 - q) ** 2 * q.log(), (1 - goal) ** 4 * q**2 * (1 - q).log())
    weight, known = batch["weight"], batch["weight"] > 0
    away = F.smooth_l1_loss(offset, batch["offset"], reduction="none", beta=0.05).sum(dim=1)
    turned = (sine[:, 0] - batch["angle"][:, None, None]).abs()
    kind = F.cross_entropy(kinds, batch["kind"].clamp(0), reduction="none")
    kind = kind * (1 + (SEPARATOR_WEIGHT - 1) * (batch["kind"] > 0))
    number = known.sum().clamp(1)
    return {
        "ink": 4 * F.binary_cross_entropy_with_logits(ink, clean) + 0.5 * overlap.mean(),
        "middle": -0.3 * peaks.sum() / top.sum().clamp(1),
        "offset": 2 * (away * weight).sum() / weight.sum().clamp(1),
        "kind": 0.4 * (kind * known).sum() / number,
        "angle": (turned * known).sum() / number,
    }


class InkTraining(L.LightningModule):
    """The ink network with its losses.

    Args:
        lr: highest learning rate of one cycle.
        steps: of the whole training.
    """

    def __init__(self, lr: float, steps: int) -> None:
        super().__init__()
        self.network = InkNetwork().to(memory_format=torch.channels_last)
        self.lr, self.steps = lr, steps

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ink, cells = self.network(batch["image"].to(memory_format=torch.channels_last).float())
        parts = losses(ink.float(), cells.float(), batch)
        return parts | {"loss": torch.stack(list(parts.values())).sum()}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        parts = self._losses(batch)
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, prog_bar=True)
        return parts["loss"]

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.log_dict({f"val/{name}": value for name, value in self._losses(batch).items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:  # pragma: no cover - a slow test runs it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="weights to start from: an earlier training's ink.ckpt")
    parser.add_argument("--output", type=Path, default=Path("ink.onnx"))
    arguments = parser.parse_args()

    L.seed_everything(arguments.seed)
    training = InkTraining(arguments.lr, arguments.steps)
    try:
        digits = Mnist(arguments.data).load().train.images[:, 0].numpy()
        if arguments.start:
            with one_line_errors(arguments.start, "no checkpoint of such a training"):
                training.load_state_dict(torch.load(arguments.start, weights_only=True)["state_dict"])
    except UserError as error:
        parser.error(str(error))
    saved = arguments.output.with_suffix(".ckpt")
    done = torch.load(saved, weights_only=True)["global_step"] if saved.exists() else 0
    pages = Pages(digits[:-HELD_OUT], arguments.seed, start=done * arguments.batch_size)
    others = Pages(digits[-HELD_OUT:], arguments.seed + 1_000_000, count=VALIDATION_PAGES)
    trainer = L.Trainer(
        max_steps=arguments.steps,
        precision="bf16-mixed",
        gradient_clip_val=5.0,
        val_check_interval=SAVE_EVERY,
        limit_val_batches=VALIDATION_PAGES // arguments.batch_size,
        logger=False,
        callbacks=[
            EMAWeightAveraging(decay=0.998),
            ModelCheckpoint(saved.parent, saved.stem, every_n_train_steps=SAVE_EVERY, enable_version_counter=False),
        ],
    )
    train, val = (DataLoader(some, arguments.batch_size, num_workers=1) for some in (pages, others))
    trainer.fit(training, train, val, ckpt_path=saved if done else None, weights_only=True)
    with atomic_write(arguments.output) as part:
        part.write_bytes(to_onnx(training.network.eval()))
    print(f"saved: {arguments.output}", *(f"{name} {value:.4f}" for name, value in trainer.callback_metrics.items()))


if __name__ == "__main__":
    main()
