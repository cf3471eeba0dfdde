"""The LightningModule: loss, metrics and optimizer around any network that gives logits."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric, MetricCollection

from digits.errors import Diverged, UserError
from digits.losses import CrossEntropy
from digits.metrics import STAGES, MetricEntry, default_entries, metric_collection, plain
from digits.runs.processes import from_each_process
from digits.validation import Settings, user_errors

Batch = tuple[Tensor, Tensor]
FINITE_CHECK_EVERY_N_STEPS = 50


class ScheduleSettings(Settings):
    interval: Literal["epoch", "step"]
    frequency: Annotated[int, Field(ge=1)]


class ClassifierSettings(Settings):
    """What a Classifier checks of its arguments."""

    scheduler: ScheduleSettings


class Classifier(L.LightningModule):
    """Trains a network by a loss and measures it by the metric list.

    Logged are `{train,val,test}/loss` and each metric in its stages: by default `{train,val,test}/acc` and
    `{val,test}/{precision,recall,f1}`, the latter averaged over the classes with their sizes as weights. `confusion`
    keeps the last validation's and test's confusion matrix.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, num_classes).
        num_classes: number of classes.
        optimizer: makes the optimizer from the parameters; needed to train.
        scheduler: makes the learning-rate schedule from the optimizer. An argument that is `auto` becomes the number
            of times that the schedule steps in the whole run.
        interval: what the schedule steps after: each `epoch`, or each `step` of the optimizer.
        frequency: intervals between two steps of the schedule; of steps, Lightning counts the batches of an epoch.
        monitor: the metric that a plateau schedule looks at.
        loss: maps logits (B, num_classes) and target (B,) to the loss of each image (B,), or to its mean; by default
            cross-entropy.
        metrics: the metric list; by default that of configs/metrics/default.yaml.

    Raises:
        UserError: for an argument out of range.
    """

    lr: float  # only while digits.tuning looks for one

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: partial[LRScheduler] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        frequency: int = 1,
        monitor: str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Sequence[MetricEntry] | None = None,
    ) -> None:
        super().__init__()
        with user_errors(""):
            schedule = {"interval": interval, "frequency": frequency}
            ClassifierSettings.model_validate({"scheduler": schedule})
        # Convolution and pooling are faster with the channels last: 1.6 times on a CPU with this network.
        self.network = network.to(memory_format=torch.channels_last)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.interval, self.frequency, self.monitor = interval, frequency, monitor
        self.loss = CrossEntropy() if loss is None else loss
        self.metrics = list(default_entries() if metrics is None else metrics)
        self.check_finite = True
        # A loss that is not finite is neither ignored nor warned of: _check_finite stops the run. They are updated
        # with a value for each image, because "disable" makes MeanMetric ignore weights (torchmetrics 1.9.0).
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(3))
        self.train_metrics, self.val_metrics, self.test_metrics = (
            metric_collection(stage, num_classes, self.metrics) for stage in STAGES
        )
        self._logged = False  # whether this epoch's metrics are: once is enough
        self._validated: tuple[int, dict[str, float]] = (-1, {})  # after which step, with which figures
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
        images, target = batch
        logits = self(images)
        loss = self.loss(logits, target).mean()
        # On the CPU at each; a look at each would make the host wait for a GPU.
        if self.device.type == "cpu" or batch_idx % FINITE_CHECK_EVERY_N_STEPS == 0:
            # Of all processes, so that all of them stop.
            self._check_finite("train/loss", self.trainer.strategy.reduce(loss.detach()))
        self.train_metrics.update(logits.detach(), target)
        self.train_loss.update(loss.detach().expand(len(target)))
        if not self._logged:
            self._logged = True
            # Lightning computes a logged metric when the epoch ends; to log it at each step as well would change
            # nothing but the time: a tenth more on a CPU.
            self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

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
        make_scheduler = self._complete(self.make_scheduler)
        optimizer = self.make_optimizer(self.network.parameters())
        looks = (self.trainer.check_val_every_n_epoch or 1) if self.monitor else 1  # a new figure each time it looks
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": make_scheduler(optimizer),
                "interval": self.interval,
                "frequency": self.frequency * looks,
                "monitor": self.monitor,
            },
        }

    def _complete(self, make_scheduler: partial[LRScheduler]) -> partial[LRScheduler]:
        """Tells the schedule how many steps it has: that depends on epochs, batches, accumulation and devices.

        Raises:
            UserError: if the schedule needs to know, and the run has no end to count to.
        """
        unknown = [name for name, value in make_scheduler.keywords.items() if value == "auto"]
        if not unknown:
            return make_scheduler
        steps, frequency = self.trainer.estimated_stepping_batches, self.frequency
        if math.isinf(steps):
            raise UserError(f"scheduler.{unknown[0]}=auto: give trainer.max_epochs or trainer.max_steps to count to")
        batches, together = int(self.trainer.num_training_batches), self.trainer.accumulate_grad_batches
        epochs = steps / math.ceil(batches / together)
        if self.interval == "epoch":
            steps = epochs / frequency
        elif frequency > 1:
            # Lightning counts the batches of each epoch, and steps the schedule where the optimizer steps too.
            ends = [batch for batch in range(1, batches + 1) if batch % together == 0 or batch == batches]
            steps = epochs * sum(batch % frequency == 0 for batch in ends)
        return partial(make_scheduler, **dict.fromkeys(unknown, max(1, math.ceil(steps))))

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
