"""Ends a trial of a search early, where other trials did better by the same epoch."""

from functools import cached_property

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState

from digits.errors import Pruned
from digits.metrics import plain
from digits.search.study import open_storage

MONITOR = "val/acc"  # what train.py returns to the search


class TrialPruning(Callback):
    """Reports each epoch's validation to the study, and raises Pruned where the pruner advises against another epoch.

    It raises as the next epoch begins, when figures and checkpoints of the last one are saved; a run that has had all
    its epochs counts in full.

    Args:
        storage: URL of the study's database.
        study_name: the study in it.
        trial: number of this run's trial; None outside of a search, where nothing happens.
        pruner: Optuna's.
    """

    def __init__(self, storage: str, study_name: str, trial: int | None, pruner: BasePruner) -> None:
        self.storage = storage
        self.study_name = str(study_name)  # Hydra reads 2026 as a number
        self.trial = trial
        self.pruner = pruner
        self._value: float | None = None  # None in an epoch without validation

    @cached_property
    def _study(self) -> optuna.Study:
        return optuna.load_study(storage=open_storage(self.storage), study_name=self.study_name, pruner=self.pruner)

    @cached_property
    def _trial(self) -> Trial:
        assert self.trial is not None  # nobody asks outside of a search
        return Trial(self._study, self._study.get_trials(deepcopy=False)[self.trial]._trial_id)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trial is not None and not trainer.sanity_checking:
            self._value = plain(trainer.callback_metrics)[MONITOR]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._value is not None and trainer.is_global_zero:
            self._trial.report(self._value, step=trainer.current_epoch + 1)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._value is None:
            return
        value, self._value = self._value, None
        # One process decides for all: they have to end together.
        if trainer.strategy.broadcast(trainer.is_global_zero and self._trial.should_prune()):
            if trainer.is_global_zero:
                self._study.tell(self._trial.number, state=TrialState.PRUNED)
            epoch = trainer.current_epoch  # the one before, counted from 1
            raise Pruned(f"trial {self.trial} pruned after epoch {epoch}: {MONITOR} {value:.4f}")
