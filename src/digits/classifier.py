"""The LightningModule: loss, metrics and optimizer around any network that gives logits."""

from collections.abc import Callable, Iterable

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from digits.errors import UserError

Batch = tuple[Tensor, Tensor]
FINITE_CHECK_EVERY_N_STEPS = 50


class Classifier(L.LightningModule):
    """Trains a network with cross-entropy and measures it.

    Logged are `{train,val,test}/{loss,acc}` and `{val,test}/{precision,recall,f1}`, the latter averaged over the
    classes with their sizes as weights. `confusion` keeps the last validation's and test's confusion matrix.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, num_classes).
        num_classes: number of classes.
        optimizer: makes the optimizer from the parameters; needed to train.
        scheduler: makes the learning-rate schedule, stepped once an epoch, from the optimizer.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        # Convolution and pooling are faster with the channels last: 1.6 times on a CPU with this network.
        self.network = network.to(memory_format=torch.channels_last)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.train_loss = MeanMetric(nan_strategy="disable")  # not finite: see _check_finite
        self.train_metrics = _metrics("train", num_classes)
        self.val_metrics = _metrics("val", num_classes)
        self.test_metrics = _metrics("test", num_classes)
        self.confusion: dict[str, Tensor] = {}  # stage to (num_classes, num_classes): row target, column prediction

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype))  # another than float32 with trainer.precision=bf16-true

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, target = batch
        logits = self(images)
        loss = F.cross_entropy(logits, target)
        if batch_idx % FINITE_CHECK_EVERY_N_STEPS == 0 or self.trainer.is_last_batch:
            self._check_finite(loss)
        self.train_metrics.update(logits.detach(), target)
        self.train_loss.update(loss.detach(), weight=len(target))
        if batch_idx == 0:
            # Lightning computes a logged metric when the epoch ends; to log it at each step as well would change
            # nothing but the time: a tenth more on a CPU.
            self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
            self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def _check_finite(self, loss: Tensor) -> None:
        # Not at every step, because looking makes the host wait for a GPU; what is NaN once stays NaN.
        if not torch.isfinite(loss):
            raise UserError(
                f"training diverged: train/loss is {loss.item()} in epoch {self.current_epoch},"
                f" step {self.global_step}. Lower optimizer.lr, or clip with trainer.gradient_clip_val=1"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Hands logits (B, num_classes) and target (B,) on to the callbacks."""
        return self._evaluate("test", self.test_metrics, batch)

    def _evaluate(self, stage: str, metrics: MetricCollection, batch: Batch) -> dict[str, Tensor]:
        images, target = batch
        # Always in float32, however the network was trained: a checkpoint's figures must not depend on the chip.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(images).float()
        metrics.update(logits, target)
        self.log(f"{stage}/loss", F.cross_entropy(logits, target), batch_size=len(target))
        return {"logits": logits, "target": target}

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test", self.test_metrics)

    def _log_evaluation(self, stage: str, metrics: MetricCollection) -> None:
        values = metrics.compute()
        self.confusion[stage] = values.pop(f"{stage}/confusion")
        self.log_dict(values)
        metrics.reset()

    def configure_optimizers(self) -> dict:
        optimizer = self.make_optimizer(self.network.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

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
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def _metrics(stage: str, num_classes: int) -> MetricCollection:
    shared = {"num_classes": num_classes, "validate_args": False}
    metrics = {"acc": MulticlassAccuracy(average="micro", **shared)}
    if stage != "train":
        metrics |= {
            "precision": MulticlassPrecision(average="weighted", **shared),
            "recall": MulticlassRecall(average="weighted", **shared),
            "f1": MulticlassF1Score(average="weighted", **shared),
            "confusion": MulticlassConfusionMatrix(**shared),
        }
    return MetricCollection(metrics, prefix=f"{stage}/")
