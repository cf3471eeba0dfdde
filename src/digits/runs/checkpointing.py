"""The checkpoints that a run keeps: the last one, which it resumes from bit for bit, and the best, which is tested.

Lightning restores weights, optimizer, schedule, callbacks and its loops. What it leaves out is here: the state of the
random numbers. The training batches keep how many of them are done (`digits.data.batches`), the classifier the metrics
of the epoch so far.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from digits.archive import load, save
from digits.calibration import at_bound, fit_temperature, validation_logits
from digits.checkpoints import FORMAT, Checkpoint, Confidence, add_confidence, plain_weights, save_state_dict
from digits.data.module import data_of
from digits.errors import Diverged, UserError
from digits.loggers import flush
from digits.model_facts import ModelFacts
from digits.runs.processes import from_each_process
from digits.runs.run import Run

if TYPE_CHECKING:
    from digits.classifier import Classifier
    from digits.rejection import FitGate

ASK_EVERY_N_STEPS = 50
RUN_FOLDER = "<run>"  # stands for the run's folder in the paths of a checkpoint
# Of a checkpoint, besides what evaluating it takes.
NEEDED = {"epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "train_metrics", "figures"}

log = logging.getLogger(__name__)


class AtomicCheckpoints(CheckpointIO):
    """Writes Lightning's checkpoints atomically, and none whose weights are not finite.

    Paths in the callbacks' states are kept relative to the run's folder, which may be moved.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())  # as ModelCheckpoint keeps its own paths

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if Path(path).name.startswith("hpc_ckpt_"):
            # Lightning's, at the signal of a preemption and so during a step; it would train, and even test, from it.
            # SLURM's requeuing sends SIGTERM next, at which last.ckpt is saved.
            return
        if not all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point()):
            # It must not replace the last good one. The losses show it too, but only after the next step.
            rates = [group["lr"] for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
            raise Diverged("a weight is not finite", checkpoint["global_step"], rates)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        states = _replaced(checkpoint["callbacks"], self.folder, RUN_FOLDER)
        save(checkpoint | {"callbacks": states, "digits_format": FORMAT}, Path(path))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> Any:
        checkpoint = load(path)
        return checkpoint | {"callbacks": _replaced(checkpoint["callbacks"], RUN_FOLDER, self.folder)}

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _replaced(state: Any, old: str, new: str) -> Any:
    """A callback's state with another folder at the start of the paths in it."""
    if isinstance(state, dict):
        return {_replaced(key, old, new): _replaced(value, old, new) for key, value in state.items()}
    if isinstance(state, list):
        return [_replaced(value, old, new) for value in state]
    inside = isinstance(state, str) and (state == old or state.startswith(f"{old}{os.sep}"))
    return f"{new}{state[len(old) :]}" if inside else state


class LastCheckpoint(CheckpointCallback):
    """Keeps `last.ckpt`, from which a run resumes bit for bit.

    It is saved when an epoch starts, when training ends, and between two steps of the optimizer once `every_seconds`
    have passed, or a signal asks for the end.
    """

    def __init__(self, run: Run, every_seconds: float = 60.0) -> None:
        self.run = run
        self.every_seconds = every_seconds
        self.interrupts = run.interrupts
        self._saved_at = time.monotonic()
        self._position: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None
        self._batches_done: list[dict[str, int]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored:  # nothing draws between this and the first batch
            _set_random_states(self._restored["random"][trainer.global_rank])
            # Lightning forgets to, where a schedule has asked for the number of steps before the checkpoint was read.
            for state in self._batches_done:
                trainer.train_dataloader.load_state_dict(state)  # type: ignore[union-attr] # digits.data.batches
        self.interrupts.deferred = True
        self.interrupts.take_over()  # Lightning's own SIGTERM ends an epoch without a checkpoint, and with exit code 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fit_loop.restarting:
            # An epoch that is resumed at its start begins like any other; Lightning would count a batch too many.
            trainer.fit_loop.restarting = False
        elif trainer.global_step > 0:
            # Lightning counts batches from 0 only after this hook; a checkpoint with the last epoch's count would have
            # this one be over.
            trainer.fit_loop.epoch_loop.reset()
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not while gradients accumulate, nor at an epoch's end, where validation is still to come.
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        if complete and self._is_due(trainer, batch_idx):
            self._save(trainer)

    def _is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        due = time.monotonic() - self._saved_at >= self.every_seconds
        if trainer.world_size > 1:
            # All save or none: the first process decides, by its clock and its signal. To ask it has all of them wait.
            if (batch_idx + 1) // trainer.accumulate_grad_batches % ASK_EVERY_N_STEPS:
                return False
            due, self.interrupts.signal = trainer.strategy.broadcast((due, self.interrupts.signal))
        return due or bool(self.interrupts.signal)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Else Lightning leaves out the step of a ReduceLROnPlateau after an epoch that was resumed.
        trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)
        self.interrupts.deferred = False

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # undeclared by Lightning
            self._position = {
                "step": trainer.global_step,
                "stopped": trainer.should_stop,
                "random": from_each_process(_random_states(trainer.strategy.root_device)),
            }
            if best := best_path(trainer):
                self.run.update(best_checkpoint=self.run.relative(best))
            flush(trainer.loggers)  # what a resumed run does not log again must not be missing
            trainer.save_checkpoint(self.run.last_checkpoint)
            self._saved_at = time.monotonic()
        if self.interrupts.signal:
            self.interrupts.leave()

    def state_dict(self) -> dict[str, Any]:
        return self._position

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        position = checkpoint["callbacks"].get(self.state_key, {})
        if position.get("step") == checkpoint["global_step"]:  # not so in a best.ckpt
            self._restored = position
            self._batches_done = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
            trainer.should_stop = position["stopped"]  # early, before it was interrupted in its test


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint by a logged figure. Of several such callbacks, the first one's best is tested.

    Args:
        dirpath: its folder; in a config, relative to the run's folder.
        filename: without the suffix; None: `best`, or with several to keep, `best-{epoch}-{step}`.
        save_top_k: how many of the best to keep; -1: all.
        further: arguments of Lightning's ModelCheckpoint.

    Raises:
        UserError: for several checkpoints of one name.
    """

    def __init__(self, dirpath: str, filename: str | None = None, save_top_k: int = 1, **further: Any) -> None:
        several = save_top_k not in (0, 1)
        if several and filename and "{" not in filename:
            raise UserError(
                f"callbacks.best_checkpoint.filename={filename}: {save_top_k} checkpoints would replace each other."
                " Put {epoch} into the name, or leave it out"
            )
        # A name that does not depend on which files there are: a resumed run writes the same ones.
        filename = filename or ("best-{epoch}-{step}" if several else "best")
        super().__init__(dirpath, filename, save_top_k=save_top_k, enable_version_counter=False, **further)


def best_checkpoint(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The first callback that keeps the best checkpoint."""
    return next((one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)), None)


def best_path(trainer: L.Trainer) -> str | None:
    """The checkpoint that this callback says is the best, if there is one."""
    callback = best_checkpoint(trainer)
    return callback.best_model_path or None if callback else None


def to_resume(run: Run) -> Checkpoint | None:
    """The checkpoint that the run resumes from; None where it starts from the beginning."""
    if not run.resumed:
        return None
    if not run.last_checkpoint.exists():
        log.info("resumes: no checkpoint was saved yet, so it starts from the beginning")
        return None
    return Checkpoint.open(run.last_checkpoint)


def check_resumed(checkpoint: Checkpoint | None, settings: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Refuses a checkpoint that a run with these settings cannot resume from.

    Raises:
        UserError: saying what it lacks, or which setting is another.
    """
    if checkpoint is None:  # nothing is resumed
        return
    content, processes, epochs, problem = checkpoint.content, trainer.world_size, trainer.max_epochs, None
    if lacking := NEEDED.difference(content):
        problem = f"not to resume from, it has no {', '.join(sorted(lacking))}"
    elif len(content["train_metrics"]) != processes:
        problem = f"of {len(content['train_metrics'])} processes, and this run has {processes}"
    elif epochs is not None and 0 <= epochs < content["epoch"]:
        problem = f"{content['epoch']} epochs are over already, and trainer.max_epochs={epochs}"
    for name in (key for key in settings if key != "precision"):
        ours, theirs = settings[name], checkpoint.settings.get(name, {})
        if name == "data":  # which may have moved
            ours, theirs = ({key: value for key, value in part.items() if key != "root"} for part in (ours, theirs))
        if ours != theirs:
            problem = problem or f"of another run, its {name} is not this one's"
    if problem:
        raise UserError(f"{checkpoint.path}: {problem}. Without that file the run restarts from scratch")
    log.info("resumes after step %s, in epoch %s", content["global_step"], content["epoch"] + 1)


def load_best(classifier: "Classifier", trainer: L.Trainer, run: Run, fit_gate: "FitGate | None" = None) -> None:
    """Loads the weights to test, finds out how sure their answers are, and records which they are with their figures.

    They are those of the best checkpoint, else of the last one; where none was saved, as training left them. The
    checkpoint gets what says how sure its answers are. Without `fit_gate` (that of `digits.rejection` with its
    settings) no gate is fitted.
    """
    # Of several processes, the first one saves.
    path = trainer.strategy.broadcast(
        next((p for p in (best_path(trainer), run.last_checkpoint) if p and Path(p).exists()), None)
    )
    epoch, figures = run.facts["epochs"], classifier.figures
    if path:
        checkpoint = Checkpoint.open(path)
        classifier.load_state_dict(checkpoint.content["state_dict"])
        # Lightning counts the last epoch as over in a checkpoint from the end of training.
        epoch, figures = min(epoch, checkpoint.content["epoch"] + 1), checkpoint.figures
    run.update(best_checkpoint=path and run.relative(path), tested_epoch=epoch, **figures)
    facts = ModelFacts.of(classifier.hparams["data"])
    confidence = Confidence(temperature=_calibrate(classifier, trainer))
    fitted = None
    if fit_gate and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        fitted = fit_gate(data_of(trainer).splits, facts, trainer.strategy.root_device)
    if fitted:
        run.update(gate=fitted.report)
        log.info("%s", fitted)
        confidence.reject_below, confidence.gate = fitted.reject_below, plain_weights(fitted.gate)
        classifier.gate, classifier.reject_below = fitted.gate, fitted.reject_below
    if path and trainer.is_global_zero:
        add_confidence(Path(path), confidence)
    trainer.strategy.barrier()  # the others wait for what the first one fits
    weights, model = run.folder / "mnist_cnn_model.pth", classifier.hparams["model"]
    save_state_dict(classifier.network, model, confidence.added_to(facts), weights, classifier.gate)


def _calibrate(classifier: "Classifier", trainer: L.Trainer) -> float | None:
    """Fits the temperature of a classifier's logits on the validation images; None where nothing is validated."""
    data = data_of(trainer)
    if not (len(data.splits.val) and trainer.limit_val_batches) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        log.info(
            "not calibrated: there is no validation, so that probabilities are the softmax of the network's logits"
        )
        return None
    logits, target = validation_logits(classifier, data, trainer.strategy.root_device)
    classifier.temperature = temperature = fit_temperature(logits, target)
    bound = ", the end of what is allowed: these logits are of no scale that it could put right"
    log.info(
        "calibrated: temperature %.3f, fitted on %s validation images%s",
        *(temperature, f"{len(target):,}", bound if at_bound(temperature) else ""),
    )
    return temperature


def _random_states(device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
