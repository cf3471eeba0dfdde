"""Test accuracy of models and experiments over several seeds, mean and standard deviation: the README's table.

    python -m benchmarks.accuracy                       every row, with its seeds; what was measured before is kept
    python -m benchmarks.accuracy --rows fast --seeds 5
    python -m benchmarks.accuracy --jobs 8              eight trainings at a time, on a machine that has the cores
    python -m benchmarks.accuracy --time                the seconds of one epoch of each row, on an idle machine
    python -m benchmarks.accuracy --write               puts the table into README.md and the experiments' heads

The seeds of a row are 1, 2, ... and share one validation split. Each run is tested as its recipe says: with its best
checkpoint by validation, or with the last epoch's weights. It can be stopped and goes on where it was.
"""

import argparse
import functools
import json
import math
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from digits.targets import parameters_of, target_of

PROJECT = Path(__file__).parents[1]
LOGS = PROJECT / "logs" / "benchmarks" / "accuracy"
BEGIN, END = "<!-- measured by benchmarks/accuracy.py -->", "<!-- end of what was measured -->"
NO_RECIPE = ("seed", "log_dir", "name", "tags", "resume", "resume_sweep", "trust", "teacher", "compile")
# What takes time and bears on no accuracy is left out.
ALWAYS = ["data.offline_fallback=false", "figures=false", "logger=[]", "rejection=none"]
COLUMNS = ("command", "parameters", "test accuracy", "seeds", "training")
FEW = 5  # seeds, each of which is shown
OLDER = " †"  # behind the command of a row that an older version measured
RECIPE = "augmentation=affine scheduler=onecycle optimizer.lr=0.003"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        overrides: of train.py; TEACHERS stands for the checkpoints of the row `of`.
        seeds: how many.
        of: another row, whose networks this one is an ensemble of, or is taught by.
        note: behind the command.
    """

    overrides: str = ""
    seeds: int = 3
    of: str | None = None
    note: str = ""


ROWS = {
    "cnn": Row(note=" (`model=cnn`)"),
    "fast": Row("model=fast scheduler=onecycle optimizer.lr=0.003 trainer.max_epochs=8"),
    "densenet": Row(f"model=densenet {RECIPE} trainer.max_epochs=8"),
    "resnet18": Row(f"model=resnet18 {RECIPE} trainer.max_epochs=5"),
    "tutorial": Row("experiment=tutorial"),
    "speedrun": Row("experiment=speedrun", seeds=10),
    "quick": Row("experiment=quick", seeds=10),
    "accurate": Row("experiment=accurate", seeds=5),
    "ensemble": Row(of="accurate", seeds=1, note="`python eval.py 'ckpt_path=[...]'`: five of `accurate`"),
    "distilled": Row("experiment=accurate teacher=TEACHERS", of="accurate", note=": those five"),
    "tiny": Row("experiment=tiny", seeds=5),
    "robust": Row("experiment=robust"),
    "record": Row("experiment=record", seeds=20),
    "record_ensemble": Row(of="record", seeds=1, note="`python eval.py 'ckpt_path=[...]'`: those of `record`"),
}


def folders(row: str, part: str) -> list[Path]:
    """The completed runs of a row's present recipe: `part` is a seed's number, `*` for any, or `time`."""
    found = []
    task = "train" if ROWS[row].overrides or not ROWS[row].of else "eval"
    for path in sorted(LOGS.glob(f"{row}/{part}/{task}/runs/*/metrics.json")):
        record = json.loads(path.read_text())
        present_recipe = task == "eval" or _is_present(row, part, path.parent, record)
        if record["status"] == "completed" and present_recipe and _of_present(row, record):
            found.append(path.parent)
    return found


def _is_present(row: str, part: str, folder: Path, record: dict) -> bool:
    """Whether a run has the recipe that its row's command stands for now."""
    ran, wanted = recipe(OmegaConf.load(folder / "config.yaml")), present(row)
    if part == "time" or "test/acc" not in record:  # one epoch is enough for its seconds
        for name in ("max_steps", "limit_test_batches", "check_val_every_n_epoch"):
            ran["trainer"][name] = wanted["trainer"][name]
    return bool(_without_defaults(ran) == _without_defaults(wanted))


def _of_present(row: str, record: dict) -> bool:
    """Whether an ensemble or a pupil is of the networks that the other row has now."""
    if not ROWS[row].of:
        return True
    distilled = record.get("distillation")
    paths = [one["ckpt_path"] for one in distilled["teachers"]] if distilled else record["ckpt_path"]
    members = [folder / "checkpoints" / "best.ckpt" for folder in _members(ROWS[row].of)]
    return sorted(map(_within_logs, paths)) == sorted(map(_within_logs, members))


def _within_logs(checkpoint: str | Path) -> tuple[str, ...]:
    """Row, seed, ..., file: LOGS may have moved since."""
    return Path(checkpoint).parts[-len(("row", "seed", "train", "runs", "run", "checkpoints", "best.ckpt")) :]


def _members(row: str) -> list[Path]:
    """The folders of a row's tested runs, of as many seeds as it has."""
    seeds = range(1, ROWS[row].seeds + 1)
    return [folder for seed in seeds for folder in folders(row, str(seed))[:1] if "test/acc" in _record(folder)]


def _record(folder: Path) -> dict:
    found: dict = json.loads((folder / "metrics.json").read_text())
    return found


def records(row: str, part: str) -> list[dict]:
    return [_record(folder) for folder in folders(row, part)]


@functools.cache
def present(row: str) -> dict:
    """The recipe that a row's command stands for now: what was measured with another must not be taken for it."""
    with initialize_config_dir(config_dir=str(PROJECT / "configs"), version_base="1.3"):
        return recipe(compose("train", overrides=[*_overrides(row).replace("TEACHERS", "[]").split(), *ALWAYS]))


def _overrides(row: str) -> str:
    return ROWS[row].overrides


def recipe(cfg: DictConfig) -> dict:
    """What bears on the result, but for the seed, the teachers' paths and the machine."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in NO_RECIPE:
        plain.pop(name, None)
    for group, names in {"data": ("root", "seed"), "trainer": ("accelerator", "devices")}.items():
        for name in names:
            plain[group].pop(name, None)
    return plain


def _without_defaults(part: Any) -> Any:
    """A config without arguments that have the default of their class: a new one changes no older recipe."""
    if not isinstance(part, dict):
        return part
    part = {name: _without_defaults(value) for name, value in part.items()}
    if not isinstance(part.get("_target_"), str):
        return part
    takes = parameters_of(target_of("", part))
    defaults = {
        name: list(one.default) if isinstance(one.default, tuple) else one.default for name, one in takes.items()
    }
    return {name: value for name, value in part.items() if name not in defaults or defaults[name] != value}


def _steps(row: str) -> int:
    """Of an epoch."""
    data, share = present(row)["data"], present(row)["trainer"]["limit_train_batches"]
    return int(math.ceil((60_000 - data["val_size"] + data["typed"]) / data["batch_size"]) * share)


def tested(row: str) -> list[dict]:
    return [record for record in records(row, "*") if "test/acc" in record]


def checkpoints(row: str) -> str:
    """Those of a row's runs, for a command line."""
    found = [str(folder / "checkpoints" / "best.ckpt") for folder in _members(row)]
    if len(found) < 2:
        sys.exit(f"error: {row} has {len(found)} checkpoints, too few for an ensemble. Measure it first")
    return f"[{','.join(found)}]"


def measure(row: str, part: str, *overrides: str) -> None:
    """Trains, or for an ensemble evaluates."""
    of, log_dir = ROWS[row].of, f"log_dir={LOGS / row / part}"
    if of and not _overrides(row):
        words = ["eval.py", f"ckpt_path={checkpoints(of)}", "figures=false", log_dir]
    else:
        asked = _overrides(row).split()
        words = ["train.py", *(one.replace("TEACHERS", checkpoints(of)) if of else one for one in asked)]
        words += [*ALWAYS, *overrides, log_dir]
    subprocess.run([sys.executable, *words], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def cells(row: str) -> dict[str, str]:
    """A row of the table, from what was measured."""
    runs = tested(row)
    accuracy = [100 * record["test/acc"] for record in runs]
    spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    each, timed = [f"{value:.2f}" for value in accuracy], records(row, "time")
    epochs, seconds = runs[0].get("epochs"), timed[-1]["train_seconds"] if timed else None
    return {
        "command": _command(row),
        "parameters": f"{runs[0]['parameters']:,}" if "parameters" in runs[0] else "",
        "test accuracy": f"{statistics.mean(accuracy):.2f}{spread} %",
        "seeds": ", ".join(each) if len(each) <= FEW else f"{len(each)}: {min(each)} to {max(each)}",
        "training": f"{epochs} × {seconds:.1f} s" if seconds else f"epochs: {epochs}" if epochs else "",
    }


def _command(row: str) -> str:
    note, asked = ROWS[row].note, _overrides(row).replace("TEACHERS", "[...]")
    return note if ROWS[row].of and not asked else f"`python train.py {asked}`".replace(" `", "`") + note


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

    A row that was not measured again stays, and is marked as of an older version.
    """
    readme = PROJECT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    old, after = rest.split(END)
    kept = {line.split(" | ")[0].removeprefix("| ").removesuffix(OLDER): line for line in old.splitlines()}
    rows = {name: dict(measured[name]) for name in measured}
    for name in ROWS.keys() - rows.keys():
        if line := kept.get(_command(name)):
            cells_ = [cell.strip() for cell in line.strip()[1:-1].split("|")]
            rows[name] = dict(zip(COLUMNS, [_command(name) + OLDER, *cells_[1:]], strict=True))
    table = markdown([rows[name] for name in ROWS if name in rows])
    remark = f" {OLDER.strip()}: measured with an older version." if rows.keys() - measured.keys() else ""
    note = f"(MNIST, the official 10,000 test images, mean ± sd. {machine(list(measured))}.{remark})"
    readme.write_text(f"{before}{BEGIN}\n{table}\n\n{note}\n{END}{after}")
    for row, found in measured.items():
        path = PROJECT / "configs" / "experiment" / f"{row}.yaml"
        if path.exists():
            line = (
                f"# Measured: {found['test accuracy']} (mean ± sd; {found['seeds']}) on the 10,000 test images,"
                f"\n#   training {found['training']}.\n#   " + machine([row]).replace("; ", ";\n#   ")
            )
            path.write_text(re.sub(r"# (Measured:|Not measured yet).*(\n#   .*)*", line, path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="of the table (default: all)")
    parser.add_argument("--seeds", type=int, help="train with the seeds 1 to N (default: as many as the row has)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--epochs", type=int, help="of each training, for a quick look (default: the row's own)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--time", action="store_true", help="measure seconds instead of accuracy")
    what.add_argument("--write", action="store_true", help="measure nothing, write what was measured")
    arguments = parser.parse_args()
    if arguments.epochs:
        short = f" trainer.max_epochs={arguments.epochs}"
        rows = {row: ROWS[row] for row in arguments.rows if _overrides(row) or not ROWS[row].of}
        ROWS.update({name: replace(row, overrides=row.overrides + short) for name, row in rows.items()})

    if arguments.time:
        for row in track([row for row in arguments.rows if ROWS[row].seeds > 1], "timing"):
            # Its first epoch: in a run of one epoch, that would be one of the clean last ones.
            once = [f"trainer.max_steps={_steps(row)}", "trainer.limit_test_batches=0"]
            measure(row, "time", *once, "trainer.check_val_every_n_epoch=1")
    elif not arguments.write:
        for later in (False, True):  # ensembles and pupils need the others
            runs = [
                (row, str(seed))
                for row in arguments.rows
                for seed in range(1, (arguments.seeds or ROWS[row].seeds) + 1)
                if bool(ROWS[row].of) is later and not records(row, str(seed))
            ]
            with ThreadPoolExecutor(arguments.jobs) as pool:
                done = pool.map(lambda run: measure(*run, f"seed={run[1]}"), runs)
                for _ in track(done, "training", total=len(runs)):
                    pass

    measured = {row: cells(row) for row in arguments.rows if tested(row)}
    if arguments.write:
        write(measured)
    elif measured:
        Console(soft_wrap=True).print(markdown(list(measured.values())), markup=False, highlight=False)


if __name__ == "__main__":
    main()
