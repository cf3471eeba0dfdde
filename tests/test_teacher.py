"""Distillation: the targets that a teacher makes, what it may have seen, and runs that it teaches."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import Command
from torch import Tensor, nn

from digits.augmentation import NoMixing
from digits.checkpoints import Checkpoint
from digits.classifier import Classifier
from digits.compare import compare
from digits.data import DigitsDataModule
from digits.data.own_module import OwnDataModule
from digits.errors import UserError
from digits.networks import CNN
from digits.teacher import DistillationSettings, Teacher, fingerprint, open_teachers

QUICK = ("data=mnist5k", "model=fast", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=12")


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Checkpoint:
    return Checkpoint.open(trained)


def changed(checkpoint: Checkpoint, path: str = "other.ckpt", **data: object) -> Checkpoint:
    """Another network: its weights are smaller, and settings of its data differ."""
    settings = checkpoint.settings
    weights = {name: value * 0.9 for name, value in checkpoint.content["state_dict"].items()}
    return Checkpoint(
        Path(path),
        checkpoint.content | {"state_dict": weights, "hyper_parameters": settings | {"data": settings["data"] | data}},
    )


def teacher(*checkpoints: Checkpoint, weight: float = 0.75, temperature: float = 2.0) -> Teacher:
    return Teacher(checkpoints, DistillationSettings(weight=weight, temperature=temperature))


def test_targets_are_partly_the_mean_answer_of_each_in_its_own_normalisation(
    checkpoint: Checkpoint, sample: DigitsDataModule
) -> None:
    other = changed(checkpoint, mean=[0.3], std=[0.5])
    images, target = sample.splits.val.images[:50] / 255, sample.splits.val.target[:50]
    before = torch.get_rng_state()
    made = teacher(checkpoint, other)
    found = made(images, target, nullcontext())
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        answers = [
            one.network().eval()((images - mean) / std).double().softmax(dim=1)
            for one, mean, std in ((checkpoint, 0.1307, 0.3081), (other, 0.3, 0.5))
        ]
    softened = (sum(answers) / 2) ** 0.5  # p^(1/T), up to a factor
    expected = 0.75 * softened / softened.sum(dim=1, keepdim=True)
    expected[torch.arange(50), target] += 0.25
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert not found.requires_grad
    assert not found.is_inference()  # a loss keeps it for its gradient
    mixed = torch.full((50, 10), 0.1)
    torch.testing.assert_close(made(images, mixed, nullcontext()).double(), expected - _hard(target) / 4 + 0.025)


def _hard(target: Tensor) -> Tensor:
    return nn.functional.one_hot(target, 10)


def test_it_computes_in_the_runs_precision(checkpoint: Checkpoint, sample: DigitsDataModule) -> None:
    seen = []
    made = teacher(checkpoint)
    made.network.network.register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    made(sample.splits.val.images[:2] / 255, torch.tensor([0, 1]), torch.autocast("cpu", torch.bfloat16))
    assert seen == [torch.bfloat16]


def next_class(images: Tensor, target: Tensor, precision: object) -> Tensor:
    """A teacher that is always wrong."""
    return _hard((target + 1) % 10).float()


def test_accuracy_in_training_is_of_the_true_classes(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    network = CNN(dropout=0.0)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    data = DigitsDataModule("mnist5k", batch_size=2000)
    data.teacher = next_class
    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    trainer.fit(Classifier(network, 10, partial(torch.optim.SGD, lr=0.0), constant), data)
    target = sample.splits.train.target
    with torch.inference_mode():
        logits = network.eval()(sample.normalise(sample.splits.train.images / 255))
    loss = nn.functional.cross_entropy(logits, (target + 1) % 10).item()
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss, rel=1e-4)
    assert trainer.callback_metrics["train/acc"].item() == pytest.approx(
        (logits.argmax(dim=1) == target).float().mean()
    )


def test_a_module_of_ones_own_is_taught_too(checkpoint: Checkpoint, sample: DigitsDataModule) -> None:
    data = OwnDataModule({"_target_": "digits.data.DigitsDataModule", "dataset": "mnist5k"})
    data.mean, data.std, data.mixing = [0.5], [0.25], NoMixing()
    data.teacher = teacher(checkpoint)
    images, target = sample.splits.train.images[:20] / 255, sample.splits.train.target[:20]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.training, data.trainer = True, trainer
    data.module.trainer = None  # it normalises in its own way, and has no teacher
    normalised = (images - 0.5) / 0.25
    data.module.on_after_batch_transfer = lambda batch, _: batch
    found = data.on_after_batch_transfer((normalised, target), 0)
    expected = data.teacher(images, target, nullcontext())
    torch.testing.assert_close(found[0], normalised)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], target)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_names": list("abcdefghij")}, "knows other classes than mnist5k has"),
        ({"dataset": "mnist"}, "was trained with data.dataset=mnist, and this run has mnist5k: it may know images"),
        ({"fingerprint": "00"}, "the images of mnist5k are not those that it was trained on any more"),
        (
            {"split_seed": 1},
            "404 of 500 validation images and 409 of 500 test images .* Train it with data.split_seed=0",
        ),
        (
            {"val_size": 0},
            "was trained on 500 of 500 validation images of this run, .* Train it with data.val_size=500",
        ),
    ],
)
def test_who_may_not_teach(
    checkpoint: Checkpoint, sample: DigitsDataModule, tmp_path: Path, data: dict, message: str
) -> None:
    path = tmp_path / "t.ckpt"
    torch.save(changed(checkpoint, **data).content, path)
    with pytest.raises(UserError, match=f"^teacher={path}: .*{message}") as error:
        open_teachers(str(path), sample, [])
    assert "\n" not in str(error.value)


def test_whoever_saw_nothing_that_is_held_out_may_teach(checkpoint: Checkpoint, trained: Path, tmp_path: Path) -> None:
    everything = DigitsDataModule("mnist5k", val_size=0)  # of validation: the test images are the same
    everything.setup()
    torch.save(changed(checkpoint).content, tmp_path / "t.ckpt")
    assert len(open_teachers([str(trained), str(tmp_path / "t.ckpt")], everything, [])) == 2
    with pytest.raises(UserError, match="it would only count double"):
        open_teachers([str(trained), str(trained / "checkpoints" / "best.ckpt")], everything, [])


def test_fingerprint_is_of_the_network_alone(checkpoint: Checkpoint) -> None:
    moved = Checkpoint(Path("elsewhere.ckpt"), checkpoint.content | {"confidence": {}, "epoch": 7})
    others = [changed(checkpoint), changed(checkpoint, mean=[0.3])]
    assert fingerprint(moved) == fingerprint(checkpoint)
    assert len({fingerprint(one) for one in (checkpoint, *others)}) == 3


def test_a_run_says_who_teaches(command: Command, checkpoint: Checkpoint, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    outcome = command("train", *QUICK, f"teacher={trained}", "mixing=mixup", "distillation.weight=0.5")
    assert outcome.code == 0, outcome.err
    assert f"teacher: weight 0.5, temperature 1, {trained / 'checkpoints' / 'best.ckpt'} (CNN)" in outcome.out
    facts = outcome.record["distillation"]
    assert facts["teachers"][0]["fingerprint"] == fingerprint(checkpoint)
    kept = Checkpoint.open(outcome.folder)
    assert kept.settings["distillation"] == {"teachers": [fingerprint(checkpoint)], "weight": 0.5, "temperature": 1.0}
    assert outcome.record["parameters"] == sum(value.numel() for value in kept.network().parameters())
    assert f"50% of each target by {trained}" in (outcome.folder / "MODEL_CARD.md").read_text()
    again = command("train", *QUICK, f"teacher=[{copy}]", "mixing=mixup", "distillation.weight=0.5")
    assert again.record["val/loss"] == outcome.record["val/loss"]
    assert "repeated with the same seed: 1 run" in compare([outcome.folder, again.folder])  # the path is no setting
    refused = command("train", *QUICK, f"teacher={copy}", "loss._target_=torch.nn.MultiMarginLoss")
    assert refused.code == 1
    assert "loss._target_=torch.nn.MultiMarginLoss: fails on logits of shape (2, 10) and probabilities" in refused.err
