"""Seconds per training epoch of 55,000 images: train.py beside the plain loop that tutorials use.

    python -m benchmarks.epoch_time --rounds 3

Both train the same network with batch 100 and Adam. Each round runs all contestants, one after the other, so that
a busy machine disturbs all alike; the ratio is one of medians. Validation is left out on both sides.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from digits.data.datasets import Mnist
from digits.hardware import describe_device

PROJECT = Path(__file__).parents[1]
IMAGES = 55_000


class PlainLoop:
    """Training as most tutorials write it: float32, a transform for each image, a DataLoader as it comes.

    Args:
        root: where torchvision finds MNIST.
        images: to train on.
    """

    def __init__(self, root: Path, images: int) -> None:
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
        train, test = (datasets.MNIST(str(root), train=part, transform=transform) for part in (True, False))
        self.loader = DataLoader(Subset(train, range(images)), batch_size=100, shuffle=True)
        self.test_loader = DataLoader(test, batch_size=1000)
        self.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001)
        self.loss_function = nn.CrossEntropyLoss()

    def epoch(self) -> float:
        """Trains one epoch; returns its seconds."""
        self.network.train()
        start = time.perf_counter()
        running_loss, correct = 0.0, 0
        for images, target in self.loader:
            images, target = images.to(self.device), target.to(self.device)
            self.optimizer.zero_grad()
            logits = self.network(images)
            loss = self.loss_function(logits, target)
            loss.backward()
            self.optimizer.step()
            running_loss += loss.item()
            correct += (logits.argmax(dim=1) == target).sum().item()
        return time.perf_counter() - start

    @torch.no_grad()
    def test_accuracy(self) -> float:
        self.network.eval()
        right = [self.network(images.to(self.device)).argmax(1).cpu() == target for images, target in self.test_loader]
        return torch.cat(right).double().mean().item()


@contextmanager
def prepared(data: Path) -> Iterator[Path]:
    """A folder with a copy of MNIST for torchvision, which unpacks beside the originals: they may not be ours."""
    if not Mnist(data).folder.is_dir():
        sys.exit(f"error: --data {data}: no MNIST there. Set DIGITS_DATA, or run train.py to download it")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Mnist(data).folder, Mnist(Path(folder)).folder)
        datasets.MNIST(folder, download=True)
        yield Path(folder)


def project(*overrides: str) -> float:
    """One epoch of train.py as a user runs it, in a process of its own: the seconds in its metrics.csv."""
    with tempfile.TemporaryDirectory() as logs:
        command = ["train.py", "data=mnist", "data.offline_fallback=false", "trainer.max_epochs=1"]
        command += ["trainer.limit_val_batches=0", "trainer.limit_test_batches=0", "rejection=none"]
        command += [f"log_dir={logs}", *overrides]
        subprocess.run([sys.executable, *command], cwd=PROJECT, check=True, capture_output=True)
        [history] = Path(logs).glob("train/runs/*/metrics.csv")
        with history.open() as file:
            [epoch] = csv.DictReader(file)
        return float(epoch["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contestant (default: 3)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"of an epoch, in hundreds (default: {IMAGES})")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    arguments = parser.parse_args()
    with prepared(arguments.data) as plain_root:
        few = [f"trainer.limit_train_batches={arguments.images // 100}"] if arguments.images < IMAGES else []
        root = [f"data.root={arguments.data.resolve()}", *few]
        contestants: dict[str, Callable[[], float]] = {
            "plain loop (float32)": lambda: PlainLoop(plain_root, arguments.images).epoch(),
            "train.py": lambda: project(*root),
            "train.py trainer.precision=32-true": lambda: project(*root, "trainer.precision=32-true"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for round_ in range(arguments.rounds):
            for name, run in contestants.items():
                seconds[name].append(run())
                print(f"round {round_ + 1}/{arguments.rounds}  {name}: {seconds[name][-1]:.1f} s", flush=True)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    baseline = next(iter(median.values()))
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    table = Table(
        title=f"a training epoch of {arguments.images:,} images, {describe_device(device)}, torch {torch.__version__}"
    )
    for column in ("", "median s", "all s", "images/s", "times as fast"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in median.items():
        runs = " ".join(f"{second:.1f}" for second in sorted(seconds[name]))
        table.add_row(name, f"{value:.1f}", runs, f"{arguments.images / value:,.0f}", f"{baseline / value:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
