"""Ends a trial of a search early if other trials did better by the same epoch."""

from functools import cached_property

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState

from digits.errors import Pruned
from digits.metrics import OBJECTIVE, plain
from digits.search.study import open_storage


class TrialPruning(Callback):
    """Reports each epoch's val/acc to the study, and raises Pruned if the pruner advises against another epoch.

    It raises when the next epoch starts: the metrics and checkpoints of the last one are saved by then. A run that has
    trained all of its epochs is complete.

    Args:
        storage: URL of the study's database.
        study_name: the study in it.
        trial: number of this run's trial; None outside of a search: then it does nothing.
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
        assert self.trial is not None  # not asked for outside of a search
        return Trial(self._study, self._study.get_trials(deepcopy=False)[self.trial]._trial_id)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trial is not None and not trainer.sanity_checking:
            self._value = plain(trainer.callback_metrics)[OBJECTIVE]

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
            raise Pruned(f"trial {self.trial} pruned after epoch {epoch}: {OBJECTIVE} {value:.4f}")
