"""The model card of a run: how the network was trained, how good it is, and what it is not for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from digits.analysis import CONFIDENCE, by_class, interval
from digits.console import rendered
from digits.data.datasets import named
from digits.metrics import logged, recorded
from digits.overrides import CONFIGS
from digits.runs.run import Run
from digits.targets import foreign_packages

RESAMPLES = 2_000


def model_card(run: Run, class_names: Sequence[str]) -> str:
    """A run's card as Markdown, by the template `MODEL_CARD.md`; the run's record is complete but for its status."""
    facts, config = run.facts, OmegaConf.to_container(run.config)
    assert isinstance(config, dict)
    always = OmegaConf.load(CONFIGS / "callbacks" / "default.yaml")
    sizes, typed = facts["split_sizes"], facts.get("typed_images") or 0
    confusion = np.array(facts.get("confusion_matrix", 0))
    tested = "test/acc" in facts
    between = intervals(confusion) if tested else {}
    figures = [
        (one, facts[name], between.get(one.name))
        for name, one in logged(recorded(facts), ["test"]).items()
        if tested and name in facts
    ]
    ours = config["data"]["_target_"] == "digits.data.DigitsDataModule"
    return rendered(
        "MODEL_CARD.md",
        {"count": "{:,}".format, "described": _described},
        facts=facts,
        config=config,
        class_names=class_names,
        warnings=warnings(run),
        figures=figures,
        sizes={**sizes, "trained": sizes["train"] - typed, "typed": typed, "tested": confusion.sum()},
        drawn=(run.folder / "confusion_matrix.png").exists(),
        callbacks=[part for name, part in config["callbacks"].items() if part and name not in always],
        command=run.command,
        shown=(named(facts["dataset"]).description if ours else "") or f"the images of {facts['data']}",
        checkpoint=run.checkpoint,
        packages=foreign_packages(config),
    )


def _described(part: Mapping[str, Any]) -> str:
    """A class and its arguments."""
    name = part["_target_"].rpartition(".")[2].replace("Identity", "none").replace("NoMixing", "none")
    values = ", ".join(f"{key}={value}" for key, value in part.items() if key not in ("_target_", "_partial_"))
    return f"{name} ({values})" if values else name


def intervals(confusion: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals, for other test images of the same kind, of the metrics that a confusion matrix gives.

    Wilson's for the accuracy; the bootstrap's percentiles for precision, recall and F1, weighted by class size. They
    say how much depends on the choice of test images, not on the seed.

    Args:
        confusion: counts (num_classes, num_classes), row target and column prediction.
    """
    total = int(confusion.sum())
    # Drawing images with replacement draws cells of the matrix with their frequencies.
    drawn = np.random.default_rng(0).multinomial(total, (confusion / total).ravel(), size=RESAMPLES)
    drawn = drawn.reshape(RESAMPLES, *confusion.shape)  # (RESAMPLES, num_classes, num_classes)
    target = drawn.sum(axis=2)  # images of each class
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    weighted = {
        name: tuple(np.percentile((values * target).sum(axis=1) / total, tails))
        for name, values in by_class(drawn).items()
    }
    return {"acc": interval(int(confusion.trace()), total), **weighted}


def warnings(run: Run) -> list[str]:
    """What to know before any figure is read, each as Markdown."""
    found = []
    if run.dataset == "mnist5k":
        found.append("**These are not MNIST's figures:** it was trained and tested on 5,000 of MNIST's images.")
    if run.facts.get("epochs") == 0:
        found.append("**Not trained:** no epoch was run.")
    if run.config["trainer"].get("fast_dev_run"):
        found.append("**A test run** (`trainer.fast_dev_run`), not a result.")
    return found
