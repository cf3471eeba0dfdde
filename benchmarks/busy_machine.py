"""Seconds of training on an idle machine and beside one busy process, by how libgomp's threads wait for each other.

    python -m benchmarks.busy_machine --rounds 3

A child process trains a small network for a number of steps in plain PyTorch and prints the seconds: only the setting
differs. The settings alternate in each round; the figures are medians. Linux only: elsewhere torch has no libgomp.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

# What libgomp does by itself is to spin for 300,000 rounds; digits sets 1000.
SETTINGS = {
    "libgomp's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
}


def train(steps: int) -> float:
    """Seconds of so many steps, after a few that do not count."""
    import torch

    from digits.networks import CNN

    torch.manual_seed(0)
    network = CNN(channels=(16, 32), hidden=64, strided_stem=True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    images, target = torch.randn(100, 1, 28, 28), torch.randint(10, (100,))
    for step in range(steps + 20):
        if step == 20:
            start = time.perf_counter()
        torch.nn.functional.cross_entropy(network(images), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def child(setting: dict[str, str], steps: int) -> float:
    """Seconds of a training in a process with this environment; importing digits would set it otherwise."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    # An empty variable counts as the user's own choice, and libgomp takes it for none.
    environment = {**kept, "GOMP_SPINCOUNT": "", **setting}
    code = f"from benchmarks.busy_machine import train; print(train({steps}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: 400)")
    arguments = parser.parse_args()
    rounds, steps = arguments.rounds, arguments.steps
    seconds: dict[tuple[str, bool], list[float]] = {}
    for round_ in range(rounds):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for name, setting in SETTINGS.items():
                    seconds.setdefault((name, busy), []).append(child(setting, steps))
                    print(
                        f"round {round_ + 1}/{rounds}  busy={busy}  {name}: {seconds[name, busy][-1]:.1f} s", flush=True
                    )
            finally:
                if other:
                    other.kill()
    print(f"\n| {steps} steps | idle | beside a busy process |\n|---|---|---|")
    for name in SETTINGS:
        idle, busy_ = (seconds[name, busy] for busy in (False, True))
        cells = [
            f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})" for values in (idle, busy_)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
