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
from sklearn.linear_model import LogisticRegression

from digits.data.datasets import Mnist
from digits.ink import marks
from digits.ink.pages import page
from digits.ink.train import HELD_OUT
from digits.ink.writing import Layers
from digits.pictures.reader import ImageClassifier, load_classifier, seen_again

SIDE = 512  # pixels of a page


def one_digit(layers: Layers, digits: np.ndarray, rng: np.random.Generator, side: int, _: bool) -> None:
    """Writes the first of the digits, somewhere."""
    mark = marks.digit(digits[0], rng, pen=float(np.exp(rng.normal(-0.2, 0.4))))
    scale = float(np.exp(rng.uniform(np.log(0.06), np.log(0.7)))) * side / max(mark.clean.shape)
    reach = max(0.0, 0.5 * (side - max(mark.clean.shape) * scale))
    x, y = (layers.side / 2 + rng.uniform(-reach, reach) - scale * length / 2 for length in mark.clean.shape[::-1])
    layers.put_scaled(mark, x, y, scale)


def signs_of_trouble(classifier: ImageClassifier, image: np.ndarray) -> tuple[list[float], str, float] | None:
    """Of a picture with one answer: clearness and whether another look agrees, the answer, and its probability."""
    found = classifier.find(image)
    reading = classifier.answer(found)
    if len(reading.answers) != 1:
        return None
    [answer] = reading.answers
    mark = found[reading.marks.index(answer)]
    return [float(mark.clearness or 1), float(seen_again(classifier, [mark])[0])], answer.label, answer.probability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", type=Path, help="a checkpoint trained on MNIST")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    parser.add_argument("--pages", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    train = Mnist(arguments.data).load().train
    digits, target = train.images[-HELD_OUT:, 0].numpy(), train.target[-HELD_OUT:].numpy()
    classifier = load_classifier(arguments.ckpt_path)
    signs, right = [], []
    for number in track(range(arguments.pages)):
        rng = np.random.default_rng((arguments.seed + 2_000_000, number))
        chosen = int(rng.integers(len(digits)))
        drawn = page(rng, digits[chosen : chosen + 1], SIDE, one_digit)
        if drawn.labels.any() and (found := signs_of_trouble(classifier, drawn.image)):
            signs.append(found[0])
            right.append(found[1] == str(target[chosen]))
    fitted = LogisticRegression(C=100).fit(signs, right)
    print(f"of {len(right):,} pages with one answer, {np.mean(right):.2%} right")
    print(f"clearness {fitted.coef_[0, 0]:.2f}, again {fitted.coef_[0, 1]:.2f}, constant {fitted.intercept_[0]:.2f}")
    np.savez("certainty.npz", signs=signs, right=right)


if __name__ == "__main__":
    main()
