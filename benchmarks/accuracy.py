"""Test accuracy of models and experiments over several seeds, mean and standard deviation: the README's table.

    python -m benchmarks.accuracy                       every row, seeds 1 to 3; what was measured before is kept
    python -m benchmarks.accuracy --rows fast --seeds 5
    python -m benchmarks.accuracy --time                the seconds of one epoch of each row, on an idle machine
    python -m benchmarks.accuracy --write               puts the table into README.md and the experiments' heads

The seeds share one validation split; each run is tested with its best checkpoint by validation.
"""

import argparse
import functools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

PROJECT = Path(__file__).parents[1]
LOGS = PROJECT / "logs" / "benchmarks" / "accuracy"
BEGIN, END = "<!-- measured by benchmarks/accuracy.py -->", "<!-- end of what was measured -->"
RECIPE = "augmentation=affine scheduler=onecycle optimizer.lr=0.003"
ROWS = {
    "cnn": "",
    "fast": "model=fast scheduler=onecycle optimizer.lr=0.003 trainer.max_epochs=8",
    "densenet": f"model=densenet {RECIPE} trainer.max_epochs=8",
    "resnet18": f"model=resnet18 {RECIPE} trainer.max_epochs=5",
    "tutorial": "experiment=tutorial",
    "quick": "experiment=quick",
    "accurate": "experiment=accurate",  # model=cnn_bn
}

NOTES = {"cnn": " (`model=cnn`)", "quick": " (`model=fast`)", "accurate": " (`model=cnn_bn`)"}


def records(row: str, part: str) -> list[dict]:
    """The completed runs of a row's present recipe: `part` is a seed's number, `*` for any, or `time`."""
    found = []
    for path in sorted(LOGS.glob(f"{row}/{part}/train/runs/*/metrics.json")):
        record = json.loads(path.read_text())
        ran = recipe(OmegaConf.load(path.parent / "config.yaml"))
        if part == "time" or "test/acc" not in record:
            ran["max_epochs"] = present(row)["max_epochs"]  # one epoch is enough for its seconds
        if record["status"] == "completed" and ran == present(row):
            found.append(record)
    return found


@functools.cache
def present(row: str) -> dict:
    """The recipe that a row's command stands for now: what was measured with another must not be taken for it."""
    with initialize_config_dir(config_dir=str(PROJECT / "configs"), version_base="1.3"):
        return recipe(compose("train", overrides=ROWS[row].split()))


def recipe(cfg: DictConfig) -> dict:
    """What bears on the result, but for the seed."""
    groups = ("model", "optimizer", "scheduler", "augmentation")
    chosen = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in groups}
    data = {name: cfg.data[name] for name in ("dataset", "batch_size", "split_seed", "mean", "std")}
    rest = {"label_smoothing": cfg.loss.get("label_smoothing"), "max_epochs": cfg.trainer.max_epochs}
    return chosen | data | rest | {"precision": cfg.trainer.precision}


def tested(row: str) -> list[dict]:
    return [record for record in records(row, "*") if "test/acc" in record]


def train(row: str, part: str, *overrides: str) -> None:
    overrides = (*ROWS[row].split(), "data.offline_fallback=false", *overrides, f"log_dir={LOGS / row / part}")
    subprocess.run([sys.executable, "train.py", *overrides], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def cells(row: str) -> dict[str, str]:
    """A row of the table, from what was measured."""
    runs = tested(row)
    accuracy = [100 * record["test/acc"] for record in runs]
    spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    timed = records(row, "time")
    epochs, seconds = runs[0]["epochs"], timed[-1]["train_seconds"] if timed else None
    return {
        "command": f"`python train.py {ROWS[row]}`".replace(" `", "`") + NOTES.get(row, ""),
        "parameters": f"{runs[0]['parameters']:,}",
        "test accuracy": f"{statistics.mean(accuracy):.2f}{spread} %",
        "seeds": ", ".join(f"{value:.2f}" for value in accuracy),
        "training": f"{epochs} × {seconds:.1f} s" if seconds else f"{epochs} epochs",
    }


def machine(rows: list[str]) -> str:
    """What the figures of some rows were measured on: every machine, version and commit that took part."""

    def devices(found: list[dict]) -> str:
        return " or ".join(dict.fromkeys(f"{record['device']}, {record['precision']}" for record in found))

    accuracy, seconds = ([r for row in rows for r in part(row)] for part in (tested, lambda row: records(row, "time")))
    versions = " or ".join(dict.fromkeys(record["versions"]["torch"] for record in accuracy))
    commits = " or ".join(dict.fromkeys(str(record["git_commit"])[:7] for record in accuracy))
    timed = f"; seconds of an epoch with its validation on {devices(seconds)}" if seconds else ""
    return f"Accuracy on {devices(accuracy)}, torch {versions}, commit {commits}{timed}"


def markdown(rows: list[dict[str, str]]) -> str:
    lines = [" | ".join(rows[0]), "|".join("---" for _ in rows[0]), *(" | ".join(row.values()) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def write(measured: dict[str, dict[str, str]]) -> None:
    """Puts the table between its two marks in README.md, and each experiment's row into its head.

    What stood there goes, the remark about an older version too.
    """
    readme = PROJECT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    note = f"(MNIST, the official 10,000 test images, mean ± sd. {machine(list(measured))}.)"
    readme.write_text(f"{before}{BEGIN}\n{markdown(list(measured.values()))}\n\n{note}\n{END}{after}")
    for row, found in measured.items():
        path = PROJECT / "configs" / "experiment" / f"{row}.yaml"
        if path.exists():
            line = (
                f"# Measured: {found['test accuracy']} (mean ± sd; {found['seeds']}) on the 10,000 test images,"
                f"\n#   training {found['training']}.\n#   " + machine([row]).replace("; ", ";\n#   ")
            )
            path.write_text(re.sub(r"# Measured:.*(\n#   .*)*", line, path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="of the table (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="train with the seeds 1 to N (default: 3)")
    parser.add_argument("--epochs", type=int, help="of each training, for a quick look (default: the row's own)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--time", action="store_true", help="measure seconds instead of accuracy")
    what.add_argument("--write", action="store_true", help="measure nothing, write what was measured")
    arguments = parser.parse_args()
    if arguments.epochs:
        ROWS.update({row: f"{ROWS[row]} trainer.max_epochs={arguments.epochs}" for row in arguments.rows})

    if arguments.time:
        for row in track(arguments.rows, "timing"):
            train(row, "time", "trainer.max_epochs=1", "trainer.limit_test_batches=0")
    elif not arguments.write:
        runs = [(row, str(seed)) for row in arguments.rows for seed in range(1, arguments.seeds + 1)]
        for row, seed in track([run for run in runs if not records(*run)], "training"):
            train(row, seed, f"seed={seed}")

    measured = {row: cells(row) for row in arguments.rows if tested(row)}
    if arguments.write:
        write(measured)
    elif measured:
        Console(soft_wrap=True).print(markdown(list(measured.values())), markup=False, highlight=False)


if __name__ == "__main__":
    main()
