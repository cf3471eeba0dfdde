"""Reads images with a trained network:  python -m digits.predict images=photo.png ckpt_path=..."""

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from omegaconf import DictConfig
from pydantic import Field, model_validator

from digits import submission
from digits.atomic import atomic_write
from digits.command import command
from digits.data.tables import ID, listed_images
from digits.pictures.answers import Answer, ImagePaths, output_names, read_files, report_failures, some
from digits.validation import FilePath, Trust, read_settings
from digits.views import TtaSettings

if TYPE_CHECKING:
    from digits.pictures.reader import Prediction

log = logging.getLogger(__name__)
MOST_ROWS = 25  # of a table with each mark in it, unless one asks for more
# What is said of a picture, and of each mark in it.
PICTURE = ["file", "text", "reason", "note", "error"]
MARK = ["line", "position", "label", "probability", "runner_up", "runner_up_probability"]
MARK += ["known", "rejected", "separator"]
EDGES = ["left", "top", "right", "bottom"]


class PredictSettings(TtaSettings):
    """The keys of configs/predict.yaml."""

    images: ImagePaths
    ckpt_path: FilePath | None
    mode: Literal["auto", "digit", "line"]
    details: bool | None
    output: FilePath | None
    save_preprocessed: FilePath | None
    submission: FilePath | None
    submission_header: Annotated[list[str], Field(min_length=2, max_length=2)]
    trust: Trust
    log_dir: FilePath

    @property
    def table(self) -> Path | None:
        return submission.table_of(self.images)

    @cached_property
    def has_pixels(self) -> bool:
        return self.table is not None and submission.has_pixels(self.table)

    @cached_property
    def pictures(self) -> tuple[list[str], list[Path]]:
        """The pictures' ids and files; none of a CSV of pixels."""
        if not self.table:
            return [path.name for path in self.images], self.images
        listed = [] if self.has_pixels else listed_images(self.table, ID)
        return [one.label for one in listed], [one.path for one in listed]

    @property
    def folders(self) -> set[Path]:
        """Those that the pictures are in."""
        return {path.parent for path in self.pictures[1] if path.parent.exists()}

    @model_validator(mode="after")
    def _outputs_can_be_written(self) -> Self:
        problem, output, seen, wanted = "", self.output, self.save_preprocessed, self.submission
        if output and (output.suffix not in WRITERS or not output.absolute().parent.is_dir()):
            problem = f"output={output}: give a file that ends with {' or '.join(WRITERS)}, in a folder that exists"
        elif wanted and (wanted.suffix != ".csv" or not wanted.absolute().parent.is_dir()):
            problem = f"submission={wanted}: give a file that ends with .csv, in a folder that exists"
        elif wanted and self.mode == "line":
            problem = "mode=line: a submission has one label for each picture. Leave it out"
        elif wanted and wanted.resolve() in {path.resolve() for path in self.images}:
            problem = f"submission={wanted}: that is what is to be read. Give another file"
        elif output and output.resolve() in {path.resolve() for path in self.images}:
            problem = f"output={output}: that is what is to be read. Give another file"
        elif self.has_pixels and (not wanted or output or seen):
            problem = f"images={self.table}: a CSV of pixels is read for a submission alone: submission=submission.csv"
        elif (
            seen
            and seen.exists()
            and any(seen.samefile(path.parent) for path in self.pictures[1] if path.parent.exists())
        ):
            problem = f"save_preprocessed={seen}: the pictures themselves are there. Give another folder"
        if problem:
            raise ValueError(problem)
        return self


@command("predict", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Prints a table; a file that cannot be read gets its line, and the others their answers.

    A picture without a digit is answered too: with the reason.
    """
    settings = read_settings(PredictSettings, cfg)

    from digits.pictures.reader import load_classifier
    from digits.runs.run import newest_checkpoint

    checkpoint = settings.ckpt_path or newest_checkpoint(settings.log_dir)
    classifier = load_classifier(checkpoint, trust=settings.trust, tta=settings.tta, tta_below=settings.tta_below)
    log.info("model:  %s, trained on %s", checkpoint, classifier.facts.dataset)
    if classifier.gate is None:
        log.info("        it has no gate, so that it cannot say no: every picture gets one of its classes")
    wanted = settings.submission
    if settings.table and wanted and settings.has_pixels:
        _submit(wanted, settings.submission_header, submission.classify_pixels(classifier, settings.table))
        return
    ids, paths = settings.pictures
    mode = "digit" if wanted else settings.mode  # one label for each picture
    answers = list(read_files(paths, lambda path: classifier.read(path, mode)))
    noun = classifier.facts.noun
    if wanted:
        for line in submission.doubts_of(answers, ids, noun):
            log.warning(line)
    else:
        log.info("%s", _as_table(answers, noun, settings.details))
    if settings.save_preprocessed:
        _save_preprocessed(answers, settings.save_preprocessed)
        log.info("what the network saw: %s", settings.save_preprocessed)
    if settings.output:
        with atomic_write(settings.output) as part:
            WRITERS[settings.output.suffix](answers, part)
        log.info("saved:  %s", settings.output)
    if wanted:
        _submit(wanted, settings.submission_header, submission.rows_of(answers, ids))
    report_failures(answers)


def _submit(path: Path, header: Sequence[str], rows: Iterable[submission.Row]) -> None:
    number = submission.write_submission(path, header, rows)
    log.info("saved:  %s, %s answers", path, f"{number:,}")


def _as_table(answers: Sequence[Answer], noun: str, details: bool | None) -> str:
    """A row for each mark, or for each picture with its least sure one; below it, what else there is to say."""
    from rich import box
    from rich.table import Table

    from digits.console import as_text

    marks, rows = max(len(answer.marks) for answer in answers), sum(max(1, len(answer.marks)) for answer in answers)
    in_full = rows <= MOST_ROWS if details is None else details
    folders = {answer.path.parent for answer in answers}
    lines = [f"in {folder}:" for folder in folders if len(folders) == 1 and folder != Path()]
    columns = {
        "file": True,
        "read as": True,
        "line": in_full and any(mark.line for answer in answers for mark in answer.marks),
        "position": marks > 1,
        noun if in_full or marks < 2 else f"least sure {noun}": True,
        "probability": True,
        "runner-up": True,
    }
    table = Table(box=box.SIMPLE_HEAD)
    paths = [answer.path.name if lines else str(answer.path) for answer in answers]
    for name in (name for name, is_needed in columns.items() if is_needed):
        is_number = name in ("line", "position", "probability")
        least = min(40, max(map(len, paths))) if name == "file" else None
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", min_width=least)
    for path, answer in zip(paths, answers, strict=True):
        shown = [*enumerate(answer.marks, start=1)]
        if shown and not in_full:
            shown = [min(shown, key=lambda one: (one[1].separator, not one[1].rejected, one[1].probability))]
        rows_of_marks = [[str(mark.line + 1), str(position), *_mark_cells(mark, noun)] for position, mark in shown]
        text = answer.reading.text or f"no {noun}" if answer.reading else "cannot be read"
        start = [path, text]
        for cells in rows_of_marks or [[""] * 5]:
            row = zip(columns.values(), [*start, *cells], strict=True)
            table.add_row(*(cell for is_needed, cell in row if is_needed))
            start = ["", ""]
    lines += [as_text(table), *_notes(answers)]
    return "\n".join(lines if in_full or marks < 2 else [*lines, f"each {noun}: details=true, or output=answers.csv"])


def _notes(answers: Sequence[Answer]) -> list[str]:
    """Why there is no answer, and what else there is to say; once for all pictures of which it is said."""
    said: dict[str, list[str]] = {}
    for answer in answers:
        for note in (answer.reading.reason, answer.reading.note) if answer.reading else ():
            said.setdefault(note, []).append(answer.path.name)
    return [f"{some(names)}: {note}" for note, names in said.items() if note]


def _mark_cells(mark: "Prediction", noun: str) -> list[str]:
    """What it is, how probable that is, and what else it may be."""
    if mark.separator:
        return [mark.label, "", ""]
    if mark.rejected:
        return [f"no {noun}", "", f"{mark.label} ({mark.probability:.1%})"]
    runner_up = f"{mark.runner_up} ({mark.runner_up_probability:.1%})" if mark.runner_up else ""
    return [mark.label, f"{mark.probability:.1%}", runner_up]


def _described(answer: Answer) -> dict[str, Any]:
    """A picture and its marks; of one that is none of the classes, the least unlikely class is the runner-up."""
    reading, marks = answer.reading, []
    for position, mark in enumerate(answer.marks, start=1):
        row = {name: getattr(mark, name, None) for name in MARK} | {"line": mark.line + 1, "position": position}
        if mark.rejected:
            row |= {"label": None, "probability": None}
            row |= {"runner_up": mark.label, "runner_up_probability": mark.probability}
        marks.append(row | {"box": list(mark.box), "probabilities": mark.probabilities})
    said = (reading.text, reading.reason, reading.note) if reading else ("", "", "")
    return dict(zip(PICTURE, (str(answer.path), *said, answer.error), strict=True)) | {"marks": marks}


def _write_json(answers: Sequence[Answer], path: Path) -> None:
    content = [_described(answer) for answer in answers]
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_csv(answers: Sequence[Answer], path: Path) -> None:
    """A row for each mark, and one for a picture without any."""
    with path.open("w", newline="", encoding="utf-8") as file:
        names = ["file", *MARK, *EDGES, *PICTURE[1:]]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for picture in map(_described, answers):
            for mark in picture["marks"] or [{}]:
                writer.writerow(picture | mark | dict(zip(EDGES, mark.get("box", []), strict=False)))


WRITERS = {".csv": _write_csv, ".json": _write_json}


def _save_preprocessed(answers: Sequence[Answer], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = output_names([answer.path for answer in answers], [len(answer.marks) for answer in answers])
    for answer, own in zip(answers, names, strict=True):
        for name, mark in zip(own, answer.marks, strict=True):
            with atomic_write(folder / f"{name}.png") as part:
                mark.picture.save(part)


if __name__ == "__main__":
    main()
