"""A table from the folders of runs: what differs between them, how good each setting is over its seeds, the best."""

import csv
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf
from rich import box
from rich.table import Table

from digits.atomic import atomic_write
from digits.console import as_text
from digits.errors import UserError
from digits.runs.run import Run
from digits.runs.sweeps import natural

# Where a run goes and what it belongs to, not what is trained.
NO_SETTING = re.compile(r"(resume|resume_sweep|checkpoint_every_seconds|log_dir|callbacks\.pruning\.trial|hydra\..*)$")
REPEATED = {"seed": "seeds", "data.fold": "folds"}  # means are taken over these
UNFINISHED = ("failed", "interrupted", "running", "crashed", "unreadable")  # pruned is an end that the search meant
FACTS = ("val/acc", "test/acc", "train_seconds", "duration_seconds", "status", "error", "tested_epoch")
DRAWN = 40  # configurations: more rows make a poster, not a figure


@dataclass(frozen=True)
class Job:
    """A run as a table shows it.

    Args:
        run: its folder.
        name: what to call it: its path within the folder that was asked about; a sweep's job has its number.
    """

    run: Run
    name: str

    @property
    def folder(self) -> Path:
        return self.run.folder

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.run.facts | {"status": self.status, "error": self.run.error}

    @cached_property
    def status(self) -> str:
        return self.run.status

    @property
    def dataset(self) -> str | None:
        return self.run.dataset

    @property
    def overrides(self) -> list[str]:
        return self.run.facts.get("overrides", [])

    @cached_property
    def words(self) -> list[str]:
        """The overrides that bear on the result."""
        return [word for word in self.overrides if not NO_SETTING.match(_key(word))]

    @cached_property
    def settings(self) -> dict[str, str]:
        """The value of each overridden key, and the seed."""
        settings = {_key(word): "removed" if word[0] == "~" else word.partition("=")[2] for word in self.words}
        return settings | ({"seed": str(self.record["seed"])} if "seed" in self.record else {})

    def setting(self, key: str) -> str:
        """The value of a key that this run or another overrides: as it was given here, else as the configs have it."""
        if key in self.settings:
            return self.settings[key]
        value = OmegaConf.select(self.run.config, key)
        return "default" if value is None else str(value)

    @property
    def checkpoint(self) -> Path | None:
        """The one that was tested."""
        return self.run.checkpoint

    @property
    def command(self) -> str:
        """Trains it again; quoted for a shell."""
        once = ["hydra.mode=RUN"] if any(_key(word) == "hparams_search" for word in self.words) else []  # no search
        return shlex.join(["python", "train.py", *once, *self.words])


@dataclass(frozen=True)
class Configuration:
    """Completed runs that differ in seed or fold alone, and the `settings` that set them apart from others."""

    settings: dict[str, str]
    dataset: str
    runs: list[Job]

    def values(self, name: str) -> list[float]:
        """A figure of the record, such as `val/acc`, from each run that has it."""
        return [run.record[name] for run in self.runs if run.record.get(name) is not None]

    def accuracy(self, name: str) -> str:
        """Mean ± sample standard deviation, for people; a single value has no deviation."""
        values = [100 * value for value in self.values(name)]
        if not values:
            return "–"
        deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        return f"{mean(values):.2f}{deviation} %" + (f" (of {len(values)})" if len(values) < len(self.runs) else "")

    @property
    def seconds(self) -> str:
        """The mean of what training took."""
        values = self.values("train_seconds")
        return f"{mean(values):.1f}" if values else "–"


class Summary:
    """What a number of runs come to, as text for a terminal, as a page, as CSV and as a figure."""

    def __init__(self, runs: Sequence[Job]) -> None:
        self.runs = runs
        self.incomplete = [run for run in runs if run.status != "completed"]
        self.data_sets = sorted({run.dataset for run in runs if run.dataset})

    @property
    def failed(self) -> int:
        """Runs that failed or did not finish."""
        return sum(run.status in UNFINISHED for run in self.runs)

    @cached_property
    def differing(self) -> dict[str, list[str]]:
        """The keys in which the runs differ, with their values."""
        known = [run for run in self.runs if run.settings or run.status != "unreadable"]
        values = {
            # A job that failed on its overrides has no seed yet, which is no other seed.
            key: dict.fromkeys(run.setting(key) for run in known if key in run.settings or key not in REPEATED)
            for key in dict.fromkeys(key for run in known for key in run.settings)
        }
        return {key: list(several) for key, several in values.items() if len(several) > 1}

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The completed runs, folded over seeds and folds: by data set, the best mean val/acc first.

        Of runs that repeat configuration, seed and fold the latest counts: the same again is no second sample.
        """
        columns = [key for key in self.differing if key not in REPEATED]
        groups: dict[tuple, dict[tuple, Job]] = {}
        for run in sorted(self.runs, key=lambda run: run.record.get("started_at", "")):
            if run.status == "completed":
                group = (run.dataset or "", *(run.setting(key) for key in columns))
                groups.setdefault(group, {})[tuple(run.settings.get(key) for key in REPEATED)] = run
        folded = [
            Configuration(dict(zip(columns, values, strict=True)), dataset, list(runs.values()))
            for (dataset, *values), runs in groups.items()
        ]
        return sorted(folded, key=lambda one: (one.dataset, -mean(one.values("val/acc") or [-1])))

    @property
    def best(self) -> list[Job]:
        """The run with the highest val/acc on each data set: accuracies on different data do not compare."""
        scored = [run for one in self.configurations for run in one.runs if run.record.get("val/acc") is not None]
        by_data = ([run for run in scored if run.dataset == dataset] for dataset in self.data_sets)
        return [max(runs, key=lambda run: run.record["val/acc"]) for runs in by_data if runs]

    @property
    def text(self) -> str:
        """For this terminal's width; wide where there is none, as a file has no width to fit."""
        header, *rows = self._table()
        table = Table(*header, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        lines = as_text(table, shutil.get_terminal_size((160, 24)).columns).splitlines() if rows else []
        if self.incomplete:
            lines += ["not completed:"]
            lines += [f"  {name} ({what}) {status}: {error}" for name, what, status, error in self._incomplete_rows()]
            lines += [""]
        for run in self.best:
            lines += [_headline(run), *(f"  {name + ':':<12}{value}" for name, value in _facts(run).items())]
        return "\n".join([*lines, self._choice])

    @property
    def markdown(self) -> str:
        header, *rows = self._table()
        counts = Counter(run.status for run in self.runs)
        shared = [word for word in self.runs[0].words if all(word in run.words for run in self.runs if run.words)]
        devices = {
            f"{run.record['device']}, {run.record['precision']}": None for run in self.runs if "device" in run.record
        }
        lines = [f"{len(self.runs)} jobs: {', '.join(f'{count} {status}' for status, count in counts.items())}.", ""]
        lines += [f"- differing: `{key}`: {', '.join(values)}" for key, values in self.differing.items()]
        lines += [f"- the same in all: {' '.join(f'`{word}`' for word in shared) or 'the defaults'}"]
        lines += [f"- data set: {', '.join(self.data_sets) or 'none was loaded'}"]
        lines += [f"- device: {'; '.join(devices) or 'not known'}", ""]
        if rows:
            lines += ["## Configurations, best first", "", *_markdown_table(header, *rows), ""]
            lines += [f"Accuracies: mean ± sample standard deviation over the {header[-2]}.", ""]
        if self.incomplete:
            header = ["job", "settings", "status", "error"]
            lines += ["## Not completed", "", *_markdown_table(header, *self._incomplete_rows()), ""]
        for run in self.best:
            facts = _facts(run)
            again = facts.pop("again")
            lines += [f"## {_headline(run)}", "", *(f"- {name}: {value}" for name, value in facts.items())]
            lines += ["", "```bash", again, "```", ""]
        return "\n".join([*lines, self._choice, ""])

    @property
    def _choice(self) -> str:
        if self.best:
            return "Chosen on validation. The test accuracy is only reported: it had no part in the choice."
        return "No best job: none has a val/acc, and a choice is not made on the test set."

    def _table(self) -> list[list[str]]:
        """Header and rows; the last column but one counts the runs, under the name of what is repeated."""
        several = len(self.data_sets) > 1
        columns = [key for key in self.differing if key not in REPEATED] or ["configuration"]
        repeated = [REPEATED[key] for key in self.differing if key in REPEATED]
        counted = repeated[0] if len(repeated) == 1 else "runs"
        table = [[*(["data set"] if several else []), *columns, "val/acc", "test/acc", counted, "seconds"]]
        for one in self.configurations:
            settings = one.settings.values() or ["the same in all"]
            figures = [one.accuracy("val/acc"), one.accuracy("test/acc"), str(len(one.runs)), one.seconds]
            table.append([*([one.dataset] if several else []), *settings, *figures])
        return table

    def _incomplete_rows(self) -> list[list[str]]:
        """Name, settings, status and error."""
        return [
            [run.name, self._label(run.settings) or "the same in all", run.status, run.record.get("error") or ""]
            for run in self.incomplete
        ]

    def _label(self, settings: Mapping[str, str]) -> str:
        return " ".join(f"{key}={settings[key]}" for key in self.differing if key in settings)

    def write_csv(self, path: Path) -> None:
        """Writes a row for each run, with a column for each setting that differs; accuracies in [0, 1]."""
        several = len(self.data_sets) > 1
        columns = sorted(self.differing, key=lambda key: key == "seed")  # the seed last
        with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["job", *columns, *(["dataset"] if several else []), *FACTS, "folder"])
            for run in self.runs:
                settings = [run.settings.get(key) for key in columns]
                facts = [run.record.get(name) for name in FACTS]
                writer.writerow([run.name, *settings, *([run.dataset] if several else []), *facts, run.folder])

    def write_figure(self, path: Path, title: str) -> None:
        """Draws the accuracies, of the best configurations where there are many; nothing where there is none."""
        measured = [one for one in self.configurations if one.values("val/acc") or one.values("test/acc")]
        if not measured:
            return
        from digits import figures  # here, because seaborn takes a second

        accuracies = {}
        for one in measured[:DRAWN]:
            label = self._label(one.settings) or "the same in all"
            name = f"{one.dataset}: {label}" if len(self.data_sets) > 1 else label
            accuracies[name] = {"validation": one.values("val/acc"), "test": one.values("test/acc")}
        of = f"\nthe best {DRAWN} of {len(measured)} configurations" if len(measured) > DRAWN else ""
        figure = figures.sweep(accuracies, f"{title} on {', '.join(self.data_sets)}{of}")
        with atomic_write(path) as part:
            figure.savefig(part, dpi=110)


def read_runs(*paths: str | Path) -> list[Job]:
    """Each training run at or below the paths, job 10 after job 9; evaluations are left out.

    Raises:
        UserError: if a path is no folder, or holds no run.
    """
    runs: dict[Path, Job] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder. Give a run's folder, a sweep's, or one above them")
        found = [_read(file.parent) for file in path.rglob("metrics.json")]
        trained = {run.folder.resolve(): run for run in found if run}
        if not trained:
            raise UserError(f"{path}: no training run at or below it. A run's folder holds a metrics.json")
        if len(paths) == 1:
            trained = {
                key: run if run.folder == path else replace(run, name=str(run.folder.relative_to(path)))
                for key, run in trained.items()
            }
        runs = trained | runs  # what lies below two of the paths counts once
    return sorted(runs.values(), key=lambda run: natural(str(run.folder)))


def write_summary(folder: str | Path) -> Summary:
    """Writes `summary.csv`, `summary.md` and `summary.png` into a sweep's folder.

    Raises:
        UserError: if there is no such folder, or it holds no run.
    """
    folder = Path(folder)
    title = f"Sweep {folder.resolve().name}"
    summary = Summary(read_runs(folder))
    summary.write_csv(folder / "summary.csv")
    with atomic_write(folder / "summary.md") as part:
        part.write_text(f"# {title}\n\n{summary.markdown}", encoding="utf-8")
    summary.write_figure(folder / "summary.png", title)
    return summary


def _read(folder: Path) -> Job | None:
    """None for what is no training."""
    run = Run(folder)
    trained = run.facts.get("command", ["train.py"])[0] not in ("eval.py", "explain.py")
    return Job(run, str(folder)) if trained else None


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _headline(run: Job) -> str:
    return f"Best job by val/acc on {run.dataset}: {run.name}"


def _facts(run: Job) -> dict[str, str]:
    """What to say of a best job, by name."""
    tested = run.record.get("test/acc")
    return {
        "val/acc": f"{run.record['val/acc']:.2%}",
        "test/acc": "not tested" if tested is None else f"{tested:.2%}",
        "settings": " ".join(run.words) or "the defaults",
        "checkpoint": str(run.checkpoint or "none was saved"),
        "again": run.command,
    }


def _markdown_table(header: list[str], *rows: list[str]) -> list[str]:
    escaped = ([" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *escaped)]
