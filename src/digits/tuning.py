"""Finds a learning rate and a batch size before training, by Lightning's tuner."""

import logging
from collections.abc import Callable, Sequence

import lightning as L
from lightning.pytorch.tuner import Tuner
from omegaconf import DictConfig

from digits.classifier import Classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.loggers import log_picture
from digits.runs.run import Run

LARGEST_BATCH = 8192  # on a CPU the memory would end later than the patience

log = logging.getLogger(__name__)


def tune(
    cfg: DictConfig, run: Run, data: DigitsDataModule, trainer: L.Trainer, make_classifier: Callable[[], Classifier]
) -> None:
    """Finds what the config asks for, and writes it into the config and the data, as if it had been given.

    The device and precision of `trainer` count; the run's folder gets `find_lr.png`.

    Raises:
        UserError: if there is nothing to find, or several processes are to train.
    """
    size: int | None = data.batch_size  # None: of a data module of the user's own
    problem = ""
    if trainer.world_size > 1:
        problem = "find_lr and find_batch_size need trainer.devices=1: find the values first, then give them"
    elif cfg.find_batch_size and size is None:
        problem = f"find_batch_size: {data.dataset} has no attribute batch_size to change"
    elif cfg.find_batch_size and (found := find_batch_size(make_classifier(), data, probe(trainer))):
        cfg.data.batch_size = data.batch_size = found
        log.info("find_batch_size: data.batch_size=%s", found)
    elif cfg.find_batch_size:
        problem = f"find_batch_size: not even data.batch_size={size} fits into memory. Give a smaller one"
    if cfg.find_lr and not problem:
        rate, tried = find_lr(make_classifier(), data, probe(trainer))
        if rate is None:
            problem = "find_lr: too few steps to find a learning rate. Give optimizer.lr, or more training data"
        else:
            cfg.optimizer.lr = rate
            log.info("find_lr: optimizer.lr=%s", rate)
        if rate and cfg.figures:
            from digits import figures  # here, because seaborn takes a second

            figure = figures.learning_rates(tried["lr"], tried["loss"], rate, data.title)
            log_picture(trainer, run.save_figure("find_lr", figure))
    if problem:
        raise UserError(problem)
    L.seed_everything(cfg.seed, workers=True, verbose=False)  # training starts as if nothing had been tried


def find_batch_size(classifier: Classifier, data: DigitsDataModule, trainer: L.Trainer) -> int | None:
    """The largest training batch that fits into memory: `data.batch_size` times a power of two, at most 8,192.

    None if not even `data.batch_size`, which is changed, fits. The classifier is trained: not to be used afterwards.
    """
    start = data.batch_size
    tried = Tuner(trainer).scale_batch_size(
        classifier, datamodule=data, steps_per_trial=3, init_val=start, max_val=LARGEST_BATCH
    )
    found = tried or 0  # None only with fast_dev_run, which a probe has not
    if found >= LARGEST_BATCH > start:
        found //= 2  # the tuner stops at the limit without having tried it
    return found if found >= start else None


def find_lr(
    classifier: Classifier, data: DigitsDataModule, trainer: L.Trainer
) -> tuple[float | None, dict[str, list[float]]]:
    """The learning rate at which the loss falls fastest, while it rises from 1e-5 to 1 over 100 steps; None if the
    losses show no such rate.

    With it come the rates that were tried, `lr`, and the running mean of the training loss at each, `loss`.
    The classifier is trained: not to be used afterwards.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, https://arxiv.org/abs/1506.01186.
    """
    classifier.lr = 0.0  # the tuner looks for an attribute of this name
    classifier.check_finite = False  # the search continues until the loss diverges
    finder = Tuner(trainer).lr_find(classifier, datamodule=data, min_lr=1e-5, max_lr=1.0, update_attr=False)
    found = finder.suggestion() if finder else None
    if finder is None or found is None:
        return None, {}
    return float(f"{found:.2g}"), {"lr": finder.results["lr"], "loss": _unbiased(finder.results["loss"])}


def _unbiased(losses: Sequence[float], beta: float = 0.98) -> list[float]:
    """Lightning's running means, corrected for their start at 0: it divides the n-th by that of the one after it."""
    return [loss * (1 - beta ** (n + 1)) / (1 - beta**n) for n, loss in enumerate(losses, start=1)]


def probe(trainer: L.Trainer) -> L.Trainer:
    """A trainer to try things out with: on the device and in the precision of another of one process, and silent."""
    return L.Trainer(
        accelerator=trainer.accelerator,
        devices=[trainer.strategy.root_device.index or 0] if trainer.strategy.root_device.type == "cuda" else 1,
        precision=trainer.precision,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val,
        max_epochs=1000,
        default_root_dir=trainer.default_root_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
