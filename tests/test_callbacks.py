"""Callbacks that change the training: what they do to it, counted."""

from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback
from test_classifier import ADAM, CONSTANT, trainer
from torch import Tensor, nn

from digits.callbacks import CleanEpochs
from digits.classifier import Classifier
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.networks import CNN


class Counted(nn.Module):
    """Counts the batches that it gets."""

    batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        return images


class AfterEachEpoch(Callback):
    """Notes how many batches were augmented by the end of each epoch."""

    def __init__(self, counted: Counted) -> None:
        self.counted, self.seen = counted, list[int]()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seen.append(self.counted.batches)


@pytest.mark.parametrize(("last", "seen"), [(0, [2, 4, 6]), (1, [2, 4, 4]), (2, [2, 2, 2]), (5, [0, 0, 0])])
def test_last_epochs_are_not_augmented(last: int, seen: list[int], caplog: pytest.LogCaptureFixture) -> None:
    augmentation = Counted()
    data = DigitsDataModule("mnist5k", augmentation=augmentation)
    noted = AfterEachEpoch(augmentation)
    caplog.set_level("WARNING")
    classifier = Classifier(CNN(channels=[2]), 10, ADAM, CONSTANT)
    settings = {"max_epochs": 3, "limit_train_batches": 2, "limit_val_batches": 1}
    trainer(callbacks=[CleanEpochs(last), noted], **settings).fit(classifier, data)
    assert noted.seen == seen
    assert ("none of trainer.max_epochs=3 is augmented" in caplog.text) == (last >= 3)
    assert data.augments, "what is trained next begins with augmentation"


def test_a_run_that_ends_before_its_clean_epochs_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(max_epochs=9, max_steps=2, callbacks=[CleanEpochs(1)], limit_val_batches=0)
    run.fit(Classifier(CNN(channels=[2]), 10, ADAM, CONSTANT), DigitsDataModule("mnist5k"))
    assert "the run ended before its last epochs, so that all were augmented" in caplog.text


def test_a_negative_number_is_named() -> None:
    with pytest.raises(ValueError, match="last=-1"):
        CleanEpochs(last=-1)


def test_there_must_be_a_last_epoch() -> None:
    run = trainer(max_epochs=-1, max_steps=3, callbacks=[CleanEpochs(1)])
    with pytest.raises(UserError, match=r"callbacks.clean_epochs: give trainer.max_epochs to count from"):
        run.fit(Classifier(CNN(channels=[2]), 10, ADAM, CONSTANT), DigitsDataModule("mnist5k"))


def test_a_run_resumed_amid_a_clean_epoch_goes_on_clean(tmp_path: Path) -> None:
    """Such a run does not start the epoch that it goes on with."""

    class Cut(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 6:  # the second batch of the second epoch, of four
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    whole = Counted()
    made = trainer(max_epochs=2, callbacks=[CleanEpochs(1), Cut()], limit_val_batches=0)
    settings = {"batch_size": 1000}
    made.fit(
        Classifier(CNN(channels=[2]), 10, ADAM, CONSTANT),
        DigitsDataModule("mnist5k", augmentation=whole, **settings),
    )
    assert whole.batches == 4

    resumed = Counted()
    made = trainer(max_epochs=2, callbacks=[CleanEpochs(1)], limit_val_batches=0)
    data = DigitsDataModule("mnist5k", augmentation=resumed, **settings)
    made.fit(
        Classifier(CNN(channels=[2]), 10, ADAM, CONSTANT), data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True
    )
    assert made.global_step == 8
    assert resumed.batches == 0
