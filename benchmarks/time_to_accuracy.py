"""Training seconds to a test accuracy: experiments beside the plain loop that tutorials use.

    python -m benchmarks.time_to_accuracy --rounds 3

The plain loop is that of benchmarks/epoch_time.py; it trains until an epoch ends at 99.0 % of the test images, and
only its training counts. Each round runs all contestants, one after the other, with a seed of its own, so that a busy
machine disturbs all alike; the ratios are those of medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.epoch_time import PROJECT, PlainLoop, prepared
from digits.hardware import describe_device

GOAL = 0.99
EXPERIMENTS = ("speedrun", "quick")
MOST_EPOCHS = 15


def plain_loop(root: Path, seed: int) -> tuple[float, float, float]:
    """Seconds to the goal, seconds of its first epoch, and the accuracy reached."""
    torch.manual_seed(seed)
    loop = PlainLoop(root, images=60_000)
    seconds: list[float] = []
    accuracy = 0.0
    while accuracy < GOAL and len(seconds) < MOST_EPOCHS:
        seconds.append(loop.epoch())
        accuracy = loop.test_accuracy()
    if accuracy < GOAL:
        sys.exit(f"error: the plain loop reached {accuracy:.2%} in {MOST_EPOCHS} epochs, not {GOAL:.1%}")
    return sum(seconds), seconds[0], accuracy


def experiment(name: str, root: Path, seed: int) -> tuple[float, float]:
    """Training seconds, and the test accuracy, of a run in a process of its own."""
    with tempfile.TemporaryDirectory() as logs:
        words = ["train.py", f"experiment={name}", f"seed={seed}", f"data.root={root.resolve()}", f"log_dir={logs}"]
        words += ["data.offline_fallback=false", "rejection=none", "figures=false"]
        subprocess.run([sys.executable, *words], cwd=PROJECT, check=True, capture_output=True)
        [record] = Path(logs).glob("train/runs/*/metrics.json")
        found = json.loads(record.read_text())
        return found["train_seconds"], found["test/acc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each contestant (default: 3)")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    accuracy: dict[str, list[float]] = {}

    def note(name: str, took: float, reached: float | None = None) -> None:
        seconds.setdefault(name, []).append(took)
        if reached is not None:
            accuracy.setdefault(name, []).append(100 * reached)
        print(f"{name}: {took:.2f} s" + (f", {reached:.2%}" if reached else ""), flush=True)

    to_goal, epoch = f"plain loop to {GOAL:.1%}", "plain loop, one epoch"
    with prepared(arguments.data) as plain_root:
        for round_ in range(1, arguments.rounds + 1):
            total, first, reached = plain_loop(plain_root, round_)
            note(to_goal, total, reached)
            note(epoch, first)
            for name in EXPERIMENTS:
                note(f"experiment={name}", *experiment(name, arguments.data, round_))

    median = {name: statistics.median(values) for name, values in seconds.items()}
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    table = Table(title=f"training seconds, MNIST, {describe_device(device)}, torch {torch.__version__}")
    for column in ("", "median s", "all s", "test accuracy", f"of the plain loop's time to {GOAL:.1%}", "of its epoch"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in median.items():
        runs = " ".join(f"{second:.2f}" for second in sorted(seconds[name]))
        mean = f"{statistics.mean(accuracy[name]):.2f} %" if name in accuracy else ""
        reached = name not in accuracy or statistics.mean(accuracy[name]) >= 100 * GOAL
        share = f"1/{median[to_goal] / value:.1f}" if reached else "goal missed"
        table.add_row(name, f"{value:.2f}", runs, mean, share, f"{value / median[epoch]:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
