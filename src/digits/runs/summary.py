"""A table of runs: what differs between them, how good each configuration is over its seeds, which is the best."""

import math
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.table import Table

from digits.atomic import atomic_write, write_csv
from digits.console import as_text, rendered
from digits.errors import UserError
from digits.metrics import EVALUATION, LOSS, OBJECTIVE, MetricEntry, logged, recorded
from digits.runs.differences import REPEATED, Differences, flat, settings_of
from digits.runs.run import CONFIG, PLAN, RECORD, Run, natural, read_yaml

UNFINISHED = ("failed", "interrupted", "running", "crashed", "unreadable")  # pruned is an end that the search meant
FACTS = ("train_seconds", "duration_seconds", "status", "error", "tested_epoch", "git_commit")
DRAWN = 40  # configurations: more rows make a poster, not a figure
NO_CONFIG = f"its {CONFIG} is missing or damaged"


@dataclass(frozen=True)
class Job:
    """A run as a table shows it."""

    run: Run  # its folder
    name: str  # what to call it: its path within the folder that was asked about; a sweep's job has its number

    @cached_property
    def status(self) -> str:
        return self.run.status

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The values that its config resolved to; empty where that is missing or damaged."""
        taught = self.run.facts.get("distillation") or {}  # by whom: by content, wherever their files are
        teachers = {"teachers": [one["fingerprint"] for one in taught["teachers"]]} if taught else {}
        return (settings := settings_of(self._values)) and settings | teachers

    @cached_property
    def _values(self) -> dict[str, Any]:
        """Of its config; where a sweep's job failed before it wrote one, of the sweep's plan."""
        if not self.run.config and self.status != "completed":
            with suppress(OSError, ValueError):
                return flat(read_yaml(self.run.folder.parent / PLAN / f"{self.run.folder.name}.yaml"))
        return flat(self.run.config)

    @cached_property
    def repetition(self) -> dict[str, str]:
        """Its seed and fold."""
        return {key: str(self._values[key]) for key in REPEATED if key in self._values}

    @cached_property
    def overrides(self) -> dict[str, str]:
        """The values that were typed, by key."""
        parts = (one.lstrip("+").partition("=") for one in self.run.overrides if not one.startswith("~"))
        return {key: value for key, _, value in parts if key not in REPEATED and key != "hparams_search"}

    @property
    def error(self) -> str:
        """Why it is not in the table."""
        return "; ".join(part for part in (self.run.error, "" if self.settings else NO_CONFIG) if part)


@dataclass(frozen=True)
class Configuration:
    """Completed runs that differ in seed or fold alone, and the `settings` that set them apart from others."""

    settings: dict[str, str]
    dataset: str
    jobs: list[Job]

    @property
    def label(self) -> str:
        return _joined(self.settings)

    def values(self, name: str) -> list[float]:
        """A figure of the record, such as `val/acc`, from each run that has it."""
        return [job.run.facts[name] for job in self.jobs if job.run.facts.get(name) is not None]

    def figure(self, name: str, percent: bool = True) -> str:
        """Mean ± sample standard deviation, for people; a single value has no standard deviation."""
        values = [100 * value if percent else value for value in self.values(name)]
        if not values:
            return "–"
        digits, unit = (2, " %") if percent else (4, "")
        sd = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        of = f" (of {len(values)})" if len(values) < len(self.jobs) else ""
        return f"{mean(values):.{digits}f}{sd}{unit}{of}"

    @property
    def score(self) -> float:
        """The mean of the objective, the higher the better; nothing measured is the worst."""
        values = self.values(OBJECTIVE)
        return mean(values) if values else -math.inf

    @property
    def names(self) -> str:
        """Those that its runs were given."""
        return ", ".join(dict.fromkeys(job.run.facts["name"] for job in self.jobs if job.run.facts.get("name")))

    @property
    def seconds(self) -> str:
        """The mean time of training."""
        values = self.values("train_seconds")
        return f"{mean(values):.1f}" if values else "–"

    @property
    def commands(self) -> list[str]:
        """Train its runs again: one command for all, where they differ in the seed alone."""
        shared = {tuple(_without_seed(job)) for job in self.jobs}
        seeds = ",".join(job.repetition.get("seed", "") for job in self.jobs)
        if len(self.jobs) == 1 or len(shared) > 1 or any(one.startswith("hparams_search=") for one in min(shared)):
            return [job.run.command for job in self.jobs]
        return [shlex.join(["python", "train.py", "-m", *self.jobs[0].run.config_dir, *min(shared), f"seed={seeds}"])]


class Summary:
    """What a number of runs come to, as text for a terminal, as a page, as CSV and as a figure."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.incomplete = [job for job in jobs if job.status != "completed" or not job.settings]
        self.data_sets = sorted({job.run.dataset for job in jobs if job.run.dataset})

    @property
    def failed(self) -> int:
        """Runs that failed or did not finish."""
        return sum(job.status in UNFINISHED for job in self.jobs)

    @cached_property
    def _known(self) -> list[Job]:
        return [job for job in self.jobs if job.settings]

    @cached_property
    def _differences(self) -> Differences:
        known = self._known
        datasets = [job.run.dataset or "" for job in known]
        return Differences([job.settings for job in known], [job.overrides for job in known], datasets)

    @cached_property
    def differing(self) -> dict[str, list[str]]:
        """The columns in which the runs differ, then seed and fold if they do, with their values."""
        columns = {name: list(dict.fromkeys(values)) for name, values in self._differences.columns.items()}
        repeated = {
            key: list(dict.fromkeys(job.repetition[key] for job in self._known if key in job.repetition))
            for key in REPEATED
        }
        return columns | {key: values for key, values in repeated.items() if len(values) > 1}

    @cached_property
    def metrics(self) -> dict[str, MetricEntry]:
        """The figures of a table by their names, such as `test/acc`: the accuracies, then the runs' further ones."""
        known = [one for job in self.jobs for one in recorded(job.run.facts) if one.prominent]
        found = logged(sorted(known, key=lambda one: one.name != "acc"), EVALUATION)
        return {name: one for name, one in sorted(found.items(), key=lambda each: each[1].name != "acc") if one != LOSS}

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The completed runs, folded over seeds and folds: by data set, the best mean val/acc first.

        Of runs that repeat configuration, seed and fold the latest counts: the same again is no second sample.
        """
        groups: dict[tuple, dict[tuple, Job]] = {}
        columns = {}
        for number, job in sorted(enumerate(self._known), key=lambda one: one[1].run.facts.get("started_at", "")):
            if job.status == "completed":
                key = (job.run.dataset or "", *sorted((name, repr(value)) for name, value in job.settings.items()))
                groups.setdefault(key, {})[tuple(job.repetition.get(name) for name in REPEATED)] = job
                columns[key] = {name: values[number] for name, values in self._differences.columns.items()}
        folded = [
            Configuration(columns[key], key[0], sorted(jobs.values(), key=_position)) for key, jobs in groups.items()
        ]
        return sorted(folded, key=lambda one: (one.dataset, -one.score))

    @property
    def best(self) -> list[Configuration]:
        """The best mean val/acc on each data set: accuracies on different data do not compare.

        Folds of one configuration are repetitions: none of them is the better model.
        """
        if "data.fold" in self.differing and len(self.configurations) == 1:
            return []
        first = {one.dataset: one for one in reversed(self.configurations) if one.values(OBJECTIVE)}
        return [first[dataset] for dataset in self.data_sets if dataset in first]

    @property
    def text(self) -> str:
        """For this terminal's width; wide where there is none, as a file has no width to fit."""
        header, *rows = self._table()
        table = Table(*header, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        lines = as_text(table, shutil.get_terminal_size((160, 24)).columns).splitlines() if rows else []
        lines += [*self._notes(), ""] if rows and self._notes() else []
        if self.incomplete:
            lines += ["not in the table:"]
            lines += [f"  {name} ({what}) {status}: {error}" for name, what, status, error in self._incomplete_rows()]
            lines += [""]
        for one in self.best:
            lines += [self._headline(one), *(f"  {name + ':':<12}{value}" for name, value in self._facts(one))]
        return "\n".join([*lines, self._choice])

    def markdown(self, title: str) -> str:
        """As a page, by the template `summary.md`."""
        header, *rows = self._table()
        typed = [job.run.overrides for job in self.jobs]
        facts = [job.run.facts for job in self.jobs if "device" in job.run.facts]
        return rendered(
            "summary.md",
            {"cell": lambda text: " ".join(text.split()).replace("|", r"\|")},
            title=title,
            jobs=self.jobs,
            counts=Counter(job.status for job in self.jobs),
            differing=self.differing,
            shared=[one for one in typed[0] if all(one in others for others in typed)] if typed else [],
            data_sets=self.data_sets,
            devices=dict.fromkeys(f"{one['device']}, {one.get('precision')}" for one in facts),
            header=header,
            rows=rows,
            notes=self._notes(),
            incomplete=self._incomplete_rows(),
            best=[(self._headline(one), self._facts(one)) for one in self.best],
            choice=self._choice,
        )

    @property
    def _choice(self) -> str:
        if self.best:
            return "Chosen on validation. The test accuracy is only reported: it had no part in the choice."
        if any(one.values(OBJECTIVE) for one in self.configurations):
            return "No best job: the folds are repetitions of one configuration, and none of them is the better model."
        return "No best job: none has a val/acc, and a choice is not made on the test set."

    def _notes(self) -> list[str]:
        """What has to be said below the table: what a column stands for, other code, runs that were repeated."""
        notes = [f"{name} stands for: {', '.join(keys)}" for name, keys in self._differences.stands_for.items() if keys]
        completed = [job for job in self._known if job.status == "completed"]
        commits = Counter((job.run.facts.get("git_commit") or "not known")[:9] for job in completed)
        dirty = sum(bool(job.run.facts.get("git_dirty")) for job in completed)
        if len(commits) > 1 or dirty:
            count = f"{len(commits)} commits: " if len(commits) > 1 else "commit "
            changed = f"; {_runs(dirty)} with uncommitted changes" if dirty else ""
            told = ", ".join(f"{commit} ({_runs(number)})" for commit, number in commits.items())
            notes.append(f"code: {count}{told}{changed}")
        if left_out := len(completed) - sum(len(one.jobs) for one in self.configurations):
            notes.append(f"repeated with the same seed: {_runs(left_out)}, of which the latest counts")
        return notes

    def _table(self) -> list[list[str]]:
        """Header and rows; the last column but one counts the runs, under the name of what is repeated."""
        several = len(self.data_sets) > 1
        columns = list(self._differences.columns) or ["configuration"]
        repeated = [REPEATED[key] for key in self.differing if key in REPEATED]
        counted = repeated[0] if len(repeated) == 1 else "runs"
        named = any(one.names for one in self.configurations)
        first = [*(["name"] if named else []), *(["data set"] if several else [])]
        table = [[*first, *columns, *self.metrics, counted, "seconds"]]
        for one in self.configurations:
            settings = one.settings.values() or ["the same in all"]
            figures = [one.figure(name, entry.percent) for name, entry in self.metrics.items()]
            figures += [str(len(one.jobs)), one.seconds]
            first = [*([one.names] if named else []), *([one.dataset] if several else [])]
            table.append([*first, *settings, *figures])
        return table

    def _settings(self, job: Job) -> dict[str, str]:
        """What sets a job apart; what was typed for it, where it has no config."""
        if not job.settings:
            return job.overrides
        number = self._known.index(job)
        own = {name: values[number] for name, values in self._differences.columns.items()}
        return own | {key: value for key, value in job.repetition.items() if key in self.differing}

    def _incomplete_rows(self) -> list[list[str]]:
        """Name, settings, status and error."""
        return [[job.name, _joined(self._settings(job)), job.status, job.error] for job in self.incomplete]

    def _others(self, one: Configuration) -> list[Configuration]:
        """Those that a configuration compares with."""
        return [other for other in self.configurations if other.dataset == one.dataset and other is not one]

    def _headline(self, one: Configuration) -> str:
        others = self._others(one)
        if all(len(each.jobs) == 1 for each in (one, *others)):
            return f"Best job by val/acc on {one.dataset}: {one.jobs[0].name}"
        if not others:
            return f"One setting on {one.dataset}, trained {len(one.jobs)} times"
        return f"Best setting by mean val/acc on {one.dataset}: {one.label}"

    def _facts(self, one: Configuration) -> list[tuple[str, str]]:
        """What to say of a best configuration, by name; a name may come several times."""
        others = self._others(one)
        count, counts = len(one.values(OBJECTIVE)), {len(other.values(OBJECTIVE)) for other in others}
        elsewhere = f"; others: {', '.join(map(str, sorted(counts)))}" if counts - {count} else ""
        n = f" (n = {count}{elsewhere})" if count > 1 or elsewhere else ""
        ties = [other.label for other in others if math.isclose(other.score, one.score)]
        return [
            *([("jobs", ", ".join(job.name for job in one.jobs))] if len(one.jobs) > 1 else []),
            ("val/acc", one.figure("val/acc") + n),
            *(("a tie with", label) for label in ties),
            ("test/acc", one.figure("test/acc") if one.values("test/acc") else "not tested"),
            ("settings", " ".join(_without_seed(one.jobs[0])) or "the defaults"),
            *(("checkpoint", str(job.run.checkpoint or "none was saved")) for job in one.jobs),
            *(("again", command) for command in one.commands),
        ]

    def write_csv(self, path: Path) -> None:
        """Writes a row for each run, with a column for each setting that differs; accuracies in [0, 1]."""
        several, named = len(self.data_sets) > 1, any(job.run.facts.get("name") for job in self.jobs)
        rows = []
        for job in self.jobs:
            facts, settings = job.run.facts | {"status": job.status, "error": job.error}, self._settings(job)
            row = {"job": job.name, **({"name": facts.get("name")} if named else {})}
            row |= {key: settings.get(key) for key in self.differing}
            row |= {"dataset": job.run.dataset} if several else {}
            rows.append(row | {name: facts.get(name) for name in (*self.metrics, *FACTS)} | {"folder": job.run.folder})
        write_csv(path, rows)

    def write_figure(self, path: Path, title: str) -> None:
        """Draws the accuracies, of the best configurations where there are many; nothing where there is none."""
        measured = [one for one in self.configurations if one.values("val/acc") or one.values("test/acc")]
        if not measured:
            return
        from digits import figures  # here, because seaborn takes a second

        accuracies = {}
        for one in measured[:DRAWN]:
            name = f"{one.dataset}: {one.label}" if len(self.data_sets) > 1 else one.label
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
    jobs: dict[Path, Job] = {}
    for path in map(Path, paths):
        trained = {job.run.folder.resolve(): job for job in _jobs_below(path)}
        if not trained:
            problem = "no training run at or below it" if path.is_dir() else "no such folder"
            raise UserError(f"{path}: {problem}. Give a run's folder (it holds a {RECORD}), a sweep's, or one above")
        if len(paths) == 1:
            trained = {
                key: job if job.run.folder == path else replace(job, name=str(job.run.folder.relative_to(path)))
                for key, job in trained.items()
            }
        jobs = trained | jobs  # what lies below two of the paths counts once
    return sorted(jobs.values(), key=_position)


def _jobs_below(path: Path) -> Iterator[Job]:
    for file in path.rglob(RECORD):
        run = Run(file.parent)
        command = run.facts.get("command") or ["train.py"]
        if command[0] not in ("eval.py", "explain.py", "robustness.py"):
            yield Job(run, str(run.folder))


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
        part.write_text(summary.markdown(title), encoding="utf-8")
    summary.write_figure(folder / "summary.png", title)
    return summary


def _position(job: Job) -> list[str | int]:
    return natural(str(job.run.folder))


def _without_seed(job: Job) -> list[str]:
    return [one for one in job.run.overrides if not one.startswith("seed=")]


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _joined(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items()) or "the same in all"
