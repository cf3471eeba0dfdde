"""A process of a trial ends when the first process says so; that a bad trial is pruned is in test_sweeper.py."""

from types import SimpleNamespace

import optuna
import pytest
import torch

from digits.errors import Pruned
from digits.search.trial_pruning import TrialPruning


def test_processes_end_together_and_the_first_decides() -> None:
    """A process that is not the first needs no database: it does as it is told."""
    pruning = TrialPruning("sqlite:////nowhere/optuna.db", "digits", trial=7, pruner=optuna.pruners.NopPruner())
    trainer = SimpleNamespace(
        is_global_zero=False,
        sanity_checking=False,
        current_epoch=0,
        callback_metrics={"val/acc": torch.tensor(0.25)},
        strategy=SimpleNamespace(broadcast=lambda mine: True),
    )
    pruning.on_train_epoch_start(trainer, None)  # nothing to decide yet
    pruning.on_validation_end(trainer, None)
    pruning.on_train_epoch_end(trainer, None)
    trainer.current_epoch = 1
    with pytest.raises(Pruned) as caught:
        pruning.on_train_epoch_start(trainer, None)
    assert str(caught.value) == "trial 7 pruned after epoch 1: val/acc 0.2500"
