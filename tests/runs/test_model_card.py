"""The card of a run says what the run was, and its intervals are what statistics says."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from scipy.stats import norm
from sklearn.metrics import f1_score, precision_score

from digits.runs import model_card
from digits.runs.model_card import intervals
from digits.runs.run import Run


def test_wilson_by_hand() -> None:
    """https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval"""
    n, p, z = 10_000, 0.9933, norm.ppf(0.975)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert intervals(np.array([[5_000, 30], [37, 4_933]]))["acc"] == pytest.approx((middle - half, middle + half))


def test_bootstrap_equals_resampled_images() -> None:
    confusion = np.array([[90, 8, 2], [5, 40, 5], [1, 9, 140]])
    cells = np.repeat(np.arange(9), confusion.ravel())
    target, pred = cells // 3, cells % 3
    generator = np.random.default_rng(1)
    draws = [generator.integers(len(cells), size=len(cells)) for _ in range(600)]
    between = intervals(confusion)
    for name, score in {"precision": precision_score, "f1": f1_score}.items():
        values = [score(target[draw], pred[draw], average="weighted") for draw in draws]
        assert between[name] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.006)


def test_card_of_a_run(trained: Path) -> None:
    card = (trained / "MODEL_CARD.md").read_text(encoding="utf-8")
    record = json.loads((trained / "metrics.json").read_text())
    assert card.startswith("# CNN on mnist5k\n\n**These are not MNIST's figures:**")
    assert f"| accuracy | {record['test/acc']:.2%} |" in card
    assert "4,000 images for training, 500 for validation, 500 for testing" in card
    assert "421,642 parameters" in card
    assert "python train.py data=mnist5k trainer=cpu trainer.max_epochs=3`" in card
    assert (trained / "confusion_matrix.png").exists()
    assert "![Confusion matrix](confusion_matrix.png)" in card
    assert 'load_classifier("checkpoints/best.ckpt")' in card


def test_metric_without_an_interval_has_its_row(trained: Path) -> None:
    run = Run(trained)
    run.facts["metrics"]["mcc"] = {**run.facts["metrics"]["acc"], "label": "Matthews", "percent": False}
    assert "Matthews" not in model_card.model_card(run, "0123456789")
    run.facts["test/mcc"] = 0.5
    assert "| Matthews | 0.5000 |  |" in model_card.model_card(run, "0123456789")


def test_card_names_what_else_changes_the_training(trained: Path, command: Command) -> None:
    words = ["callbacks=[ema,clean_epochs]", f"pretrained={trained / 'checkpoints' / 'best.ckpt'}", "freeze=[features]"]
    outcome = command("train", "data=mnist5k", "trainer.max_epochs=1", "trainer.limit_train_batches=2", *words)
    assert outcome.code == 0, outcome.err
    card = (outcome.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- callbacks: EMA (decay=0.999, update_every_n_steps=1), CleanEpochs (last=1)\n" in card
    assert f"421,642 parameters, {words[1]}, freeze=['features']\n" in card


def test_cards_of_runs_without_a_result(command: Command) -> None:
    trial = command("train", "data=mnist5k", "trainer.fast_dev_run=1")
    assert trial.code == 0, trial.err
    card = (trial.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "**A test run**" in card
    assert "No checkpoint was kept." in card

    untested = command("train", "data=mnist5k", "trainer.max_epochs=0", "trainer.limit_test_batches=0")
    assert untested.code == 0, untested.err
    card = (untested.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "**Not trained:**" in card
    assert "It was not tested." in card
