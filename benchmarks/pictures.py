"""How well pictures are read that people take: this project, the naive recipe and tesseract side by side.

    python -m benchmarks.pictures                                 the newest training's checkpoint, every row
    python -m benchmarks.pictures --rows desk lined --readers project --contact-sheet sheet.jpg --json outcomes.json
    python -m benchmarks.pictures --folder my/pictures            pictures with a labels.csv: file,kind,digits
    python -m benchmarks.pictures --readers project 'without the judge'        what a part is worth
    python -m benchmarks.pictures --time                          seconds from a file to the answer, on one core
    python -m benchmarks.pictures --mnist                         MNIST's own test images, beside the plain test

The pictures are drawn by `benchmarks/scenes.py` from MNIST's test digits, each from its seed. One digit is right with
exactly one answer, of the right class; several with the right text, line by line; a picture without any with no answer.
In a text, spaces and `?` (a mark that is no digit) do not count, and a comma is a decimal point. Where labels hold
signs, the digits alone are counted besides. A picture's probability is the least of its answers', since all of them
must be right; of a picture without digits, it is the highest. The calibration error (ECE, 15 bins of equal width) is
that of pictures with one digit and at least one answer: where nothing is answered, no probability is stated.
"""

import argparse
import csv
import difflib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.handwriting import Digits, any_pen
from benchmarks.photographs import camera, encoded, light, paper
from benchmarks.scenes import NEWLINE, ROWS, Desk, Picture, block_of, draw, fitting, fonts, place
from digits.data.datasets import Mnist
from digits.errors import UserError
from digits.hardware import describe_device
from digits.pictures import marks
from digits.pictures import reader as project_reader
from digits.pictures.reader import ImageClassifier, load_classifier, onnx_classifier
from digits.runs.run import newest_checkpoint

SURE, VERY_SURE = 0.9, 0.99
BINS = 15
LABELS = "labels.csv"
READERS = ("project", "naive", "tesseract")
WITHOUT = "without the "  # before the name of a part


@dataclass(frozen=True)
class Answers:
    """What a reader says of a picture.

    Args:
        text: all that was read; its lines separated by ` / `.
        answers: class and probability of each digit that was read.
        reason: why there is none.
    """

    text: str
    answers: list[tuple[str, float]] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out of a picture; the measures follow from it."""

    reader: str
    row: str
    kind: str
    file: str
    label: str
    read: Answers

    @property
    def right(self) -> bool:
        names = [name for name, _ in self.read.answers]
        if len(self.label) <= 1:
            return names == list(self.label)
        return plain(self.read.text) == plain(self.label)

    @property
    def digits_right(self) -> bool:
        """Whether the digits are right, signs aside; the lines count."""
        return only_digits(self.read.text) == only_digits(self.label)

    @property
    def probability(self) -> float:
        """Of all the picture's answers together."""
        found = [probability for _, probability in self.read.answers]
        return (min(found) if self.label else max(found)) if found else 0.0

    @property
    def false_mark(self) -> float:
        """The highest probability of an answer that has no counterpart in the label."""
        names = [name for name, _ in self.read.answers]
        matcher = difflib.SequenceMatcher(None, re.sub(r"\D", "", self.label), names, autojunk=False)
        false = set(range(len(names)))
        for block in matcher.get_matching_blocks():
            false -= set(range(block.b, block.b + block.size))
        return max((self.read.answers[i][1] for i in false), default=0.0)


def plain(text: str) -> str:
    """A text as it is compared: without spaces and marks that are no digit, one form of each sign."""
    text = text.replace("\n", NEWLINE).translate(str.maketrans({"−": "-", "–": "-", "—": "-", ",": ".", "?": None}))
    return "/".join(filter(None, (re.sub(r"\s", "", part) for part in text.split(NEWLINE))))


def only_digits(text: str) -> str:
    return "/".join(filter(None, (re.sub(r"\D", "", part) for part in text.replace("\n", NEWLINE).split(NEWLINE))))


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error of probabilities (N,), with bins of equal width."""
    which = np.clip(np.ceil(np.asarray(probability) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, np.asarray(right, float) - probability, bins)
    return float(np.abs(gaps).sum() / max(1, len(which)))


# Readers: from a picture's file, and its label (to choose tesseract's mode alone), to answers

Reader = Callable[[bytes, str], Answers]


def project(classifier: ImageClassifier) -> Reader:
    def read(file: bytes, label: str) -> Answers:
        reading = classifier.read(file, mode="auto")
        answers = [(mark.label, mark.probability) for mark in reading.answers]
        return Answers(reading.text.replace("\n", NEWLINE), answers, reading.reason)

    return read


# What each part of the project's reader is worth: the parts by name, and what takes their place when they are left out.
PARTS: dict[str, Callable[[ImageClassifier], AbstractContextManager]] = {
    "second look": lambda _: patch.object(marks, "_second_look", lambda pixels, view, pieces: view),
    "judge": lambda classifier: patch.object(classifier, "_judge", None),
    "gate": lambda classifier: patch.object(classifier, "gate", None),
    "certainty": lambda _: patch.object(project_reader, "certainty", lambda _, found, answers: np.ones(len(found))),
    "words": lambda _: patch.object(project_reader, "_words_rejected", lambda found: found),
}


def without(part: str, classifier: ImageClassifier) -> Reader:
    """The project's reader without one of its parts."""

    def read(file: bytes, label: str) -> Answers:
        with PARTS[part](classifier):
            return project(classifier)(file, label)

    return read


def naive(classifier: ImageClassifier) -> Reader:
    """The usual recipe: grey, resized to the training images' size, inverted if the ground is light."""
    size = classifier.form.image_size

    def read(file: bytes, label: str) -> Answers:
        with Image.open(BytesIO(file)) as image:
            pixels = np.array(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))
        pixels = 255 - pixels if np.median(pixels) > 127 else pixels
        [found] = classifier.probabilities(pixels[None, None])
        name = classifier.facts.class_names[int(found.argmax())]
        return Answers(name, [(name, float(found.max()))])

    return read


def tesseract(file: bytes, label: str) -> Answers:
    """Tesseract's answer, told that there are digits only and whether they are one, a line, or several lines."""
    mode = "10" if len(label) <= 1 else "6" if NEWLINE in label else "7"
    command = ["tesseract", "-", "-", "--psm", mode, "-c", "tessedit_char_whitelist=0123456789", "tsv"]
    said = subprocess.run(command, input=file, capture_output=True, env=os.environ | {"OMP_THREAD_LIMIT": "1"})
    lines: dict[tuple[str, ...], str] = {}
    answers = []
    for row in csv.DictReader(said.stdout.decode().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        word = (row["text"] or "").strip()
        if row["level"] == "5" and word:
            where = row["block_num"], row["par_num"], row["line_num"]
            lines[where] = lines.get(where, "") + word
            answers += [(digit, float(row["conf"]) / 100) for digit in word]
    return Answers(NEWLINE.join(lines.values()), answers)


def available(names: Sequence[str], classifier: ImageClassifier) -> dict[str, Reader]:
    """The readers of these names; says in one line if tesseract is not there."""
    found: dict[str, Reader] = {"project": project(classifier), "naive": naive(classifier), "tesseract": tesseract}
    found |= {f"{WITHOUT}{part}": without(part, classifier) for part in PARTS}
    if "tesseract" in names and not shutil.which("tesseract"):
        print("tesseract is not installed and left out (Debian: apt install tesseract-ocr)", file=sys.stderr)
        names = [name for name in names if name != "tesseract"]
    return {name: found[name] for name in names}


# Where pictures come from


def mnist(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's test images (10000, 28, 28), uint8, and their targets."""
    _, test, *_ = Mnist(root).load()
    return test.images.numpy()[:, 0], test.target.numpy()


def labelled(folder: Path) -> Iterator[tuple[str, Picture]]:
    """Names and pictures of a folder with a labels.csv.

    Raises:
        UserError: if there is none, or it lacks a column.
    """
    path = folder / LABELS
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. It has the columns file, kind and digits")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := {"file", "kind", "digits"} - set(rows.fieldnames or ()):
            raise UserError(f"{path}: there is no column {', '.join(sorted(missing))}. It needs file, kind and digits")
        for row in rows:
            content = (folder / row["file"]).read_bytes()
            yield row["file"], Picture(row.get("row") or row["kind"], row["kind"], row["digits"], content)


def generated(arguments: argparse.Namespace) -> Iterator[tuple[str, Picture]]:
    digits, faces = Digits(*mnist(arguments.data)), fonts(arguments.fonts)
    for row in arguments.rows:
        for index in range(arguments.per_row):
            picture = draw(row, index, arguments.seed, digits, faces)
            yield f"{row}-{index:03d}{picture.suffix}".replace(" ", "-"), picture


def saved(pictures: Iterator[tuple[str, Picture]], folder: Path) -> Iterator[tuple[str, Picture]]:
    """Writes the pictures and their labels as they pass."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as file:
        labels = csv.writer(file)
        labels.writerow(["file", "kind", "digits", "row"])
        for name, picture in pictures:
            (folder / name).write_bytes(picture.file)
            labels.writerow([name, picture.kind, picture.text, picture.row])
            yield name, picture


# Measures


def share(flags: Sequence[bool]) -> float:
    """In percent; of nothing: nan."""
    return 100 * sum(flags) / len(flags) if flags else float("nan")


def measures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of the pictures of a row, or a kind, in percent.

    `wrong` and the wrong ones that are `sure`, p >= 0.9; of pictures without digits: any answer, and a sure one.
    `digits wrong`: signs aside.
    """
    return {
        "pictures": len(outcomes),
        "wrong": share([not one.right for one in outcomes]),
        "sure": share([not one.right and one.probability >= SURE for one in outcomes]),
        "digits wrong": share([not one.digits_right for one in outcomes]),
    }


def overall(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of all of a reader's pictures, in percent."""
    single = [one for one in outcomes if len(one.label) == 1]
    answered = [one for one in single if one.read.answers]
    empty = [one for one in outcomes if not one.label]

    def error(part: Sequence[Outcome]) -> float:
        found = np.array([one.probability for one in part]), np.array([one.right for one in part])
        return 100 * calibration_error(*found) if part else float("nan")

    return {
        "one digit: no answer at all": share([not one.read.answers for one in single]),
        "ECE of one digit": error(answered),
        "ECE of one digit, no answer as p = 0": error(single),
        "no digit: answered with p >= 0.9": share([one.probability >= SURE for one in empty]),
        "no digit: answered at all": share([bool(one.read.answers) for one in empty]),
        "all: wrong with p >= 0.99": share([not one.right and one.probability >= VERY_SURE for one in outcomes]),
        "all: any answer of p >= 0.99 that is wrong": share([one.false_mark >= VERY_SURE for one in outcomes]),
    }


OVERALL_TARGETS = {
    "ECE of one digit": 2.0,
    "no digit: answered with p >= 0.9": 3.0,
    "all: wrong with p >= 0.99": 0.5,
}


def cell(found: dict[str, float], row: str, label: str) -> str:
    """As `wrong % (sure %)`; of pictures without digits, the sure ones come first, since they are asked for."""
    first, second = ("sure", "wrong") if row == "none" or not label else ("wrong", "sure")
    return f"{found[first]:.1f} % ({found[second]:.1f} %)"


def table_of(outcomes: Sequence[Outcome], readers: Sequence[str], by: str = "row") -> list[dict[str, str]]:
    """The table's rows: pictures, their number, a cell for each reader, what is to be reached."""
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.row if by == "row" else f"{one.row}: {one.kind}", []).append(one)
    found = []
    for name, group in groups.items():
        row = ROWS.get(group[0].row) if by == "row" else None
        several = any(len(one.label) > 1 for one in group)
        cells = {"pictures": row.title if row else name, "n": str(len(group) // len(readers))}
        for reader in readers:
            its = [one for one in group if one.reader == reader]
            numbers = measures(its)
            if reader == "naive" and all(len(one.label) > 1 for one in its):
                text = "reads one digit"
            else:
                text = cell(numbers, group[0].row, group[0].label)
            if several and any(re.search(r"[^\d/ ]", one.label) for one in its) and "reads" not in text:
                text += f"; digits {numbers['digits wrong']:.1f} %"
            cells[reader] = text
        cells["to reach"] = f"{row.target:g} %" if row and row.target is not None else ""
        found.append(cells)
    return found


def overall_table(outcomes: Sequence[Outcome], readers: Sequence[str]) -> list[dict[str, str]]:
    of = {reader: overall([one for one in outcomes if one.reader == reader]) for reader in readers}
    return [
        {"measure": name}
        | {reader: "" if np.isnan(of[reader][name]) else f"{of[reader][name]:.2f} %" for reader in readers}
        | {"to reach": f"{OVERALL_TARGETS[name]:g} %" if name in OVERALL_TARGETS else ""}
        for name in of[readers[0]]
    ]


def markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(console: Console, title: str, rows: Sequence[dict[str, str]]) -> None:
    table = Table(title=title)
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


# The contact sheet


class ContactSheet:
    """Of each row, some pictures that were read right and some that were not, with the answer beneath.

    Args:
        each: pictures of either.
        reader: whose answers.
    """

    COLUMNS, WIDTH, HEIGHT, CAPTION, HEAD = 8, 170, 140, 15, 30  # pixels, but the columns

    def __init__(self, each: int = 2, reader: str = "project") -> None:
        self.each, self.reader = each, reader
        self.kept: dict[tuple[str, bool], list[tuple[Picture, Outcome]]] = {}

    def see(self, picture: Picture, outcome: Outcome) -> None:
        here = self.kept.setdefault((picture.row, outcome.right), [])
        other_kinds = picture.kind not in [kept.kind for kept, _ in here]
        if outcome.reader == self.reader and len(here) < self.each and (other_kinds or not outcome.right):
            here.append((picture, outcome))

    def image(self) -> Image.Image:
        """The right ones, then the wrong ones, each in the order of the rows."""
        parts = [
            [pair for (_, is_right), pairs in self.kept.items() if is_right is right for pair in pairs]
            for right in (True, False)
        ]
        lines = [-(-len(part) // self.COLUMNS) for part in parts]
        sheet = Image.new("RGB", (self.COLUMNS * self.WIDTH, sum(lines) * self.HEIGHT + 2 * self.HEAD), "white")
        pen, top = ImageDraw.Draw(sheet), 0
        for title, part, high in zip(("read right", "read wrong"), parts, lines, strict=True):
            pen.text((4, top + 4), title, fill="black", font_size=18)
            for i, (picture, outcome) in enumerate(part):
                x, y = i % self.COLUMNS * self.WIDTH, i // self.COLUMNS * self.HEIGHT
                self._draw(sheet, x, top + self.HEAD + y, picture, outcome)
            top += self.HEAD + high * self.HEIGHT
        return sheet

    def _draw(self, sheet: Image.Image, x: int, y: int, picture: Picture, outcome: Outcome) -> None:
        colour = (20, 120, 50) if outcome.right else (190, 20, 20)
        with Image.open(BytesIO(picture.file)) as image:
            small = image.convert("RGB")
        small.thumbnail((self.WIDTH - 8, self.HEIGHT - 2 * self.CAPTION - 8))
        pen = ImageDraw.Draw(sheet)
        pen.rectangle((x + 2, y + 2, x + small.width + 5, y + small.height + 5), outline=colour, width=2)
        sheet.paste(small, (x + 4, y + 4))
        said = f"{outcome.read.text} ({outcome.probability:.2f})" if outcome.read.answers else "no digit"
        below = y + small.height + 7
        caption = [f"{picture.kind}: {picture.text}"[:27], f"{'read' if outcome.right else 'READ'} {said}"[:30]]
        for i, text in enumerate(caption):
            pen.text((x + 4, below + 12 * i), text, fill=colour if i else "black", font_size=11)


# Time


def large_photo(side: tuple[int, int], texts: Sequence[str], height: float, digits: Digits) -> bytes:
    """A photo of a page with these lines."""
    d = Desk(np.random.default_rng(0), digits, fonts())
    sheet, pen = paper(d.rng, side, "white"), any_pen(d.rng, ["felt"])
    place(d, sheet, fitting(block_of(d, texts, height, pen), sheet.shape), pen, 0.1)
    picture, _ = camera(d.rng, sheet * light(d.rng, side))
    return encoded(picture, 90)


def one_core_classifier(path: Path) -> ImageClassifier:
    """A checkpoint, exported to ONNX if it is not yet, in this process on one core."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if path.suffix == ".onnx":
        return load_classifier(path)
    from digits.checkpoints import Checkpoint
    from digits.onnx_model import to_onnx

    checkpoint = Checkpoint.open(path)
    return onnx_classifier(to_onnx(checkpoint.network(), checkpoint.facts))


def timing(path: Path, digits: Digits, rounds: int) -> list[dict[str, str]]:
    """From a JPEG's bytes to the answer; where the machine is busy with other things, the processor's time tells."""
    photos = {
        "1 megapixel, one digit": (large_photo((1000, 1000), ["7"], 200, digits), 100),
        "12 megapixels, 20 digits": (large_photo((3000, 4000), ["31415", "92653", "58979", "32384"], 300, digits), 600),
    }
    classifier = one_core_classifier(path)
    rows = []
    for name, (file, target) in photos.items():
        text = classifier.read(file).text
        seconds, busy = [], []
        for _ in track(range(rounds), name, transient=True):
            start, worked = time.perf_counter(), time.process_time()
            classifier.read(file)
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - worked)
        middle, processor = (f"{1000 * statistics.median(values):.0f} ms" for values in (seconds, busy))
        read = text.replace("\n", NEWLINE)
        rows.append({"photo": name, "median": middle, "of the processor": processor, "read": read})
        rows[-1]["to reach"] = f"{target} ms"
    return rows


def mnist_rows(classifier: ImageClassifier, images: np.ndarray, target: np.ndarray) -> list[dict[str, str]]:
    """Error rates of MNIST's test images: the plain test, and read as pictures."""
    parts = np.array_split(images[:, None], range(500, len(images), 500))
    plainly = np.concatenate([classifier.probabilities(part).argmax(axis=1) for part in parts])
    names = classifier.facts.class_names
    rows = [{"MNIST's test images": "plain test", "wrong": f"{100 * (plainly != target).mean():.2f} %"}]
    for mode in ("digit", "auto"):
        wrong = []
        for image, digit in track(list(zip(images, target, strict=True)), f"mode={mode}", transient=True):
            answers = classifier.read(image, mode=mode).answers
            wrong.append([one.label for one in answers] != [names[digit]])
        rows.append({"MNIST's test images": f"read, mode={mode}", "wrong": f"{share(wrong):.2f} %"})
    return rows


# The command


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="a checkpoint or an exported model (default: the newest training's)")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures (default: 1)")
    parser.add_argument("--per-row", type=int, default=100, help="pictures in a row (default: 100)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="of the table (default: all)")
    parser.add_argument(
        "--readers", nargs="+", default=list(READERS), choices=[*READERS, *(f"{WITHOUT}{part}" for part in PARTS)]
    )
    parser.add_argument("--folder", type=Path, help="read its pictures instead; labels.csv: file, kind, digits")
    parser.add_argument("--fonts", type=Path, help="a folder of fonts for what is typed (default: matplotlib's)")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the pictures there, with labels.csv")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="draw what is read right and what is not")
    parser.add_argument("--each", type=int, default=2, help="pictures of a row on it, right and wrong (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came out of each picture")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--kinds", action="store_true", help="show each kind of a row by itself, too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--time", action="store_true", help="measure time instead")
    what.add_argument("--mnist", type=int, nargs="?", const=10_000, help="read MNIST's test images (so many) instead")
    root = Path(os.environ.get("DIGITS_DATA", "data"))
    parser.add_argument("--data", type=Path, default=root, help="MNIST's root")
    parser.add_argument("--rounds", type=int, default=15, help="of --time (default: 15)")
    return parser.parse_args()


def read_all(arguments: argparse.Namespace, readers: dict[str, Reader], sheet: ContactSheet) -> Iterator[Outcome]:
    pictures = list(labelled(arguments.folder)) if arguments.folder else generated(arguments)
    total = len(pictures) if isinstance(pictures, list) else len(arguments.rows) * arguments.per_row
    passing = saved(iter(pictures), arguments.save) if arguments.save else pictures
    for name, picture in track(passing, "reading", total=total, transient=True):
        for reader, read in readers.items():
            outcome = Outcome(reader, picture.row, picture.kind, name, picture.text, read(picture.file, picture.text))
            sheet.see(picture, outcome)
            yield outcome


def as_json(outcome: Outcome) -> dict[str, object]:
    return asdict(outcome) | {"right": outcome.right, "digits_right": outcome.digits_right, "p": outcome.probability}


def tables(arguments: argparse.Namespace, path: Path) -> dict[str, list[dict[str, str]]]:
    """Measures what is asked for; the tables by their titles."""
    if arguments.time:
        rows = timing(path, Digits(*mnist(arguments.data)), arguments.rounds)
        return {f"From a JPEG to the answer, ONNX Runtime, {describe_device(torch.device('cpu'))}": rows}
    classifier = load_classifier(path)
    if arguments.mnist:
        images, target = mnist(arguments.data)
        return {"MNIST": mnist_rows(classifier, images[: arguments.mnist], target[: arguments.mnist])}
    readers, sheet = available(arguments.readers, classifier), ContactSheet(arguments.each)
    outcomes = list(read_all(arguments, readers, sheet))
    if arguments.json:
        arguments.json.write_text(json.dumps([as_json(one) for one in outcomes], indent=1, ensure_ascii=False))
    if arguments.contact_sheet:
        sheet.image().save(arguments.contact_sheet, quality=70)
    found = {"wrong answers (of all: wrong and sure, p >= 0.9)": table_of(outcomes, list(readers))}
    if arguments.kinds:
        found["by kind"] = table_of(outcomes, list(readers), by="kind")
    asked = [one for one in outcomes if one.row not in ROWS or ROWS[one.row].target is not None]
    if asked and len(asked) < len(outcomes):
        found["all pictures of the rows with a figure to reach"] = overall_table(asked, list(readers))
    return found | {"all pictures": overall_table(outcomes, list(readers))}


def main() -> None:
    arguments = parsed()
    console = Console(width=max(120, Console().width))
    try:
        path = arguments.ckpt or newest_checkpoint()
        found = tables(arguments, path)
    except UserError as error:
        sys.exit(f"error: {error}")
    for title, rows in found.items():
        show(console, title, rows)
    if arguments.markdown:
        arguments.markdown.write_text(
            "\n\n".join(f"{title}\n\n{markdown(rows)}" for title, rows in found.items()) + "\n"
        )


if __name__ == "__main__":
    main()
