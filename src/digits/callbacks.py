"""Callbacks: when to log, draw and save."""

import csv
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from digits import figures, report
from digits.analysis import confident_mistakes, misclassification
from digits.atomic import atomic_write
from digits.classifier import Classifier
from digits.data.module import data_of

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, silent where the output is no terminal: a log file is no place for a moving bar."""

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    @property
    def is_disabled(self) -> bool:
        return super().is_disabled or not sys.stdout.isatty()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        # From 1, as in the lines that History logs and in metrics.csv.
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")


class History(Callback):
    """Logs one line an epoch, keeps `metrics.csv` (a row an epoch) up to date and draws the training curves.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float]] = []
        self._start = self._lr = 0.0
        self._measured: tuple[str, ...] = ()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # before the schedule's step at the epoch's end
        self._measured = ("train/",)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measured = ("train/", "val/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The trainer still has the last validation's figures in an epoch without one.
        metrics = sorted(trainer.callback_metrics.items())
        row = {
            "epoch": trainer.current_epoch + 1,
            **report.plain({name: value for name, value in metrics if name.startswith(self._measured)}),
            "lr": self._lr,
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            log.info(report.epoch_line(row, trainer.max_epochs or -1))
            self._write()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "lr": self._lr, "seconds": time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._lr = state_dict["rows"], state_dict["lr"]
        self._start = time.perf_counter() - state_dict["seconds"]
        self._measured = ("train/",)  # amid an epoch; at its start this comes anew

    def _write(self) -> None:
        # Rows may differ: with check_val_every_n_epoch=2 every other one has no validation.
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_write(self.folder / "metrics.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and self.rows:
            scored = [row for row in self.rows if "val/acc" in row]
            best = int(max(scored, key=lambda row: row["val/acc"])["epoch"]) if scored else None
            figure = figures.training_curves(self.rows, best, data_of(trainer).title)
            _save(trainer, self.folder, "training_curves", figure)

    def row(self, epoch: int) -> dict[str, float]:
        """What was measured in an epoch, counted from 1; empty if it is not known."""
        return next((row for row in self.rows if row["epoch"] == epoch), {})


class Throughput(Callback):
    """Logs `train/images_per_second` of each epoch, over all devices; validation is not counted."""

    def __init__(self) -> None:
        self._images, self._seconds, self._resumed = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._seconds, self._resumed = 0, 0.0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], _: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pause()
        pl_module.log("train/images_per_second", self._images / self._seconds)

    def state_dict(self) -> dict[str, Any]:
        now = self._seconds + time.perf_counter() - self._resumed
        return {"images": self._images, "seconds": now}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]
        self._resumed = time.perf_counter()

    def _pause(self) -> None:
        self._seconds += time.perf_counter() - self._resumed


class DataFigures(Callback):
    """Draws five random training images and the class distribution when training starts.

    Args:
        folder: the run's folder.
        images: how many images to show.
    """

    def __init__(self, folder: str, images: int = 5) -> None:
        self.folder = Path(folder)
        self.images = images

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        train = data.splits.train
        # A generator of its own: drawing a figure must not change the run's random numbers.
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(torch.initial_seed()))
        images, target = train.__getitems__(chosen[: self.images])
        labels = [data.class_names[i] for i in target]
        figure = figures.sample_images(images.numpy(), labels, data.title)
        _save(trainer, self.folder, "sample_images", figure)
        counts = report.class_counts(data.splits, data.num_classes)
        figure = figures.class_distribution(counts, data.class_names, data.title)
        _save(trainer, self.folder, "class_distribution", figure)


class TestReport(Callback):
    """Reports a test: the text, the confusion matrix and the most confident mistakes, drawn and listed.

    Writes `confusion_matrix.png`, `misclassified.png`, `misclassified.csv` and `predictions.npz`: `index` of each
    image in the data set, `target` and `probabilities` (N, num_classes). `facts` goes into the run's record.

    Args:
        folder: the run's folder.
        images: how many mistakes to draw.
    """

    __test__ = False  # no pytest class, in spite of its name

    def __init__(self, folder: str | Path, images: int = 25) -> None:
        self.folder = Path(folder)
        self.images = images
        self.facts: dict[str, Any] = {}
        self._batches: list[Mapping[str, Tensor]] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, Mapping)  # what Classifier.test_step hands on
        self._batches.append({name: value.cpu() for name, value in outputs.items()})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        data = data_of(trainer)
        logits, target = (torch.cat([batch[name] for batch in self._batches]) for name in ("logits", "target"))
        self._batches.clear()
        logits, target = _all_in_order(trainer, logits, target)
        confusion = pl_module.confusion["test"].cpu().numpy()
        analysis = misclassification(confusion, data.class_names)
        self.facts = {"confusion_matrix": confusion.tolist(), "misclassification": asdict(analysis)}
        if not trainer.is_global_zero:
            return
        log.info("\n%s\n", report.evaluation(trainer.callback_metrics, analysis, data.title))

        tested = f"{data.title} test set, {analysis.total:,} images"
        accuracy = f"{trainer.callback_metrics['test/acc']:.2%} correct"
        figure = figures.confusion_matrix(confusion, data.class_names, f"{tested}: {accuracy}")
        _save(trainer, self.folder, "confusion_matrix", figure)

        probabilities = logits.softmax(dim=1).numpy()
        index = data.splits.test.index[: len(target)].numpy()  # fewer than all with trainer.limit_test_batches
        with atomic_write(self.folder / "predictions.npz") as part:
            np.savez_compressed(part, index=index, target=target.numpy(), probabilities=probabilities)
        wrong = confident_mistakes(probabilities, target.numpy())
        with atomic_write(self.folder / "misclassified.csv") as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["test_index", "target", "pred", "probability"])
            for index, t, p, probability in zip(wrong.index, wrong.target, wrong.pred, wrong.probability, strict=True):
                writer.writerow([index, data.class_names[t], data.class_names[p], f"{probability:.6f}"])
        shown = slice(self.images)
        figure = figures.mistakes(
            data.splits.test.images[wrong.index[shown]].numpy(),
            [data.class_names[i] for i in wrong.target[shown]],
            [data.class_names[i] for i in wrong.pred[shown]],
            wrong.probability[shown],
            wrong.index[shown],
            f"The most confident of {analysis.errors:,} mistakes ({tested})",
        )
        _save(trainer, self.folder, "misclassified", figure)


def _all_in_order(trainer: L.Trainer, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What the processes found out about their shares of the test images, in the order of the images."""
    if trainer.world_size == 1:
        return logits, target
    shares: list[Any] = [None] * trainer.world_size
    assert trainer.test_dataloaders is not None
    positions = torch.tensor(list(trainer.test_dataloaders.sampler))[: len(target)]
    torch.distributed.all_gather_object(shares, (positions, logits, target))
    positions, logits, target = (torch.cat(parts) for parts in zip(*shares, strict=True))
    order = positions.argsort()
    return logits[order], target[order]


def _save(trainer: L.Trainer, folder: Path, name: str, figure: Figure) -> None:
    """Writes a figure into the run's folder and into the loggers that take pictures."""
    path = folder / f"{name}.png"
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110)
    for logger in trainer.loggers:
        match logger:
            case TensorBoardLogger():
                # The picture itself: TensorBoard's add_figure would draw it a second time, for as long again.
                logger.experiment.add_image(name, imread(path)[..., :3], trainer.global_step, dataformats="HWC")
            case WandbLogger():
                logger.log_image(name, [str(path)])
            case MLFlowLogger():
                logger.experiment.log_artifact(logger.run_id, str(path))


def log_hyperparameters(trainer: L.Trainer, recipe: Mapping[str, Any], values: Mapping[str, float]) -> None:
    """Gives the loggers the recipe, and the run's figures once they are known: those of the tested checkpoint.

    They are logged under `best/...`: under their own names they would put a point into the epochs' curves.
    """
    shown = {
        name: {key: value for key, value in part.items() if key != "_partial_"}  # Hydra's, not a setting
        if isinstance(part, Mapping)
        else part
        for name, part in recipe.items()
    }
    best = {f"best/{name}": value for name, value in values.items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(shown, best)  # both at once: what its HPARAMS tab shows
        else:
            logger.log_hyperparams(shown)
            logger.log_metrics(best)
            logger.save()
