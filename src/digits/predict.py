"""Reads images with a trained network:  python -m digits.predict images=photo.png ckpt_path=..."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from omegaconf import DictConfig
from pydantic import Field, model_validator

from digits import submission
from digits.atomic import atomic_write
from digits.command import command
from digits.data.tables import ID, listed_images
from digits.pictures.answers import Answer, ImagePaths, output_names, read_files, report_failures
from digits.validation import FilePath, Settings, Trust, read_settings

log = logging.getLogger(__name__)
COLUMNS = ["file", "position", "label", "probability", "runner_up", "runner_up_probability"]


class PredictSettings(Settings):
    """The keys of configs/predict.yaml."""

    images: ImagePaths
    ckpt_path: FilePath | None
    mode: Literal["digit", "line"]
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

    @model_validator(mode="after")
    def _outputs_can_be_written(self) -> Self:
        problem, output, seen = "", self.output, self.save_preprocessed
        if output and (output.suffix not in WRITERS or not output.absolute().parent.is_dir()):
            problem = f"output={output}: give a file that ends with {' or '.join(WRITERS)}, in a folder that exists"
        wanted = self.submission
        if wanted and (wanted.suffix != ".csv" or not wanted.absolute().parent.is_dir()):
            problem = f"submission={wanted}: give a file that ends with .csv, in a folder that exists"
        elif wanted and self.mode == "line":
            problem = "mode=line: a submission has one label for each picture. Leave it out"
        elif wanted and wanted.resolve() in {path.resolve() for path in self.images}:
            problem = f"submission={wanted}: that is what is to be read. Give another file"
        elif self.has_pixels and (not wanted or output or seen):
            problem = f"images={self.table}: a CSV of pixels is read for a submission alone: submission=submission.csv"
        elif seen and seen.resolve() in {path.resolve().parent for path in self.pictures[1]}:
            problem = f"save_preprocessed={seen}: the pictures themselves are there. Give another folder"
        if problem:
            raise ValueError(problem)
        return self


@command("predict", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Prints a table; a file that cannot be read gets its line, and the others their answers."""
    settings = read_settings(PredictSettings, cfg)

    from digits.console import as_text
    from digits.pictures.reader import load_classifier
    from digits.runs.run import newest_checkpoint

    checkpoint = settings.ckpt_path or newest_checkpoint(settings.log_dir)
    classifier = load_classifier(checkpoint, trust=settings.trust)
    log.info("model:  %s, trained on %s", checkpoint, classifier.facts.dataset)
    if classifier.gate is None:
        log.info("        it has no gate, so that it cannot say no: every picture gets one of its classes")
    wanted = settings.submission
    if settings.table and wanted and settings.has_pixels:
        _submit(wanted, settings.submission_header, submission.classify_pixels(classifier, settings.table))
        return
    ids, paths = settings.pictures
    read = classifier.predict_line if settings.mode == "line" else lambda path: [classifier.predict(path)]
    answers = list(read_files(paths, read))

    if not wanted:
        log.info("%s", as_text(_table(answers, settings.mode, "digit" if classifier.facts.are_digits else "class")))
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


def _table(answers: Sequence[Answer], mode: str, noun: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table("file", box=box.SIMPLE_HEAD)
    if mode == "line":
        table.add_column("read as")
        table.add_column("position", justify="right")
    table.add_column(noun)
    table.add_column("probability", justify="right")
    table.add_column("runner-up")
    for answer in answers:
        start = [str(answer.path)]
        if not answer.predictions:
            table.add_row(*start, *(["", ""] if mode == "line" else []), "-", "", "")
        for position, prediction in enumerate(answer.predictions, start=1):
            if mode == "line":
                labels = [one.label for one in answer.predictions]
                together = ("" if max(map(len, labels)) == 1 else " ").join(labels)
                start = [str(answer.path), together] if position == 1 else ["", ""]
                start.append(str(position))
            second = f"{prediction.runner_up} ({prediction.runner_up_probability:.1%})"
            runner_up = second if prediction.runner_up else ""
            table.add_row(*start, prediction.label, f"{prediction.probability:.1%}", runner_up)
    return table


def _rows(answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    for answer in answers:
        if answer.error:
            yield {"file": str(answer.path), "error": answer.error}
        for position, prediction in enumerate(answer.predictions, start=1):
            row = {"file": str(answer.path), "position": position}
            row |= {name: getattr(prediction, name) for name in COLUMNS if name not in row}
            yield row | {"probabilities": prediction.probabilities, "box": list(prediction.box)}


def _write_json(answers: Sequence[Answer], path: Path) -> None:
    path.write_text(json.dumps(list(_rows(answers)), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_csv(answers: Sequence[Answer], path: Path) -> None:
    edges = ["left", "top", "right", "bottom"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *edges, "error"], extrasaction="ignore")
        writer.writeheader()
        for row in _rows(answers):
            writer.writerow(row | dict(zip(edges, row.get("box", []), strict=False)))


WRITERS = {".csv": _write_csv, ".json": _write_json}


def _save_preprocessed(answers: Sequence[Answer], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for answer, name in zip(answers, output_names([answer.path for answer in answers]), strict=True):
        for position, prediction in enumerate(answer.predictions, start=1):
            suffix = f"_{position}" if len(answer.predictions) > 1 else ""
            with atomic_write(folder / f"{name}{suffix}.png") as part:
                prediction.picture.save(part)


if __name__ == "__main__":
    main()
