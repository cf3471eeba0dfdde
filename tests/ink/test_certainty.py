"""How certain a mark is: its coefficients, and the pages that they are fitted on."""

from pathlib import Path

import numpy as np
from scipy.special import expit

from digits.data.datasets import Mnist5k
from digits.ink.certainty import fit, one_digit, signs_of_trouble
from digits.ink.pages import page
from digits.pictures.reader import load_classifier


def test_coefficients_are_found_again() -> None:
    rng = np.random.default_rng(0)
    signs = np.column_stack([rng.uniform(0.5, 1, 20_000), rng.integers(0, 2, 20_000)])
    if_found = rng.uniform(0.7, 1, 20_000)
    right = rng.random(20_000) < if_found * expit(-6 + 9 * signs[:, 0] + 1.5 * signs[:, 1])
    np.testing.assert_allclose(fit(signs, right, if_found), (-6, 9, 1.5), rtol=0.15)


def test_pages_of_one_digit(trained: Path) -> None:
    images = Mnist5k().load().train.images[:, 0].numpy()
    classifier = load_classifier(trained)
    seen = []
    for number in range(12):
        drawn = page(np.random.default_rng(number), images[3000:3001], 256, one_digit)
        assert set(np.unique(drawn.labels)) <= {0, 1}
        if found := signs_of_trouble(classifier, drawn.image):
            (clearness, again), label, probability = found
            assert 0 < clearness <= 1
            assert again in (0, 1)
            assert label in classifier.facts.class_names
            assert 0 < probability <= 1 + 1e-6
            seen.append(label)
    assert len(seen) >= 4
    assert seen.count("6") > len(seen) / 2
