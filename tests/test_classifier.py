"""The LightningModule: its metrics against scikit-learn, its training against plain torch."""

import itertools
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from sklearn import metrics as sklearn_metrics

from digits.classifier import Classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.losses import CrossEntropy
from digits.networks import CNN

ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
CONSTANT = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)


def trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **(quiet | settings))


def linear() -> torch.nn.Module:
    """For tests that look at targets, losses and learning rates: any network will do."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    """Trained a little, so that it makes mistakes of all kinds."""
    L.seed_everything(0)
    data = DigitsDataModule("mnist5k")
    classifier = Classifier(CNN(), 10, ADAM, CONSTANT)
    trainer(max_epochs=1, limit_train_batches=12).fit(classifier, data)
    return classifier


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_are_scikit_learns(fitted: Classifier, sample: DigitsDataModule, stage: str) -> None:
    run = trainer()
    method = run.validate if stage == "val" else run.test
    [found] = method(fitted, DigitsDataModule("mnist5k", eval_batch_size=77), verbose=False)

    split = getattr(sample.splits, stage)
    with torch.inference_mode():
        logits = fitted.network.eval()(sample.normalise(split.images / 255))
    target, pred = split.target.numpy(), logits.argmax(dim=1).numpy()
    weighted = {"average": "weighted", "zero_division": 0}
    expected = {
        "acc": sklearn_metrics.accuracy_score(target, pred),
        "precision": sklearn_metrics.precision_score(target, pred, **weighted),
        "recall": sklearn_metrics.recall_score(target, pred, **weighted),
        "f1": sklearn_metrics.f1_score(target, pred, **weighted),
        "loss": sklearn_metrics.log_loss(target, logits.double().softmax(dim=1).numpy(), labels=range(10)),
    }
    assert 0.3 < expected["acc"] < 0.97, "a perfect or a constant classifier would tell metrics apart badly"
    assert found == pytest.approx({f"{stage}/{name}": value for name, value in expected.items()}, abs=1e-5)
    np.testing.assert_array_equal(fitted.confusion[stage], sklearn_metrics.confusion_matrix(target, pred))


def test_first_steps_are_plain_torchs(sample: DigitsDataModule) -> None:
    """The same weights and batches in a loop without Lightning, in float32, give the same loss."""
    torch.manual_seed(0)
    network = CNN(dropout=0.0)
    reference = CNN(dropout=0.0)
    reference.load_state_dict(network.state_dict())

    torch.manual_seed(1)
    classifier = Classifier(network, 10, partial(torch.optim.SGD, lr=0.05, momentum=0.9), CONSTANT)
    run = trainer(max_epochs=1, precision="32-true", limit_val_batches=0)
    run.fit(classifier, DigitsDataModule("mnist5k", batch_size=150))  # 26 batches of 150 and one of 100

    torch.manual_seed(1)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    losses, correct = 0.0, 0
    batches = DigitsDataModule("mnist5k", batch_size=150)
    batches.setup()
    for images, target in batches.train_dataloader():
        logits = reference(sample.normalise(images / 255))
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(target)
        correct += (logits.argmax(dim=1) == target).sum().item()
    assert run.callback_metrics["train/loss"].item() == pytest.approx(losses / 4000, rel=1e-3)
    assert run.callback_metrics["train/acc"].item() == pytest.approx(correct / 4000, abs=2e-3)


def test_evaluation_does_not_depend_on_the_training_precision(fitted: Classifier) -> None:
    results = [
        trainer(precision=precision).test(fitted, DigitsDataModule("mnist5k"), verbose=False)
        for precision in ("32-true", "bf16-mixed")
    ]
    assert results[0] == results[1]


def test_loss_that_is_not_finite_stops_the_run_at_that_step() -> None:
    classifier = Classifier(CNN(), 10, partial(torch.optim.SGD, lr=1e30), CONSTANT)
    fit = trainer(max_epochs=2)
    message = r"training diverged: train/loss is (nan|inf) after step 1, at learning rate 1e\+30\."
    with pytest.raises(UserError, match=message):
        fit.fit(classifier, DigitsDataModule("mnist5k"))
    assert fit.global_step == 1


def test_loss_that_is_not_finite_after_the_last_step_is_found_too() -> None:
    classifier = Classifier(CNN(), 10, partial(torch.optim.SGD, lr=1e30), CONSTANT)
    with pytest.raises(UserError, match=r"val/loss is nan after step 1, at learning rate 1e\+30"):
        trainer(max_epochs=1, limit_train_batches=1).fit(classifier, DigitsDataModule("mnist5k"))


def test_a_step_with_an_infinite_loss_is_found_in_the_epochs_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.cross_entropy
    calls = []

    def once_infinite(*arguments: torch.Tensor, **options: float) -> torch.Tensor:
        calls.append(1)
        return plain(*arguments, **options) + (torch.inf if len(calls) == 3 else 0)

    monkeypatch.setattr("digits.losses.F.cross_entropy", once_infinite)
    classifier = Classifier(CNN(), 10, partial(torch.optim.SGD, lr=0.0), CONSTANT)
    with pytest.raises(UserError, match=r"loss is (inf|nan)"):
        trainer(max_epochs=1, limit_train_batches=5, limit_val_batches=0).fit(classifier, DigitsDataModule("mnist5k"))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_with_a_fused_optimizer_in_bf16(algorithm: str) -> None:
    class Seen(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            if module.network.features[0].weight.grad is not None:
                self.after = [parameter.grad.clone() for parameter in module.parameters()]

    L.seed_everything(0)
    seen = Seen()
    run = trainer(
        max_epochs=1,
        limit_train_batches=2,
        precision="bf16-mixed",
        gradient_clip_val=0.01,
        gradient_clip_algorithm=algorithm,
        callbacks=[seen],
    )
    run.fit(Classifier(CNN(), 10, ADAM, CONSTANT), DigitsDataModule("mnist5k"))
    flat = torch.cat([gradient.flatten() for gradient in seen.after])
    if algorithm == "norm":
        assert flat.norm() == pytest.approx(0.01, rel=1e-3)
    else:
        assert flat.abs().max() == pytest.approx(0.01, rel=1e-3)


class Rates(L.Callback):
    """The learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(scheduler: partial, interval: str = "epoch", frequency: int = 1, **settings: object) -> list[float]:
    seen = Rates()
    classifier = Classifier(linear(), 10, partial(torch.optim.SGD, lr=0.1), scheduler, interval, frequency)
    trainer(**({"max_epochs": 2, "limit_val_batches": 0} | settings), callbacks=[seen]).fit(
        classifier, DigitsDataModule("mnist5k", batch_size=500)
    )
    return seen.seen


ONE_CYCLE = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps="auto", cycle_momentum=False)
COSINE = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max="auto")


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, 16),  # 4,000 images in batches of 500
        ({"max_epochs": 3}, 24),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 6),  # the last of each epoch with what is left
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 100, "max_steps": 5}, 5),
    ],
)
def test_schedule_ends_with_the_run(settings: dict, steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < steps:
            schedule.step()
    assert rates(ONE_CYCLE, "step", **settings) == pytest.approx(expected)
    assert expected[-1] < 1e-5


def test_cosine_by_epoch_and_by_every_other_step() -> None:
    by_epoch = rates(COSINE, "epoch", max_epochs=4)
    assert by_epoch == pytest.approx([0.05 * (1 + np.cos(np.pi * (i // 8) / 4)) for i in range(32)])
    by_steps = rates(COSINE, "step", frequency=2)
    assert by_steps == pytest.approx([0.05 * (1 + np.cos(np.pi * (i // 2) / 8)) for i in range(16)])


@pytest.mark.parametrize("together", [1, 3, 4])
@pytest.mark.parametrize("frequency", [2, 3])
def test_schedule_ends_with_the_run_when_it_steps_seldom(together: int, frequency: int) -> None:
    seen = rates(COSINE, "step", frequency=frequency, max_epochs=3, accumulate_grad_batches=together)
    steps = sum(b % frequency == 0 for b in range(1, 9) if b % together == 0 or b == 8) * 3
    assert len(set(seen)) <= steps + 1
    assert all(now <= before for before, now in itertools.pairwise(seen))  # past the end it would rise again


def test_schedule_without_an_end_to_count_to_is_an_error() -> None:
    with pytest.raises(UserError, match=r"scheduler.total_steps=auto: give trainer.max_epochs or trainer.max_steps"):
        rates(ONE_CYCLE, "step", max_epochs=-1, max_time="00:00:01:00")


def test_plateau_looks_where_there_is_a_new_figure() -> None:
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0)
    seen = Rates()
    classifier = Classifier(linear(), 10, partial(torch.optim.SGD, lr=1e-12), plateau, monitor="val/loss")
    settings = {"max_epochs": 6, "check_val_every_n_epoch": 2, "limit_train_batches": 1, "limit_val_batches": 1}
    trainer(**settings, callbacks=[seen]).fit(classifier, DigitsDataModule("mnist5k", batch_size=500))
    assert seen.seen == pytest.approx([1e-12] * 4 + [1e-13] * 2)


def test_plateau_lowers_the_rate_when_nothing_improves() -> None:
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0)
    seen = Rates()
    classifier = Classifier(linear(), 10, partial(torch.optim.SGD, lr=1e-12), plateau, monitor="val/loss")
    data = DigitsDataModule("mnist5k", batch_size=500)
    trainer(max_epochs=4, limit_train_batches=1, limit_val_batches=1, callbacks=[seen]).fit(classifier, data)
    assert seen.seen == pytest.approx([1e-12, 1e-12, 1e-13, 1e-14])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": "batch"}, "scheduler.interval=batch: should be 'epoch' or 'step'"),
        ({"frequency": 0}, "scheduler.frequency=0"),
        ({"warmup": -1}, "scheduler.warmup=-1"),
        ({"warmup": 1.5}, "scheduler.warmup=1.5: should be a share of the run below 1, or a whole number of steps"),
        ({"groups": [{"lr": 0.1}]}, "optimizer.groups.params: missing"),
        ({"groups": [{"params": 5}]}, "optimizer.groups.params.*=5"),
    ],
)
def test_argument_out_of_range_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(CNN(), 10, **arguments)


def test_smoothed_targets_are_torchs_and_for_training_only(sample: DigitsDataModule) -> None:
    network = linear()
    data = DigitsDataModule("mnist5k", batch_size=4000)
    run = trainer(max_epochs=1, precision="32-true")
    classifier = Classifier(
        network, 10, partial(torch.optim.SGD, lr=0.0), CONSTANT, loss=CrossEntropy(label_smoothing=0.1)
    )
    run.fit(classifier, data)
    with torch.inference_mode():
        losses = {
            split: torch.nn.functional.cross_entropy(
                network.eval()(sample.normalise(images.images / 255)), images.target, label_smoothing=smoothing
            ).item()
            for split, images, smoothing in (("train", sample.splits.train, 0.1), ("val", sample.splits.val, 0.0))
        }
    assert run.callback_metrics["train/loss"].item() == pytest.approx(losses["train"], rel=1e-4)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(losses["val"], rel=1e-4)


def test_mixed_targets_are_torchs_and_the_heavier_class_counts(sample: DigitsDataModule) -> None:
    def two_thirds(images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        soft = torch.nn.functional.one_hot(target, 10).float()
        return images, (2 * soft + soft.roll(1, dims=1)) / 3  # the rest for the next digit

    network = linear()
    run = trainer(max_epochs=1, precision="32-true", limit_val_batches=0)
    data = DigitsDataModule("mnist5k", batch_size=4000, mixing=two_thirds)
    run.fit(Classifier(network, 10, partial(torch.optim.SGD, lr=0.0), CONSTANT), data)
    target = sample.splits.train.target
    with torch.inference_mode():
        logits = network.eval()(sample.normalise(sample.splits.train.images / 255))
    right, following = (torch.nn.functional.cross_entropy(logits, (target + i) % 10).item() for i in (0, 1))
    assert run.callback_metrics["train/loss"].item() == pytest.approx((2 * right + following) / 3, rel=1e-4)
    assert run.callback_metrics["train/acc"].item() == pytest.approx((logits.argmax(dim=1) == target).float().mean())


def test_predictions_are_the_tests_logits(fitted: Classifier, sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k")
    logits = torch.cat(trainer(precision="bf16-mixed").predict(fitted, data))
    with torch.inference_mode():
        expected = fitted.network.eval()(sample.normalise(sample.splits.test.images / 255))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(("every", "together", "steps"), [(5, 1, [4, 9, 14, 19]), (4, 2, [3, 7]), (0, 1, [])])
def test_loggers_get_the_loss_of_each_logged_step_once(every: int, together: int, steps: list[int]) -> None:
    class Notes(DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            logged.extend((step, value) for name, value in metrics.items() if name == "train/loss_step")

    logged: list[tuple[int, float]] = []
    run = trainer(
        max_epochs=2, limit_train_batches=10, logger=Notes(), log_every_n_steps=every, accumulate_grad_batches=together
    )
    run.fit(Classifier(linear(), 10, ADAM, CONSTANT), DigitsDataModule("mnist5k"))
    assert [step for step, _ in logged] == steps
    assert all(0 < value < 3 for _, value in logged)
