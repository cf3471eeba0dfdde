"""Going on where a run was cut off, as if it had not been: what has to be kept for that, and when.

Lightning restores weights, optimizer, schedule, callbacks and its loops. What it leaves out is here: the order of the
images within the epoch, the state of the random numbers, and the metrics of the epoch so far.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from digits.errors import UserError
from digits.loggers import flush
from digits.runs.signals import Stop

ASK_EVERY_N_STEPS = 50
# Of a checkpoint, besides what evaluating it takes.
NEEDED = {"epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "train_metrics"}


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, from which a run goes on bit for bit.

    It is saved where the state of a run is whole: when an epoch starts, when training ends, and between two steps of
    the optimizer once `every_seconds` have passed, or a signal asks for the end.

    Args:
        folder: the run's folder.
        every_seconds: between two checkpoints within an epoch.
        stop: whether a signal came.
    """

    def __init__(self, folder: Path, every_seconds: float, stop: Stop) -> None:
        self.path = folder / "checkpoints" / "last.ckpt"
        self.every_seconds = every_seconds
        self.stop = stop
        self._saved_at = time.monotonic()
        self._position: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.deferred = True
        self.stop.take_over()  # Lightning's own SIGTERM ends an epoch without a checkpoint, and with exit code 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fit_loop.restarting:
            # An epoch that is gone on with at its start begins like any other; Lightning would count a batch too many.
            trainer.fit_loop.restarting = False
        elif trainer.global_step > 0:
            # Lightning counts batches from 0 only after this hook; a checkpoint with the last epoch's count would have
            # this one be over.
            trainer.fit_loop.epoch_loop.reset()
            self._save(trainer, batches=0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not amid gradients that accumulate, nor at an epoch's end: after its validation it is whole.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        if whole and self._is_due(trainer, batch_idx):
            self._save(trainer, batches=batch_idx + 1)

    def _is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        due = time.monotonic() - self._saved_at >= self.every_seconds
        if trainer.world_size > 1:
            # All save or none: the first process decides, by its clock and its signal. To ask it has all of them wait.
            if (batch_idx + 1) // trainer.accumulate_grad_batches % ASK_EVERY_N_STEPS:
                return False
            due, self.stop.signal = trainer.strategy.broadcast((due, self.stop.signal))
        return due or bool(self.stop.signal)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Else Lightning leaves out the step of a ReduceLROnPlateau after an epoch that was gone on with.
        trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, batches=0)
        self.stop.deferred = False

    def _save(self, trainer: L.Trainer, batches: int) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # undeclared by Lightning
            assert trainer.train_dataloader is not None
            before_order = trainer.train_dataloader.batch_sampler.before_order
            self._position = {
                "step": trainer.global_step,
                "batches": batches,
                "before_order": before_order,
                "stopped": trainer.should_stop,
                **_random_states(trainer.strategy.root_device),
            }
            flush(trainer.loggers)  # what it does not go on to log must not be missing
            trainer.save_checkpoint(self.path)
            self._saved_at = time.monotonic()
        if self.stop.signal:
            self.stop.leave()

    def state_dict(self) -> dict[str, Any]:
        return self._position

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        position = checkpoint["callbacks"].get(self.state_key, {})
        if position.get("step") == checkpoint["global_step"]:  # not so in a best.ckpt
            trainer.datamodule.position = position  # type: ignore[attr-defined] # undeclared by Lightning
            trainer.should_stop = position["stopped"]  # early, before it was cut off in its test


def check_position(checkpoint: dict[str, Any], path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that the run with these settings cannot go on from.

    Raises:
        UserError: saying what it lacks, or which setting is another.
    """
    anew = "Without that file the run begins anew"
    if lacking := NEEDED.difference(checkpoint):
        raise UserError(f"{path}: not to go on from, it has no {', '.join(sorted(lacking))}. {anew}")
    saved = checkpoint["hyper_parameters"]
    for name in ("model", "optimizer", "scheduler", "augmentation", "seed", "data"):
        ours, theirs = settings[name], saved.get(name)
        if name == "data":  # which may have moved
            ours, theirs = ({key: value for key, value in part.items() if key != "root"} for part in (ours, theirs))
        if ours != theirs:
            raise UserError(f"{path}: of another run, its {name} is not this one's. {anew}")


def _random_states(device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"random": torch.get_rng_state(), "random_cuda": cuda}
