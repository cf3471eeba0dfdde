"""Reads images with a trained network:  python -m digits.predict images=photo.png ckpt_path=..."""

import csv
import glob
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from digits.atomic import atomic_write
from digits.command import command
from digits.errors import UserError

if TYPE_CHECKING:
    from digits.pictures.reader import Prediction

log = logging.getLogger(__name__)
MODES = ("digit", "line")
OUTPUTS = (".csv", ".json")
COLUMNS = ["file", "position", "label", "probability", "runner_up", "runner_up_probability"]


@dataclass(frozen=True)
class Answer:
    """What there is to say about one file: predictions from left to right, or why there are none."""

    path: Path
    predictions: "list[Prediction]" = field(default_factory=list)
    error: str = ""


@command("predict", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Prints a table; a file that cannot be read gets its line, and the others their answers."""
    if cfg.mode not in MODES:
        raise UserError(f"mode={cfg.mode}: there are {', '.join(MODES)}")
    output = cfg.output and Path(str(cfg.output)).expanduser()
    if output and output.suffix not in OUTPUTS:
        raise UserError(f"output={cfg.output}: give a file that ends with {' or '.join(OUTPUTS)}")
    if output and not output.absolute().parent.is_dir():
        raise UserError(f"output={cfg.output}: there is no folder {output.parent}")
    paths = image_paths(cfg.images)
    seen = cfg.save_preprocessed and Path(str(cfg.save_preprocessed)).expanduser()
    if seen and seen.resolve() in {path.resolve().parent for path in paths}:
        raise UserError(f"save_preprocessed={seen}: the pictures themselves are there. Give another folder")

    from tqdm import tqdm

    from digits.console import as_text
    from digits.pictures.reader import load_classifier
    from digits.runs.run import newest_checkpoint

    checkpoint = str(cfg.ckpt_path or newest_checkpoint(cfg.log_dir))
    classifier = load_classifier(checkpoint)
    log.info("of:     %s, trained on %s", checkpoint, classifier.facts.dataset)
    read = classifier.predict_line if cfg.mode == "line" else lambda path: [classifier.predict(path)]
    answers = []
    for path in tqdm(paths, unit="image", leave=False, disable=None):  # None: no bar where there is no terminal
        answers.append(answer(path, read))

    log.info("%s", as_text(_table(answers, cfg.mode, "digit" if classifier.facts.are_digits else "class")))
    if seen:
        _save_preprocessed(answers, seen)
        log.info("what the network saw: %s", seen)
    if output:
        write = _write_json if output.suffix == ".json" else _write_csv
        write(answers, output)
        log.info("saved: %s", output)
    report_failures(answers)


def answer(path: Path, read: Callable[[Path], "list[Prediction]"]) -> Answer:
    """What `read` finds in a file, or why it finds nothing."""
    from digits.pictures.normal_form import NothingFoundError

    try:
        return Answer(path, read(path))
    except NothingFoundError as error:
        return Answer(path, error=f"{path}: {error}")
    except UserError as error:
        return Answer(path, error=str(error))
    except Exception as error:  # one picture that surprises must not cost the others their answers
        reason = " ".join(str(error).split())
        return Answer(path, error=f"{path}: cannot be read ({type(error).__name__}: {reason}). Please report it")


def image_paths(images: Any) -> list[Path]:
    """The files that are meant by a path, a folder, a pattern, or a list of them; a file need not exist.

    Raises:
        UserError: for a folder or a pattern without images.
    """
    from digits.data.datasets import IMAGE_SUFFIXES

    paths: list[Path] = []
    asked = list(images) if isinstance(images, ListConfig | list) else [images]
    for name in asked:
        if not isinstance(name, str | int | float) or str(name) == "":
            raise UserError(f"images={images}: give a file, a folder, a pattern, or several: images=[a.png,b.png]")
        path = Path(str(name)).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(f"images={name}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
            paths += found
        elif glob.has_magic(str(path)) and not path.exists():
            matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may begin with /
            found = sorted(file for file in matches if not file.is_dir())
            if not found:
                raise UserError(f"images={name}: no file matches")
            paths += found
        else:
            paths.append(path)
    if not paths:
        raise UserError("images=[]: give a file, a folder or a pattern")
    return paths


def report_failures(answers: list[Answer]) -> None:
    """Says why files have no answer, and makes it the command's error.

    Raises:
        UserError: if there is such a file.
    """
    failed = [answer.error for answer in answers if answer.error]
    if len(failed) == len(answers) == 1:
        raise UserError(failed[0])
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(answers)} files have no answer, as said above")


def names_for(paths: list[Path]) -> list[str]:
    """A name for what is written of each file: its own without the suffix, all of them numbered where two are alike."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [f"{i:04d}_{stem}" for i, stem in enumerate(stems, start=1)]


def _table(answers: list[Answer], mode: str, noun: str) -> Any:
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
            runner_up = f"{prediction.runner_up} ({prediction.runner_up_probability:.1%})"
            table.add_row(*start, prediction.label, f"{prediction.probability:.1%}", runner_up)
    return table


def _rows(answers: list[Answer]) -> Iterator[dict[str, Any]]:
    for answer in answers:
        if answer.error:
            yield {"file": str(answer.path), "error": answer.error}
        for position, prediction in enumerate(answer.predictions, start=1):
            row = {"file": str(answer.path), "position": position}
            row |= {name: getattr(prediction, name) for name in COLUMNS if name not in row}
            yield row | {"probabilities": prediction.probabilities, "box": list(prediction.box)}


def _write_json(answers: list[Answer], path: Path) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(list(_rows(answers)), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_csv(answers: list[Answer], path: Path) -> None:
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "left", "top", "right", "bottom", "error"], extrasaction="ignore")
        writer.writeheader()
        for row in _rows(answers):
            box = dict(zip(("left", "top", "right", "bottom"), row.get("box", []), strict=False))
            writer.writerow(row | box)


def _save_preprocessed(answers: list[Answer], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for answer, name in zip(answers, names_for([answer.path for answer in answers]), strict=True):
        for position, prediction in enumerate(answer.predictions, start=1):
            suffix = f"_{position}" if len(answer.predictions) > 1 else ""
            with atomic_write(folder / f"{name}{suffix}.png") as part:
                prediction.picture.save(part)


if __name__ == "__main__":
    main()
