"""Warm-up in front of any schedule: each optimizer step's learning rate against a calculation by hand."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from digits.classifier import Classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.schedules import make_schedule

LR, EPOCH = 0.1, 8  # the optimizer's rate; its steps in an epoch: 4,000 images in batches of 500
STEPS = np.arange(4 * EPOCH)


class Halves(LRScheduler):
    """One's own, which sets the rate whatever it was: half of it in every other epoch."""

    def get_lr(self) -> list[float]:
        return [base / (1 + self.last_epoch % 2) for base in self.base_lrs]


class Rates(L.Callback):
    def __init__(self) -> None:
        self.at_step, self.at_start = [], []

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.at_start.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        self.at_step.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(scheduler: partial, warmup: float, interval: str = "epoch", **settings: object) -> list[float]:
    """The learning rate of each step of the optimizer."""
    seen = Rates()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    settings = {"max_epochs": 4, "limit_val_batches": 1, "enable_model_summary": False, **quiet, **settings}
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    monitor = "val/loss" if scheduler.func is ReduceLROnPlateau else None
    optimizer = partial(torch.optim.SGD, lr=LR)
    classifier = Classifier(network, 10, optimizer, scheduler, interval, monitor=monitor, warmup=warmup)
    trainer = L.Trainer(accelerator="cpu", callbacks=[seen], **settings)
    trainer.fit(classifier, DigitsDataModule("mnist5k", batch_size=500))
    if trainer.accumulate_grad_batches == 1:
        assert seen.at_start == seen.at_step, "a logger reads the rate when a batch begins"
    return seen.at_step


def warm(steps: int) -> np.ndarray:
    return np.minimum(1, (STEPS + 1) / (steps + 1))


@pytest.mark.parametrize("warmup", [10, 10 / 32])
def test_the_rate_rises_to_the_schedules(warmup: float) -> None:
    constant = partial(lr_scheduler.ConstantLR, factor=1.0)
    assert rates(constant, warmup) == pytest.approx(LR * warm(10), rel=1e-12)


def test_a_schedule_by_epochs_keeps_its_epochs() -> None:
    step = partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    assert rates(step, 10) == pytest.approx(LR * 0.5 ** (STEPS // EPOCH) * warm(10), rel=1e-12)
    cosine = partial(lr_scheduler.CosineAnnealingLR, T_max="auto", eta_min=0.01)
    expected = 0.01 + (LR - 0.01) * (1 + np.cos(np.pi * (STEPS // EPOCH) / 4)) / 2
    assert rates(cosine, 10) == pytest.approx(expected * warm(10), rel=1e-12)


def test_a_schedule_of_ones_own_that_sets_the_rate_is_warmed_up_too() -> None:
    assert rates(partial(Halves), 12) == pytest.approx(LR / (1 + STEPS // EPOCH % 2) * warm(12), rel=1e-12)


def test_a_plateau_lowers_the_rate_that_it_would_have_without() -> None:
    plateau = partial(ReduceLROnPlateau, factor=0.1, patience=0, threshold=1e9, threshold_mode="abs")  # never better
    lowered = 0.1 ** np.maximum(0, STEPS // EPOCH - 1)  # the first figure is the best so far
    assert rates(plateau, 20) == pytest.approx(LR * lowered * warm(20), rel=1e-12)


@pytest.mark.parametrize("warmup", [8, 0.25])
def test_a_schedule_by_steps_begins_after_it_and_ends_with_the_run(warmup: float) -> None:
    since = np.maximum(0, STEPS - 8)
    cosine = rates(partial(lr_scheduler.CosineAnnealingLR, T_max="auto"), warmup, "step")
    assert cosine == pytest.approx(LR * (1 + np.cos(np.pi * since / 24)) / 2 * warm(8), rel=1e-12)

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    alone = lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=24, cycle_momentum=False)
    expected = []
    for _ in range(24):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 24:
            alone.step()
    one_cycle = partial(lr_scheduler.OneCycleLR, max_lr="auto", total_steps="auto", cycle_momentum=False)
    found = rates(one_cycle, warmup, "step")
    assert found[8:] == pytest.approx(expected, rel=1e-12)
    assert found[:8] == pytest.approx([expected[0] * (n + 1) / 9 for n in range(8)], rel=1e-12)


def test_with_accumulated_batches_the_steps_of_the_optimizer_count() -> None:
    constant = partial(lr_scheduler.ConstantLR, factor=1.0)
    optimizer_steps = 3 * 4  # the last of each epoch with the two batches that are left
    found = rates(constant, 5, accumulate_grad_batches=3)
    assert found == pytest.approx(LR * warm(5)[:optimizer_steps], rel=1e-12)


def test_a_share_of_a_run_without_end_is_an_error() -> None:
    constant = partial(lr_scheduler.ConstantLR, factor=1.0)
    with pytest.raises(UserError, match=r"scheduler.warmup=0.1: give trainer.max_epochs or trainer.max_steps to count"):
        rates(constant, 0.1, max_epochs=-1, max_time="00:00:01:00")


def test_a_run_that_ends_before_the_warm_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rates(partial(lr_scheduler.ConstantLR, factor=1.0), 50, max_epochs=1)
    assert "scheduler.warmup=50: the run has 8 steps" in caplog.text


def test_one_cycle_rises_to_each_groups_own_rate() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.02}], lr=LR)
    auto = partial(lr_scheduler.OneCycleLR, max_lr="auto", total_steps="auto", cycle_momentum=False)
    schedule = make_schedule(auto, optimizer, lambda _: 10)
    highest = [group["lr"] for group in optimizer.param_groups]
    for _ in range(9):
        optimizer.step()
        schedule.step()
        highest = [max(rate, group["lr"]) for rate, group in zip(highest, optimizer.param_groups, strict=True)]
    assert highest == pytest.approx([LR, 0.02])
    with pytest.raises(UserError, match=r"scheduler.max_lr=0.3: the optimizer's groups have learning rates of their"):
        make_schedule(partial(auto, max_lr=0.3), optimizer, lambda _: 10)
