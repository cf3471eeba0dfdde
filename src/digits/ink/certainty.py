"""How certain a mark is, by how clearly it was seen:  python -m digits.ink.certainty best.ckpt

Where the finder takes a shadow for ink, or half a digit for a whole one, the classifier may be as sure as ever. This
reads pages with one digit each, drawn as for the ink network's training, with training digits that it has not seen. It
fits how likely an answer is right, by two signs of trouble: faint ink, and a second look that gives another answer. The
coefficients belong into digits.pictures.reader.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track
from scipy.optimize import minimize
from scipy.special import expit

from digits.data.datasets import Mnist
from digits.errors import UserError
from digits.ink import marks
from digits.ink.pages import page
from digits.ink.train import HELD_OUT
from digits.ink.writing import Layers
from digits.pictures.reader import ImageClassifier, certainty, load_classifier, seen_again

SIDE = 512  # pixels of a page


def one_digit(layers: Layers, digits: np.ndarray, rng: np.random.Generator, side: int, _: bool) -> None:
    """Writes the first of the digits, somewhere."""
    mark = marks.digit(digits[0], rng, pen=float(np.exp(rng.normal(-0.2, 0.4))))
    scale = float(np.exp(rng.uniform(np.log(0.06), np.log(0.7)))) * side / max(mark.clean.shape)
    reach = max(0.0, 0.5 * (side - max(mark.clean.shape) * scale))
    x, y = (layers.side / 2 + rng.uniform(-reach, reach) - scale * length / 2 for length in mark.clean.shape[::-1])
    layers.put_scaled(mark, x, y, scale)


def signs_of_trouble(classifier: ImageClassifier, image: np.ndarray) -> tuple[list[float], str, float] | None:
    """Of one answer: clearness, and whether another look agrees; the answer; its probability, if it was found right."""
    found = classifier.find(image)
    reading = classifier.answer(found)
    if len(reading.answers) != 1:
        return None
    [answer] = reading.answers
    mark = found[reading.marks.index(answer)]
    number = np.array([classifier.facts.class_names.index(answer.label)])
    signs = [float(mark.clearness or 1), float(seen_again(classifier, [mark], number)[0])]
    return signs, answer.label, answer.probability / float(certainty(classifier, [mark], number)[0])


def fit(signs: np.ndarray, right: np.ndarray, if_found: np.ndarray) -> np.ndarray:
    """Coefficients of the certainty, of the greatest likelihood: constant, clearness, again.

    Args:
        signs: of trouble: clearness, and whether another look agrees: (N, 2).
        right: whether each answer is: bool (N,).
        if_found: probability of each answer, if its mark was found right: (N,). What the classifier knows already must
            not be counted twice.
    """
    inputs = np.column_stack([np.ones(len(signs)), signs])

    def nll(coefficients: np.ndarray) -> float:
        p = (if_found * expit(inputs @ coefficients)).clip(1e-6, 1 - 1e-6)
        return float(-np.where(right, np.log(p), np.log1p(-p)).mean())

    return minimize(nll, np.array([-8.0, 12.0, 2.0]), method="Nelder-Mead").x


def main() -> None:  # pragma: no cover - takes minutes; parts are tested
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", type=Path, help="a checkpoint trained on MNIST")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    parser.add_argument("--pages", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    try:
        train = Mnist(arguments.data).load().train
        classifier = load_classifier(arguments.ckpt_path)
    except UserError as error:
        parser.error(str(error))
    digits, target = train.images[-HELD_OUT:, 0].numpy(), train.target[-HELD_OUT:].numpy()
    signs, right, if_found = [], [], []
    for number in track(range(arguments.pages)):
        rng = np.random.default_rng((arguments.seed + 2_000_000, number))
        chosen = int(rng.integers(len(digits)))
        drawn = page(rng, digits[chosen : chosen + 1], SIDE, one_digit)
        if drawn.labels.any() and (found := signs_of_trouble(classifier, drawn.image)):
            signs.append(found[0])
            right.append(found[1] == str(target[chosen]))
            if_found.append(found[2])
    constant, clearness, again = fit(np.array(signs), np.array(right), np.array(if_found))
    print(f"of {len(right):,} pages with one answer, {np.mean(right):.2%} right")
    print(f"CERTAINTY = ({constant:.2f}, {clearness:.2f}, {again:.2f})")


if __name__ == "__main__":
    main()
