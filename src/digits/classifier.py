"""The LightningModule: loss, metrics and optimizer around any network that gives logits."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import AfterValidator, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric, MetricCollection

from digits.errors import Diverged, UserError
from digits.losses import CrossEntropy
from digits.metrics import STAGES, MetricEntry, default_entries, metric_collection, plain
from digits.optimizers import make_optimizer
from digits.resized import inner
from digits.runs.processes import from_each_process
from digits.schedules import WarmUp, make_schedule
from digits.validation import Settings, user_errors

if TYPE_CHECKING:
    from digits.gate import Gate

Batch = tuple[Tensor, ...]  # images and target; in training with a teacher, also the true target
FINITE_CHECK_EVERY_N_STEPS = 50

log = logging.getLogger(__name__)


def _share_or_steps(warmup: float) -> float:
    if warmup > 1 and not warmup.is_integer():
        raise ValueError("should be a share of the run below 1, or a whole number of steps")
    return warmup


class GroupSettings(Settings):
    """Of some of the parameters; besides `params`, any setting that the optimizer has."""

    model_config = ConfigDict(extra="allow")
    params: str | list[str]


class OptimizerSettings(Settings):
    groups: list[GroupSettings]
    no_decay: bool


class ScheduleSettings(Settings):
    interval: Literal["epoch", "step"]
    frequency: Annotated[int, Field(ge=1)]
    warmup: Annotated[float, Field(ge=0), AfterValidator(_share_or_steps)]


class ClassifierSettings(Settings):
    """What a Classifier checks of its arguments."""

    optimizer: OptimizerSettings
    scheduler: ScheduleSettings


class Classifier(L.LightningModule):
    """Trains a network by a loss and measures it by the metric list.

    Logged are `{train,val,test}/loss` and each metric in its stages: by default `{train,val,test}/acc` and
    `{val,test}/{precision,recall,f1}`, the latter averaged over the classes with their sizes as weights. `confusion`
    keeps the last validation's and test's confusion matrix.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, num_classes).
        num_classes: number of classes.
        optimizer: makes the optimizer from the parameters, or from groups of them; needed to train.
        scheduler: makes the learning-rate schedule from the optimizer; what is `auto`, `make_schedule` fills in.
        interval: what the schedule steps after: each `epoch`, or each `step` of the optimizer.
        frequency: intervals between two steps of the schedule; of steps, Lightning counts the batches of an epoch.
        monitor: the metric that a plateau schedule looks at.
        warmup: steps of the optimizer over which the learning rate rises to the schedule's; below 1, a share of the
            run's. A schedule that steps after each step of the optimizer begins when it is over.
        groups: settings of the optimizer for some of the parameters: see `make_optimizer`.
        no_decay: spare biases and normalisation layers from weight decay.
        loss: maps logits (B, num_classes) and target (B,), or a mixed one (B, num_classes), to the loss of each image
            (B,), or to its mean; by default cross-entropy.
        metrics: the metric list; by default that of configs/metrics/default.yaml.
        compile: how torch.compile, its `mode`, makes the network faster in training; None: not at all.

    Raises:
        UserError: for an argument out of range.
    """

    lr: float  # only while digits.tuning looks for one

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: partial[LRScheduler] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        frequency: int = 1,
        monitor: str | None = None,
        warmup: float = 0.0,
        groups: Sequence[Mapping[str, Any]] = (),
        no_decay: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Sequence[MetricEntry] | None = None,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        with user_errors(""):
            recipe = {
                "optimizer": {"groups": list(groups), "no_decay": no_decay},
                "scheduler": {"interval": interval, "frequency": frequency, "warmup": warmup},
            }
            ClassifierSettings.model_validate(recipe)
        # Convolution and pooling are faster with the channels last: 1.6 times on a CPU with this network.
        self.network = network.to(memory_format=torch.channels_last)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.groups, self.no_decay = groups, no_decay
        self.interval, self.frequency, self.monitor, self.warmup = interval, frequency, monitor, warmup
        self.loss = CrossEntropy() if loss is None else loss
        self.metrics = list(default_entries() if metrics is None else metrics)
        self.check_finite = True
        self.step: Callable[[Tensor], Tensor] = torch.compile(self.forward, mode=compile) if compile else self.forward
        # A loss that is not finite is neither ignored nor warned of: _check_finite stops the run. They are updated
        # with a value for each image, because "disable" makes MeanMetric ignore weights (torchmetrics 1.9.0).
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(3))
        self.train_metrics, self.val_metrics, self.test_metrics = (
            metric_collection(stage, num_classes, self.metrics) for stage in STAGES
        )
        self._logged = False  # whether this epoch's metrics are: once is enough
        self._validated: tuple[int, dict[str, float]] = (-1, {})  # after which step, with which figures
        # How sure its answers are, once training is over
        self.temperature: float | None = None  # of its logits; None: they are not calibrated
        self.gate: Gate | None = None
        self.reject_below = 0.0
        self.confusion: dict[str, Tensor] = {}  # stage to (num_classes, num_classes): row target, column prediction

    def forward(self, images: Tensor) -> Tensor:
        dtype = next(self.network.parameters()).dtype  # float32, except with trainer.precision=bf16-true and the like
        return self.network(images.to(dtype))

    def on_train_start(self) -> None:
        if self.global_rank:
            # Each process began with the same seed, for the same weights and the same shuffling. From here on they
            # would draw the same dropout masks and augmentations for different images.
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, target, *true = batch
        logits = self.step(images)
        loss = self.loss(logits, target).mean()
        # On the CPU at each; a look at each would make the host wait for a GPU.
        to_log = self._is_to_log(batch_idx)
        if self.device.type == "cpu" or batch_idx % FINITE_CHECK_EVERY_N_STEPS == 0 or to_log:
            mean_loss = self.trainer.strategy.reduce(loss.detach())
            self._check_finite("train/loss", mean_loss)  # of all processes, so that all of them stop
            if to_log:
                self._log_step(float(mean_loss))
        hard = true[0] if true else target  # no teacher's answer
        hard = hard.argmax(dim=1) if hard.ndim > 1 else hard  # of a mixed image, the heavier class
        self.train_metrics.update(logits.detach(), hard)
        self.train_loss.update(loss.detach().expand(len(target)))
        if not self._logged:
            self._logged = True
            # Lightning computes a logged metric when the epoch ends; to log it at each step as well would change
            # nothing but the time: a tenth more on a CPU.
            self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def _is_to_log(self, batch_idx: int) -> bool:
        """Whether this batch is the first of a step that is logged, as Lightning counts them."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined] # undeclared by Lightning
        together = self.trainer.accumulate_grad_batches
        return bool(self.loggers and every) and batch_idx % together == 0 and (self.global_step + 1) % every == 0

    def _log_step(self, loss: float) -> None:
        # To the loggers themselves: `self.log` would cost a tenth of an epoch more, by what it does at every step.
        for logger in self.loggers:
            logger.log_metrics({"train/loss_step": loss}, step=self.global_step)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def figures(self) -> dict[str, float]:
        """What validation found for the weights as they are; empty where a step was made since, or none was."""
        step, figures = self._validated
        return figures if step == self.global_step else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["figures"] = self.figures
        # Those of the epoch so far, which a run that is resumed during an epoch needs.
        states = {name: metric.metric_state for name, metric in self._epoch_metrics().items()}
        checkpoint["train_metrics"] = from_each_process(states)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["train_metrics"][self.global_rank]
        for name, metric in self._epoch_metrics().items():
            for state, value in states[name].items():
                setattr(metric, state, move_data_to_device(value, self.device))  # a tensor, or a list of them

    def _epoch_metrics(self) -> dict[str, Metric]:
        return {"train/loss": self.train_loss, **dict(self.train_metrics.items())}

    def on_train_epoch_end(self) -> None:
        self._logged = False
        self._check_finite("train/loss", self.train_loss.compute())  # the mean shows any step's

    def _check_finite(self, name: str, loss: Tensor) -> None:
        if self.check_finite and not torch.isfinite(loss):
            rates = [group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
            raise Diverged(f"{name} is {loss.item()}", self.global_step, rates)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_loss, self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Hands logits (B, num_classes) and target (B,) on to the callbacks."""
        return self._evaluate(self.test_loss, self.test_metrics, batch)

    def _evaluate(self, mean_loss: MeanMetric, metrics: MetricCollection, batch: Batch) -> dict[str, Tensor]:
        images, target = batch
        # In float32 after mixed-precision training too: a checkpoint's figures must not depend on the chip.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(images).float()
        metrics.update(logits, target)
        mean_loss.update(self.loss(logits, target).expand(len(target)))
        return {"logits": logits, "target": target}

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits (B, num_classes), as in a test."""
        with torch.autocast(self.device.type, enabled=False):
            return self(batch[0]).float()

    def on_validation_epoch_end(self) -> None:
        values = self._log_evaluation("val", self.val_loss, self.val_metrics)
        self._validated = self.global_step, plain(values)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test", self.test_loss, self.test_metrics)

    def _log_evaluation(self, stage: str, mean_loss: MeanMetric, metrics: MetricCollection) -> dict[str, Tensor]:
        values = {f"{stage}/loss": mean_loss.compute(), **metrics.compute()}
        self._check_finite(f"{stage}/loss", values[f"{stage}/loss"])
        self.confusion[stage] = values.pop(f"{stage}/confusion")
        self.log_dict(values)
        mean_loss.reset()
        metrics.reset()
        return values

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.make_optimizer is not None, "to train, a Classifier needs an optimizer"
        assert self.make_scheduler is not None, "to train, a Classifier needs a scheduler"
        optimizer = make_optimizer(self.make_optimizer, inner(self.network), self.groups, self.no_decay)
        warmup = self._warmup_steps()
        self._schedule = make_schedule(self.make_scheduler, optimizer, partial(self._schedule_steps, warmup))
        looks = (self.trainer.check_val_every_n_epoch or 1) if self.monitor else 1  # a new figure each time it looks
        schedule: dict[str, Any] = {
            "scheduler": self._schedule,
            "interval": self.interval,
            "frequency": self.frequency * looks,
            "monitor": self.monitor,
        }
        self._warm_up = WarmUp(optimizer, warmup) if warmup else None
        # After the schedule, which must not begin before the step that follows the warm-up.
        further = [{"scheduler": self._warm_up, "interval": "step"}] if warmup else []
        return [optimizer], [schedule, *further]  # type: ignore[return-value] # dicts are Lightning's LRSchedulerConfig

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self._warm_up is None or scheduler is not self._schedule:
            super().lr_scheduler_step(scheduler, metric)
        elif self.interval == "epoch" or self._warm_up.is_over:
            with self._warm_up.lifted():
                super().lr_scheduler_step(scheduler, metric)

    def _run_steps(self, key: str) -> int:
        """The optimizer's steps in the whole run.

        Raises:
            UserError: if it has no end to count to.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(f"scheduler.{key}: give trainer.max_epochs or trainer.max_steps to count to")
        return int(steps)

    def _warmup_steps(self) -> int:
        if not self.warmup:
            return 0
        if self.warmup < 1:
            return max(1, round(self.warmup * self._run_steps(f"warmup={self.warmup}")))
        if self.warmup >= self.trainer.estimated_stepping_batches:
            log.warning(
                "scheduler.warmup=%g: the run has %s steps, so the learning rate stays below the schedule's",
                self.warmup,
                self.trainer.estimated_stepping_batches,
            )
        return int(self.warmup)

    def _schedule_steps(self, warmup: int, key: str) -> int:
        """How often the schedule steps in the whole run: that depends on epochs, batches, accumulation and devices."""
        steps = self._run_steps(f"{key}=auto")
        batches, together = int(self.trainer.num_training_batches), self.trainer.accumulate_grad_batches
        # Lightning counts the batches of each epoch, and steps the schedule where the optimizer steps too.
        ends = [batch for batch in range(1, batches + 1) if batch % together == 0 or batch == batches]
        if self.interval == "epoch":
            return max(1, math.ceil(steps / len(ends) / self.frequency))
        counted = [batch % self.frequency == 0 for batch in ends] if self.frequency > 1 else [True] * len(ends)
        before, after = (sum(counted) * (n // len(ends)) + sum(counted[: n % len(ends)]) for n in (warmup, steps))
        return max(1, after - before)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and getattr(plugin, "scaler", None) is None:
            # Lightning refuses to clip under any mixed precision with a fused optimizer. Only a loss scaler
            # (16-mixed) is a reason to: without one the gradients are what they seem.
            algorithm = gradient_clip_algorithm or "norm"
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, GradClipAlgorithmType(algorithm))
        elif gradient_clip_val and optimizer.defaults.get("fused"):
            raise UserError(
                "trainer.gradient_clip_val: with trainer.precision=16-mixed, clipping needs optimizer.fused=false"
            )
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
