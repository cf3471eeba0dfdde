"""The model card of a run: how the network was trained, how good it is, and what it is not for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from digits.analysis import CONFIDENCE, by_class, interval
from digits.data.datasets import named
from digits.metrics import logged, recorded
from digits.overrides import CONFIGS
from digits.runs.run import Run
from digits.targets import foreign_packages

RESAMPLES = 2_000
GROUPS = ("loss", "optimizer", "scheduler", "augmentation", "mixing")  # of the recipe, besides the network


def model_card(run: Run, class_names: Sequence[str]) -> str:
    """Writes a run's card as Markdown.

    Args:
        run: its record is complete but for its status.
        class_names: by the class's number.
    """
    facts, settings = run.facts, run.config
    return "\n\n".join(
        [
            f"# {settings['model']['_target_'].rpartition('.')[2]} on {facts['data']}",
            *warnings(run),
            *_named(facts),
            f"Reads images of {len(class_names)} classes: {', '.join(class_names)}.",
            "## How good it is",
            *_figures(run),
            "## Data",
            _data(facts, settings),
            "## Recipe",
            _recipe(run, settings),
            "## Limits",
            _limits(facts, settings),
            "## How to load it",
            _loading(settings, run.checkpoint),
            _made(facts),
        ]
    )


def intervals(confusion: np.ndarray, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals, for other test images of the same kind, of the metrics that a confusion matrix gives.

    Wilson's for the accuracy; the bootstrap's percentiles for precision, recall and F1, weighted by class size. They
    say how much depends on the choice of test images, not on the seed.

    Args:
        confusion: counts (num_classes, num_classes), row target and column prediction.
        seed: of the resampling.
    """
    total = int(confusion.sum())
    # Drawing images with replacement draws cells of the matrix with their frequencies.
    drawn = np.random.default_rng(seed).multinomial(total, (confusion / total).ravel(), size=RESAMPLES)
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


def _named(facts: Mapping[str, Any]) -> list[str]:
    """Name and tags of the run, where it has them."""
    parts = [f"Run: {facts['name']}."] if facts.get("name") else []
    parts += [f"Tags: {', '.join(facts['tags'])}."] if facts.get("tags") else []
    return [" ".join(parts)] if parts else []


def _figures(run: Run) -> list[str]:
    facts = run.facts
    if "test/acc" not in facts:
        return ["It was not tested."]
    confusion = np.array(facts["confusion_matrix"])
    between = {name: f"{low:.2%} to {high:.2%}" for name, (low, high) in intervals(confusion).items()}
    rows = [
        f"| {one.label} | {one.text(facts[name])} | {between.get(one.name, '')} |"
        for name, one in logged(recorded(facts), ["test"]).items()
        if name in facts
    ]
    missed = ", ".join(facts["misclassification"]["most_missed"]) or "none"
    return [
        f"On {confusion.sum():,} test images that had no part in training or in any choice:",
        "\n".join(["| | | 95 % confidence interval |", "|---|---|---|", *rows]),
        "The interval covers the choice of test images, not of the seed, which gives another network. Precision, recall"
        f" and F1 are weighted by class size. Most often missed: {missed}.",
        *(["![Confusion matrix](confusion_matrix.png)"] if (run.folder / "confusion_matrix.png").exists() else []),
    ]


def _data(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    sizes, own = facts["split_sizes"], "split_seed" not in settings["data"]  # own: a data module of the user's
    seed = "" if own else f", stratified by class (`data.split_seed={settings['data']['split_seed']}`)"
    typed = facts.get("typed_images") or 0
    trained_on = f"{sizes['train'] - typed:,}" if sizes["train"] else "a stream of"
    drawn = f" and {typed:,} typed ones, drawn in fonts," if typed else ""
    lines = [
        f"- {facts['data']}: {trained_on} images{drawn} for training, {sizes['val']:,} for validation,"
        f" {sizes['test']:,} for testing.",
        f"- {'Validation is as the data module has it' if own else 'Validation is cut from the training images'}{seed}."
        if sizes["val"]
        else "- There was no validation: the last epoch was kept.",
    ]
    if settings["data"].get("folds"):
        lines.append(f"- The test images are fold {settings['data']['fold']} of {settings['data']['folds']}.")
    return "\n".join(lines)


def _recipe(run: Run, settings: Mapping[str, Any]) -> str:
    def target(part: Mapping[str, Any]) -> str:
        name = part["_target_"].rpartition(".")[2].replace("Identity", "none").replace("NoMixing", "none")
        values = ", ".join(f"{key}={value}" for key, value in part.items() if key not in ("_target_", "_partial_"))
        return f"{name} ({values})" if values else name

    facts, always = run.facts, OmegaConf.load(CONFIGS / "callbacks" / "default.yaml")
    chosen = [target(part) for name, part in settings["callbacks"].items() if part and name not in always]
    weights = [f"{facts['parameters']:,} parameters"]
    weights += [f"{name}={settings[name]}" for name in ("pretrained", "freeze") if settings.get(name)]
    taught = facts.get("distillation")
    teachers = ", ".join(one["ckpt_path"] for one in taught["teachers"]) if taught else ""
    trained = f"{facts['epochs']} epochs in {facts['train_seconds']:.0f} s on {facts['device']}, {facts['precision']}"
    return "\n".join(
        [
            f"- network: {target(settings['model'])}; {', '.join(weights)}",
            *(f"- {group}: {target(settings[group])}" for group in GROUPS),
            *([f"- callbacks: {', '.join(chosen)}"] if chosen else []),
            *([f"- {taught['weight']:.0%} of each target by {teachers}"] if taught else []),
            f"- batches of {settings['data'].get('batch_size', 'the data module')}, seed {facts['seed']}",
            f"- {trained}; tested: the weights after epoch {facts['tested_epoch']}",
            f"- again: `{run.command}`",
        ]
    )


def _limits(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    described = (
        named(facts["dataset"]).description if settings["data"]["_target_"] == "digits.data.DigitsDataModule" else ""
    )
    shown = described or f"the images of {facts['data']}"
    return "\n".join(
        [
            f"- It was trained on {shown}. It has never seen anything else: other alphabets or handwriting, photographs"
            " with uneven light and background, several characters in one image, an empty image.",
            f"- {_rejection(facts)}",
            "- `python -m digits.predict` first brings a picture into this form, and says so where it finds nothing.",
            "- Do not use it for decisions about people or money unless a person checks them.",
        ]
    )


def _rejection(facts: Mapping[str, Any]) -> str:
    if not (gate := facts.get("gate")):
        return (
            "It gives one of its classes for every image. A high probability means little for an image of another kind"
            " than above."
        )
    return (
        "A gate tells images of its classes from others, such as letters and scribbles. Of strangers drawn like those"
        f" that it was trained on, it believes {gate['believed']:.1%} (known with a probability of 90 % or more)."
        " Others may pass it more often."
    )


def _loading(settings: Any, checkpoint: Path | None) -> str:
    if not checkpoint:
        return "No checkpoint was kept."
    packages = foreign_packages(OmegaConf.to_container(settings, resolve=True))
    trust = f", trust={packages}" if packages else ""
    return f"""```python
from digits import load_classifier
classifier = load_classifier("checkpoints/{checkpoint.name}"{trust})
print(classifier.predict("photo.png"))
```

`mnist_cnn_model.pth` holds the weights alone, for `{settings["model"]["_target_"]}`;
`python -m digits.export ckpt_path=...` makes an ONNX model of it."""


def _made(facts: Mapping[str, Any]) -> str:
    commit = facts["git_commit"]
    state = f"commit {commit[:12]}{', with changes' if facts['git_dirty'] else ''}" if commit else "no commit known"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"Made {facts['started_at']} ({state}; {versions}).\n"
