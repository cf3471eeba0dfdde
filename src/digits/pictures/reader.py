"""A trained network, ready to read pictures:  load_classifier("best.ckpt").predict("photo.png")"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import expit

from digits.errors import UserError, one_line_errors
from digits.model_facts import ModelFacts
from digits.pictures.decode import Picture, read_picture
from digits.pictures.encode import as_picture
from digits.pictures.normal_form import NOTHING, Found, NothingFoundError, area, find_images
from digits.targets import packages
from digits.validation import user_errors
from digits.views import TtaSettings

if TYPE_CHECKING:
    from PIL import Image

Mode = Literal["auto", "digit", "line"]
Answers = Callable[[np.ndarray], np.ndarray]
WORD, WORD_KNOWN = 3, 0.65  # marks of a line, and how well known they are on average, that make it a word
LEAST_LIKELY = 0.1  # probability of being found right and known, below which a mark in a picture is rejected
# Of how likely a mark was found right, a logistic function of how clearly it was seen, and of whether another look gave
# the same answer: constant, clearness, again. From python -m digits.ink.certainty
CERTAINTY = (1.80, 1.36, 4.94)


@dataclass(frozen=True)
class Prediction:
    """What a network reads in an image.

    Args:
        label: the name of the class that it takes the image for.
        probability: of that class, in [0, 1].
        runner_up: the next likely class; empty where the network knows one class alone.
        runner_up_probability: of that one.
        probabilities: of every class by its name; what they lack to 1 is the probability of none of them.
        image: what the network saw: uint8 of shape (C, H, W).
        box: where in the picture that is: left, top, right, bottom, in pixels; the last two are just outside.
        known: probability that it is one of the classes at all; it is a factor of `probability`.
        rejected: it is taken for none of the classes; `label` is then only the least unlikely one.
        separator: it is a sign between digits, such as a decimal point; `label` is that sign.
        line: that it stands on, from 0, from top to bottom.
    """

    label: str
    probability: float
    runner_up: str
    runner_up_probability: float
    probabilities: dict[str, float]
    image: np.ndarray
    box: tuple[int, int, int, int]
    known: float = 1.0
    rejected: bool = False
    separator: bool = False
    line: int = 0

    @property
    def is_answer(self) -> bool:
        """Whether it is taken for one of the classes."""
        return not (self.rejected or self.separator)

    @property
    def picture(self) -> "Image.Image":
        """What the network saw, as a Pillow image."""
        return as_picture(self.image)

    def __str__(self) -> str:
        runner_up = f"; or {self.runner_up}, {self.runner_up_probability:.1%}" if self.runner_up else ""
        return f"{self.label} ({self.probability:.1%}{runner_up})"


@dataclass(frozen=True)
class Reading:
    """What was read in a picture.

    Args:
        marks: what was found, line by line from top to bottom, each from left to right: answers, separators, and what
            is none of the classes.
        reason: why there is no answer; empty where there is one.
        note: what the reader should know besides, such as that there was more than was asked for.
    """

    marks: list[Prediction]
    reason: str = ""
    note: str = ""

    @property
    def answers(self) -> list[Prediction]:
        """The marks that are one of the classes."""
        return [mark for mark in self.marks if mark.is_answer]

    @property
    def text(self) -> str:
        """All that was read, line by line; `?` is a mark of none of the classes beside others that are."""
        lines: dict[int, list[Prediction]] = {}
        for mark in self.marks:
            lines.setdefault(mark.line, []).append(mark)
        gap = " " if any(len(mark.label) > 1 for mark in self.answers) else ""
        return "\n".join(
            gap.join("?" if mark.rejected else mark.label for mark in line)
            for line in lines.values()
            if any(mark.is_answer for mark in line)
        )


class ImageClassifier:
    """Reads pictures: finds the image in them, brings it into the network's form and asks the network.

    Args:
        logits: maps pixels, uint8 of shape (N, C, H, W), to logits (N, num_classes).
        facts: about the network.
        gate: maps the same to the logits (N,) of being one of the classes at all; None: it cannot say no.
        model: PyTorch's, from pixels in 0..255 to logits, for whoever needs gradients; None: there are none.
    """

    def __init__(self, logits: Answers, facts: ModelFacts, gate: Answers | None = None, model: Any = None) -> None:
        self.logits = logits
        self.model = model
        self.facts = facts
        self.gate = gate
        self.form = facts.form

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Maps images in the network's form, uint8 of shape (N, C, H, W), to calibrated probabilities
        (N, num_classes).
        """
        logits = self.logits(images).astype(np.float64) / self.facts.temperature
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def known(self, images: np.ndarray) -> np.ndarray:
        """Maps images in the network's form to the probabilities (N,) that they are one of the classes at all."""
        return np.ones(len(images)) if self.gate is None else expit(self.gate(images).astype(np.float64))

    def read(self, picture: Picture, mode: Mode = "auto") -> Reading:
        """Finds and reads what is in a picture.

        Args:
            picture: a path, a file's bytes, a Pillow image, or an array: uint8 of shape (H, W), (H, W, 3) or
                (H, W, 4).
            mode: `auto` finds the lines and what is on them; `digit` takes the picture for one of a single digit (or
                whatever the network knows), `line` for one of a single line.

        Raises:
            PictureError: if it cannot be read.
        """
        return self.answer(self.find(picture), mode)

    def find(self, picture: Picture) -> list[Found]:
        """Finds what is to be read; arguments and errors as for `read`."""
        return find_images(read_picture(picture), self.form, self._judge)

    def answer(self, found: list[Found], mode: Mode = "auto") -> Reading:
        """Reads what was found; `mode` as for `read`."""
        return as_promised(_words_rejected(self._predictions(found)), mode, self.facts.noun)

    def predict(self, picture: Picture) -> Prediction:
        """Reads the one digit (or whatever the network knows) in a picture: of several the largest.

        Args:
            picture: as for `read`.

        Raises:
            UserError: if it cannot be read, or there is nothing in it.
        """
        [mark] = self._found(picture, "digit")
        return mark

    def predict_line(self, picture: Picture) -> list[Prediction]:
        """Reads the digits in a picture from left to right; arguments and errors as for `predict`."""
        return self._found(picture, "line")

    def _found(self, picture: Picture, mode: Mode) -> list[Prediction]:
        reading = self.read(picture, mode)
        if not reading.marks:
            raise NothingFoundError(reading.reason)
        return reading.marks

    def _judge(self, images: np.ndarray) -> np.ndarray:
        """How surely each image (N, C, H, W) is one of the classes: (N,)."""
        return self.probabilities(images).max(axis=1) * self.known(images)

    def _predictions(self, found: list[Found]) -> list[Prediction]:
        if not found:
            return []
        images = np.stack([one.image for one in found])
        predictions = []
        names, known = self.facts.class_names, self.known(images)
        if_found = self.probabilities(images)
        certain = certainty(self, found, if_found.argmax(axis=1))
        stated = if_found * (known * certain)[:, None]
        # What had to be found first is a mark by a sheer shadow more often than a data set's image is no digit.
        least = [self.facts.reject_below if one.clearness is None else LEAST_LIKELY for one in found]
        rejected = (known < self.facts.reject_below) | (known * certain < least)
        for one, probabilities, its_known, no in zip(found, stated, known.tolist(), rejected.tolist(), strict=True):
            ranked = [(names[i], float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:2]]
            (label, probability), (runner_up, its_probability) = [*ranked, ("", 0.0)][:2]
            if one.separator:
                predictions.append(_separator(one))
                continue
            predictions.append(
                Prediction(
                    label=label,
                    probability=probability,
                    runner_up=runner_up,
                    runner_up_probability=its_probability,
                    probabilities=dict(zip(names, probabilities.tolist(), strict=True)),
                    image=one.image,
                    box=one.box,
                    known=its_known,
                    rejected=no,
                    line=one.line,
                )
            )
        return predictions


def certainty(classifier: ImageClassifier, found: Sequence[Found], answers: np.ndarray) -> np.ndarray:
    """How likely it is that each mark was found right: (N,). Arguments as for `seen_again`."""
    constant, clearness, again = CERTAINTY
    clear = np.array([1.0 if one.clearness is None else one.clearness for one in found])
    certain = expit(constant + clearness * clear + again * seen_again(classifier, found, answers))
    return np.where([one.clearness is None for one in found], 1.0, certain)


def seen_again(classifier: ImageClassifier, found: Sequence[Found], answers: np.ndarray) -> np.ndarray:
    """Whether another look gives the same answer for each mark: bool (N,).

    Args:
        classifier: that answers.
        found: the marks.
        answers: the number of the class that it takes each for: (N,).
    """
    same = np.zeros(len(found), bool)
    if others := [(i, one.again) for i, one in enumerate(found) if one.again is not None]:
        numbers, images = zip(*others, strict=True)
        same[list(numbers)] = classifier.probabilities(np.stack(images)).argmax(axis=1) == answers[list(numbers)]
    return same


def _separator(found: Found) -> Prediction:
    return Prediction(
        label=found.separator,
        probability=1.0,
        runner_up="",
        runner_up_probability=0.0,
        probabilities={},
        image=found.image,
        box=found.box,
        separator=True,
        line=found.line,
    )


def _words_rejected(marks: list[Prediction]) -> list[Prediction]:
    """Rejects a line's other marks where most of them are rejected or hardly known: an o in a word is no zero."""
    rejected: set[int] = set()
    for number in {mark.line for mark in marks}:
        own = [mark for mark in marks if mark.line == number and not mark.separator]
        known = sum(mark.known for mark in own) / max(1, len(own))
        if 2 * sum(mark.rejected for mark in own) > len(own) or (len(own) >= WORD and known < WORD_KNOWN):
            rejected.add(number)
    return [replace(mark, rejected=True) if mark.line in rejected and not mark.separator else mark for mark in marks]


def as_promised(marks: list[Prediction], mode: Mode, noun: str) -> Reading:
    """The answer to what was found.

    Args:
        marks: line by line from top to bottom, each from left to right.
        mode: what the picture was said to be of.
        noun: what the classes are.
    """
    answers = [mark for mark in marks if mark.is_answer]
    note, lines = "", len({mark.line for mark in answers})
    if mode == "digit" and marks:
        if len(answers) > 1:
            note = f"{len(answers)} {noun}s found, and the largest answered: mode=auto reads them all"
        marks = [max(answers or marks, key=lambda mark: (not mark.separator, area(mark.box)))]
    elif mode == "line":
        if lines > 1:
            note = f"{lines} lines found, and read as one: mode=auto reads line by line"
        marks = [replace(mark, line=0) for mark in sorted(marks, key=lambda mark: mark.box[0] + mark.box[2])]
    reason = ""
    if not marks:
        reason = NOTHING.format(noun=noun)
    elif not answers:
        signs = all(mark.separator for mark in marks)
        reason = f"no {noun}: a sign alone" if signs else f"no {noun}: it looks like none of the classes"
    return Reading(marks, reason, note)


def load_classifier(
    path: str | Path,
    network: Any = None,
    device: str = "cpu",
    facts: ModelFacts | None = None,
    trust: str | Collection[str] = (),
    tta: Any = None,
    tta_below: float = 0.99,
) -> ImageClassifier:
    """Opens a trained network of this project. Nothing in the file is run.

    Args:
        path: `best.ckpt` or `last.ckpt` of a run, its `mnist_cnn_model.pth`, or an exported `*.onnx` or `*.pth`.
        network: the network that the weights belong to, for a `*.pth` of another origin.
        device: where a `*.ckpt` or a `*.pth` computes; `*.onnx` computes on the CPU.
        facts: about that network.
        tta: test-time augmentation: `shifts`, `turns` or `shifts_and_turns`, the mean answer to such views of an image
            that the network is unsure of; None: none. An exported `*.onnx` has it inside, or none.
        tta_below: the highest probability of an answer that counts as unsure.
        trust: a package, or several, of one's own, besides digits, torch and torchvision, whose code the file may name.

    Raises:
        UserError: if there is no such file, or nothing of that kind in it.
    """
    path, trust = Path(path).expanduser(), packages(trust)
    given = network is not None, facts is not None
    if any(given) and not (all(given) and path.suffix == ".pth"):
        raise UserError(f"{path}: give network= and facts= together, and only for a *.pth that carries neither")
    with user_errors(""):
        views = TtaSettings(tta=tta, tta_below=tta_below)
    if path.suffix == ".onnx":
        if tta:
            raise UserError(f"tta={tta}: {path.name} answers as it was exported. Give it to digits.export instead")
        return onnx_classifier(path)

    from digits.archive import load
    from digits.checkpoints import Checkpoint, open_state_dict

    gate = None
    if facts:
        weights = load(path)
        with one_line_errors(path, f"no weights of this {type(network).__name__}"):
            network.load_state_dict(weights)
    elif path.suffix == ".pth":
        network, facts, gate = open_state_dict(path, trust)
    else:
        checkpoint = Checkpoint.open(path, trust)
        network, facts, gate = checkpoint.network(), checkpoint.facts, checkpoint.gate()
    return torch_classifier(views.applied(network, facts), facts, device, gate)


def torch_classifier(network: Any, facts: ModelFacts, device: str = "cpu", gate: Any = None) -> ImageClassifier:
    """One that computes with PyTorch, in float32."""
    import torch

    from digits.networks import RawPixels

    def answers_of(model: Any) -> Answers:
        model = model.float().eval().to(device)

        @torch.inference_mode()
        def answers(images: np.ndarray) -> np.ndarray:
            return model(torch.from_numpy(np.ascontiguousarray(images)).to(device)).cpu().numpy()

        return answers

    raw = RawPixels(network, facts.mean, facts.std)
    return ImageClassifier(answers_of(raw), facts, None if gate is None else answers_of(gate), raw)


def onnx_classifier(model: bytes | Path) -> ImageClassifier:
    """One that computes with ONNX Runtime, from an exported model or its file.

    Raises:
        UserError: if that is no model that digits.export wrote.
    """
    import onnxruntime

    name = model if isinstance(model, Path) else "the model"
    with one_line_errors(name, "no ONNX model that python -m digits.export wrote, or a damaged one"):
        # As bytes: a path would let the model name further files to read.
        content = model.read_bytes() if isinstance(model, Path) else model
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        facts = ModelFacts.from_json(session.get_modelmeta().custom_metadata_map["digits"])
        blank = np.zeros((1, facts.channels, facts.image_size, facts.image_size), dtype=np.uint8)
        outputs = [output.name for output in session.get_outputs()]
        answer, *known = session.run(["logits", *outputs[1:]], {"pixels": blank})
        if answer.shape != (1, len(facts.class_names)) or [one.shape for one in known] not in ([], [(1,)]):
            raise ValueError(f"{answer.shape[-1]} answers for {len(facts.class_names)} classes")

    only = onnxruntime.RunOptions()
    only.only_execute_path_to_fetches = True  # else each call would compute both outputs

    def answers_of(output: str) -> Answers:
        return lambda images: session.run([output], {"pixels": images}, only)[0]

    gates = [answers_of(name) for name in outputs if name == "known"]
    return ImageClassifier(answers_of("logits"), facts, *gates)
