"""Seconds of a sweep of eight short jobs: one after the other, and in parallel processes with hydra/launcher=joblib.

    python -m benchmarks.sweep_time --rounds 3

The jobs are small ones, with small batches, which do not keep two cores busy each; a job that does gains less.
Each round runs both, one after the other, so that a busy machine disturbs both alike; the ratio is one of medians.
Start-up, testing, figures and the summary are counted on both sides; no job fits a gate, which would take longer than
its training.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
JOBS = ["model=fast", "data=mnist5k", "data.batch_size=16", "model.dropout=0.1,0.3", "rejection=none"]
WAYS = {"one after the other": [], "hydra/launcher=joblib": ["hydra/launcher=joblib"]}


def sweep(jobs: int, *overrides: str) -> float:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory() as logs:
        start = time.perf_counter()
        command = [sys.executable, "train.py", "-m", *JOBS, *overrides, f"log_dir={logs}"]
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        assert len(list(Path(logs).glob("train/multiruns/*/*/metrics.json"))) == jobs
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--seeds", type=int, default=4, help="of each of two settings: half the jobs (default: 4)")
    parser.add_argument("--epochs", type=int, default=15, help="of each job (default: 15)")
    arguments = parser.parse_args()
    rounds, jobs = arguments.rounds, 2 * arguments.seeds
    given = [f"trainer.max_epochs={arguments.epochs}", f"seed={','.join(map(str, range(1, arguments.seeds + 1)))}"]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(rounds):
        for name, overrides in WAYS.items():
            seconds[name].append(sweep(jobs, *given, *overrides))
            print(f"round {round_ + 1}/{rounds}  {name}: {seconds[name][-1]:.1f} s", flush=True)
    serial, parallel = (statistics.median(values) for values in seconds.values())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{jobs} jobs on {cores} cores: {serial:.1f} s one after the other, {parallel:.1f} s with"
        f" hydra/launcher=joblib: {serial / parallel:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
