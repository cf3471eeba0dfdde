"""Seconds from a command to what one waits for: the first training step, a picture's answer, the page, an evaluation.

    python -m benchmarks.start_time best.ckpt --rounds 5

Each round runs all commands, one after the other. Bytecode is written in a first round that does not count, as a user
has it from the second command on. Beside the median seconds stand those of the processor, which another process on the
machine disturbs less.
"""

import argparse
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PICTURE = "docs/images/seven.png"
# Ends the process where the second batch is asked for: the first step is made.
FIRST_STEP = """
import os, sys
from lightning.pytorch.callbacks import Callback
class FirstStep(Callback):
    def on_train_batch_end(self, *_):
        os._exit(0)
"""


def seconds_of(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that a command takes to its end, and those of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=PROJECT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start, _processor_seconds(before)


def until_it_answers(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds until the page at a free port answers, and those of the processor."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, *command, f"port={port}"]
    process = subprocess.Popen(words, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/model", timeout=60).read()
            break
        except OSError:
            if process.poll() is not None:
                sys.exit(f"error: {' '.join(words)} ended with {process.returncode}")
            time.sleep(0.02)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds, _processor_seconds(before)


def _processor_seconds(before: resource.struct_rusage) -> float:
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a best.ckpt; its data set is evaluated")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each command (default: 5)")
    arguments = parser.parse_args()
    if not arguments.checkpoint.is_file():
        sys.exit(f"error: {arguments.checkpoint}: no such file. Give a checkpoint")

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "first_step.py").write_text(FIRST_STEP)
        # A place of its own for the bytecode, as nobody but its owner may write beside the libraries.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        paths = [folder, str(PROJECT / "src"), kept.get("PYTHONPATH", "")]
        environment = kept | {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "PYTHONPATH": os.pathsep.join(paths)}
        checkpoint, logs = f"ckpt_path={arguments.checkpoint.resolve()}", f"log_dir={folder}/logs"
        stop = "+callbacks.first_step._target_=first_step.FirstStep"
        commands: dict[str, tuple[Callable[..., tuple[float, float]], list[str]]] = {
            "train.py to its first step": (seconds_of, ["train.py", logs, stop]),
            "digits.predict of one picture": (seconds_of, ["-m", "digits.predict", checkpoint, f"images={PICTURE}"]),
            "digits.demo to its first answer": (until_it_answers, ["-m", "digits.demo", checkpoint]),
            "eval.py to its end": (seconds_of, ["eval.py", checkpoint, logs]),
            "train.py --help": (seconds_of, ["train.py", "--help"]),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for round_ in range(arguments.rounds + 1):
            for name, (measure, command) in commands.items():
                seconds = measure(command, environment)
                if round_:
                    found[name].append(seconds)
                    print(f"round {round_}/{arguments.rounds}  {name}: {seconds[0]:.1f} s", flush=True)
    print(
        f"\n| {platform.processor() or platform.machine()}, {os.cpu_count()} cores | median s | all s | processor s |"
    )
    print("|---|---|---|---|")
    for name, values in found.items():
        walls, processor = zip(*values, strict=True)
        runs = " ".join(f"{wall:.1f}" for wall in sorted(walls))
        print(f"| {name} | {statistics.median(walls):.1f} | {runs} | {statistics.median(processor):.1f} |")


if __name__ == "__main__":
    main()
