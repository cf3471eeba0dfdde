"""Callbacks: when to log, draw and save. What a run keeps goes through its Run."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar, WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from pydantic import Field
from torch import Tensor

from digits import calibration, hardware, report
from digits.analysis import Mistakes, by_corrected_labels, confident_mistakes, misclassification
from digits.atomic import atomic_write, write_csv
from digits.classifier import Classifier
from digits.data.module import data_of
from digits.errors import UserError
from digits.gate import known_logits
from digits.loggers import log_picture
from digits.metrics import plain
from digits.resized import inner
from digits.runs.checkpointing import best_checkpoint
from digits.runs.model_card import model_card
from digits.runs.processes import from_each_process
from digits.runs.run import Run
from digits.validation import checked_arguments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = ("test_index", "target", "pred", "probability")  # columns of misclassified.csv

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, silent where the output is no terminal: a log file is no place for a moving bar."""

    @property
    def is_disabled(self) -> bool:
        return super().is_disabled or not sys.stdout.isatty()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        # From 1, as in the lines that History logs and in metrics.csv.
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")


class History(Callback):
    """Logs one line per epoch, keeps `metrics.csv` (one row per epoch) up to date and draws the training curves."""

    def __init__(self, run: Run, draw: bool = True) -> None:
        self.run, self.draw = run, draw
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
            **plain({name: value for name, value in metrics if name.startswith(self._measured)}),
            "lr": self._lr,
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            assert isinstance(pl_module, Classifier)
            log.info(report.epoch_line(row, trainer.max_epochs or -1, pl_module.metrics))
            # Rows may differ: with check_val_every_n_epoch=2 every other one has no validation.
            write_csv(self.run.folder / "metrics.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "lr": self._lr, "seconds": time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._lr = state_dict["rows"], state_dict["lr"]
        self._start = time.perf_counter() - state_dict["seconds"]
        self._measured = ("train/",)  # during an epoch; at its start this is set again

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.run.update(epochs=len(self.rows), train_seconds=round(sum(row["seconds"] for row in self.rows), 2))
        if not self.rows:
            log.warning("NOT TRAINED: no epoch was run; what follows is about the initial weights")
        elif trainer.is_global_zero and self.draw:
            from digits import figures

            figure = figures.training_curves(self.rows, self._best(trainer), data_of(trainer).title)
            _keep_figure(self.run, trainer, "training_curves", figure)

    def _best(self, trainer: L.Trainer) -> tuple[str, int] | None:
        """The best checkpoint's metric and epoch; None where it was validated during an epoch, or there is none."""
        best = best_checkpoint(trainer)
        if best is None or best.monitor is None or best.best_model_score is None:
            return None
        score = plain({best.monitor: best.best_model_score})
        epochs = [int(row["epoch"]) for row in self.rows if score.items() <= row.items()]
        return (best.monitor, epochs[0]) if epochs else None


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


class EMA(WeightAveraging):
    """An exponential moving average of the weights, which is validated, saved and tested in their place.

    Its decay warms up, as min(decay, (1 + n) / (10 + n)) after n updates: a short run would else test weights that have
    hardly moved from the initial ones. Source: `num_updates` of TensorFlow's ExponentialMovingAverage.

    Args:
        decay: in the long run; the average is over about 1 / (1 - decay) updates.
        update_every_n_steps: steps of the optimizer between two updates.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1) -> None:
        def averaged(average: Tensor, weights: Tensor, updates: Tensor | int) -> Tensor:
            warm = min(decay, (1 + int(updates)) / (10 + int(updates)))
            return warm * average + (1 - warm) * weights

        super().__init__(use_buffers=True, avg_fn=averaged)
        self.update_every_n_steps = update_every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % self.update_every_n_steps == 0


class CleanEpochs(Callback):
    """Trains the last epochs without augmentation and mixing: the network ends on images as they are.

    Args:
        last: how many epochs.

    Raises:
        ValueError: for a negative number.
        UserError: where the run has no last epoch to count from.
    """

    @checked_arguments
    def __init__(self, last: Annotated[int, Field(ge=0)] = 1) -> None:
        self.last = last

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs = trainer.max_epochs or -1
        if epochs < 0:
            raise UserError("callbacks.clean_epochs: give trainer.max_epochs to count from")
        if self.last >= epochs:
            log.warning("callbacks.clean_epochs.last=%s: none of trainer.max_epochs=%s is augmented", self.last, epochs)
        self._set(trainer)  # a run that is resumed during an epoch does not start it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.last and data_of(trainer).augments:
            log.warning("callbacks.clean_epochs: the run ended before its last epochs, so that all were augmented")
        data_of(trainer).augments = True

    def _set(self, trainer: L.Trainer) -> None:
        data_of(trainer).augments = trainer.current_epoch < int(trainer.max_epochs or 0) - self.last


class DataFigures(Callback):
    """Draws some random training images and the class distribution."""

    def __init__(self, run: Run, images: int = 5, draw: bool = True) -> None:
        self.run, self.draw = run, draw
        self.images = images

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (trainer.is_global_zero and self.draw):
            return
        for name, figure in report.data_figures(data_of(trainer), self.images, torch.initial_seed()):
            _keep_figure(self.run, trainer, name, figure)


class TestReport(Callback):
    """Reports a test: the text, the confusion matrix and the most confident mistakes, drawn and listed.

    Writes `confusion_matrix.png`, `reliability.png`, `misclassified.png` if there are mistakes, `report.html`,
    `misclassified.csv` and `predictions.npz`: `index` of each image in the data set, `target` and `probabilities`
    (N, num_classes), the softmax of the network's logits; all else states calibrated ones. The figures go into the
    run's record. `images` is how many mistakes to draw at most.
    """

    __test__ = False  # no pytest class, in spite of its name

    def __init__(self, run: Run, images: int = 25, draw: bool = True) -> None:
        self.run, self.draw = run, draw
        self.images = images
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
        from digits import figures
        from digits.html_report import Answered, html_report

        assert isinstance(pl_module, Classifier)
        data = data_of(trainer)
        logits, target = (torch.cat([batch[name] for batch in self._batches]) for name in ("logits", "target"))
        self._batches.clear()
        logits, target = _all_in_order(trainer, logits, target)
        confusion = pl_module.confusion["test"].cpu().numpy()
        analysis = misclassification(confusion, data.class_names)
        tested = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        facts: dict[str, Any] = {"confusion_matrix": confusion.tolist(), "misclassification": asdict(analysis)}
        index = data.splits.test.index[: len(target)].numpy()  # fewer than all with trainer.limit_test_batches
        corrected = by_corrected_labels(logits.argmax(dim=1).numpy(), target.numpy(), index, data.corrected)
        if corrected:
            facts["corrected_labels"] = asdict(corrected)
        self.run.update(**plain(tested), **facts)
        if not trainer.is_global_zero:
            return
        log.info("\n%s\n", report.evaluation(tested, analysis, data.title, pl_module.metrics, corrected))

        with atomic_write(self.run.folder / "predictions.npz") as part:
            np.savez_compressed(part, index=index, target=target.numpy(), probabilities=logits.softmax(dim=1).numpy())
        stated = self._confidence(trainer, pl_module, logits, target)
        wrong = confident_mistakes([*stated.values()][-1], target.numpy())
        write_csv(self.run.folder / "misclassified.csv", [*_rows(wrong, data.class_names)], LISTED)
        if not len(wrong.index):
            (self.run.folder / "misclassified.png").unlink(missing_ok=True)  # of an earlier test, in a resumed run
        if self.draw:
            title = f"{data.title} test set, {analysis.total:,} images"
            accuracy = f"{tested['test/acc']:.2%} correct"
            figure = figures.confusion_matrix(confusion, data.class_names, f"{title}: {accuracy}")
            _keep_figure(self.run, trainer, "confusion_matrix", figure)
        if self.draw and len(wrong.index):
            shown = slice(self.images)
            figure = figures.mistakes(
                data.splits.test.images[wrong.index[shown]].numpy(),
                [data.class_names[i] for i in wrong.target[shown]],
                [data.class_names[i] for i in wrong.pred[shown]],
                wrong.probability[shown],
                wrong.index[shown],
                f"The most confident of {analysis.errors:,} mistakes ({title})",
            )
            _keep_figure(self.run, trainer, "misclassified", figure)
        if self.draw:
            network = type(inner(pl_module.network)).__name__
            images, names = data.splits.test.images, data.class_names
            page = html_report(self.run, Answered(images, target.numpy(), stated, names, data.title, network))
            with atomic_write(self.run.folder / "report.html") as part:
                part.write_text(page, encoding="utf-8")

    def _confidence(
        self, trainer: L.Trainer, classifier: Classifier, logits: Tensor, target: Tensor
    ) -> dict[str, np.ndarray]:
        """Reports what the stated probabilities are worth, before and after calibration; returns them by name."""
        stated = {"as trained": logits.softmax(dim=1)}
        if classifier.temperature:
            stated["calibrated"] = (logits / classifier.temperature).softmax(dim=1)
        rejected = None
        if classifier.gate:
            images = data_of(trainer).splits.test.images[: len(target)]
            known = known_logits(classifier.gate, images).sigmoid()
            stated["times known"] = [*stated.values()][-1] * known[:, None]
            rejected = (known < classifier.reject_below).double().mean().item()
        figures_of = {name: calibration.figures_of(one, target) for name, one in stated.items()}
        self.run.update(temperature=classifier.temperature, confidence=figures_of, rejected=rejected)
        log.info("%s\n", report.confidence(figures_of, classifier.temperature, rejected))
        if self.draw:
            from digits import figures

            bins = {name: list(calibration.bins_of(one.numpy(), target.numpy())) for name, one in stated.items()}
            errors = {name: values["ece"] for name, values in figures_of.items()}
            title = f"{data_of(trainer).title} test set, {len(target):,} images"
            _keep_figure(self.run, trainer, "reliability", figures.reliability(bins, errors, title))
        return {name: one.numpy() for name, one in stated.items()}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "test" and "test/acc" not in self.run.facts:
            log.warning("NOT TESTED: there are no test images, or trainer.limit_test_batches leaves none")


class Advice(Callback):
    """Adds to an error what the user can do about it; `digits.messages` shows that in place of a traceback."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if hardware.is_out_of_memory(exception, trainer.strategy.root_device):
            data = data_of(trainer)
            batch_size = data.batch_size if trainer.training else None
            advice = hardware.memory_advice(batch_size, data.eval_batch_size, trainer.accumulate_grad_batches)
            device = hardware.describe_device(trainer.strategy.root_device)
            exception.add_note(f"{advice[0]}: out of memory on {device}. Give {advice[1]}")
        started = getattr(trainer.strategy.launcher, "procs", [])  # by Lightning, beside this one
        if isinstance(exception, RuntimeError) and any(process.poll() for process in started):
            exception.add_note(
                "another process of this run died; its own output says why. Resume with resume=<the run's folder>"
            )


class ModelCard(Callback):
    """Writes the card of the tested network, `MODEL_CARD.md`; the last of the callbacks, as it reads the record."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "test" and trainer.is_global_zero:  # which comes without a batch too, unlike on_test_end
            with atomic_write(self.run.folder / "MODEL_CARD.md") as part:
                part.write_text(model_card(self.run, data_of(trainer).class_names), encoding="utf-8")


def _rows(wrong: Mistakes, class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of `misclassified.csv`."""
    for index, t, p, probability in zip(wrong.index, wrong.target, wrong.pred, wrong.probability, strict=True):
        yield dict(zip(LISTED, (index, class_names[t], class_names[p], f"{probability:.6f}"), strict=True))


def _all_in_order(trainer: L.Trainer, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Gathers from all processes what they found for their shares of the test images, in the order of the images."""
    if trainer.world_size == 1:
        return logits, target
    assert trainer.test_dataloaders is not None
    positions = torch.tensor(list(trainer.test_dataloaders.sampler))[: len(target)]
    shares = from_each_process((positions, logits, target))
    positions, logits, target = (torch.cat(parts) for parts in zip(*shares, strict=True))
    order = positions.argsort()
    return logits[order], target[order]


def _keep_figure(run: Run, trainer: L.Trainer, name: str, figure: "Figure") -> None:
    """Writes a figure into the run's folder and into the loggers that take pictures."""
    log_picture(trainer, run.save_figure(name, figure))
