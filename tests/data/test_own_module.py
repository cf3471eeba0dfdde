"""A LightningDataModule of the user's own trains, is tested again, exported, and resumed during an epoch."""

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from digits import load_classifier
from digits.checkpoints import Checkpoint
from digits.classifier import Classifier
from digits.data.batches import TrainingBatches
from digits.data.own_module import OwnDataModule, known_targets
from digits.data.restore import restore_data
from digits.errors import UserError

CODE = '''
import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split
from digits.data.datasets import Mnist5k


class Plain(L.LightningDataModule):
    """As in a tutorial: floats, normalised, split without a seed."""

    def __init__(self, root="x", batch_size=50):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage=None):
        images = Mnist5k().load().train.subset(range(0, 5000, 5))
        everything = TensorDataset((images.images / 255 - 0.1307) / 0.3081, images.target)
        self.train, self.val, self.test = random_split(everything, [700, 100, 200])

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, 64)

    def test_dataloader(self):
        return DataLoader(self.test, 64)


class Described(Plain):
    """Bytes, normalised on the device; names of the classes, mean and std."""

    class_names = [f"digit {i}" for i in range(10)]
    mean, std = 0.25, [0.5]

    def setup(self, stage=None):
        images = Mnist5k().load().train.subset(range(0, 5000, 5))
        self.train = self.val = self.test = TensorDataset(images.images, images.target)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, target = batch
        self.seen_training = self.trainer.training
        return (images / 255 - 0.25) / 0.5, target


class Stream(IterableDataset):
    def __iter__(self):
        images = Mnist5k().load().train.subset(range(0, 5000, 50))
        yield from zip(images.images / 255, images.target)


class Streamed(Plain):
    num_classes = 10

    def train_dataloader(self):
        return DataLoader(Stream(), 20)

    test_dataloader = L.LightningDataModule.test_dataloader


class Shuffled(Plain):
    def test_dataloader(self):
        return DataLoader(self.test, 64, shuffle=True)


class NoTrain(L.LightningDataModule):
    pass


class Wide(Plain):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(4, 1, 28, 30), torch.zeros(4)), 2)


class Dicts(Plain):
    def train_dataloader(self):
        return DataLoader([{"x": 1}], 1)


class Empty(Plain):
    def train_dataloader(self):
        return DataLoader([])


class Several(Plain):
    def val_dataloader(self):
        return [DataLoader(self.val), DataLoader(self.test)]


class Unnamed(Streamed):
    num_classes = None
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's configs; their package can be imported."""
    package = tmp_path / "code" / "own_modules"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data.py").write_text(CODE)
    configs = tmp_path / "myconfigs" / "data"
    configs.mkdir(parents=True)
    (configs / "mine.yaml").write_text("_target_: own_modules.data.Plain\nbatch_size: 50\n")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.startswith("own_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return configs.parent


def module(name: str, seed: int = 0, **arguments) -> OwnDataModule:
    data = OwnDataModule({"_target_": f"own_modules.data.{name}", **arguments}, seed)
    data.prepare_data()
    data.setup()
    return data


def test_it_trains_and_is_tested_again(command: Command, own: Path, tmp_path: Path) -> None:
    quick = ("model=fast", "trainer=cpu", "trainer.max_epochs=2", "optimizer.lr=0.003", "figures=true")
    outcome = command("train", f"--config-dir={own}", "data=mine", *quick)
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert record["dataset"] == "own_modules.data.Plain"
    assert record["split_sizes"] == {"train": 700, "val": 100, "test": 200}
    assert record["test/acc"] > 0.5
    for name in ("sample_images", "class_distribution", "confusion_matrix", "misclassified"):
        assert (outcome.folder / f"{name}.png").exists()
    path = outcome.folder / "checkpoints" / "best.ckpt"
    refused = command("eval", f"ckpt_path={path}")
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "trust=own_modules" in refused.err
    again = command("eval", f"ckpt_path={path}", "trust=own_modules")
    assert again.code == 0, again.err
    assert again.record["test/acc"] == record["test/acc"]
    assert again.record["confusion_matrix"] == record["confusion_matrix"]
    exported = command("digits.export", f"ckpt_path={path}", "trust=own_modules")
    assert exported.code == 0, exported.err
    assert f"{100 * record['test/acc']:.2f} %" in exported.out
    classifier = load_classifier(path.with_suffix(".onnx"))  # which names no class to import
    data = Checkpoint.open(path, ["own_modules"]).data()
    right = (
        classifier.probabilities(data.splits.test.images.numpy()).argmax(1) == data.splits.test.target.numpy()
    ).mean()
    assert right == pytest.approx(record["test/acc"])


def test_its_pixels_and_splits_come_back(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = module("Plain", batch_size=50)
    assert "pixels are taken to reach from -0.4242 (black) to 2.821 (white)" in caplog.text
    assert (data.mean, data.std) == (pytest.approx([0.1307], abs=1e-4), pytest.approx([0.3081], abs=1e-4))
    assert data.shape == {"in_channels": 1, "num_classes": 10, "image_size": 28}
    assert data.class_names == tuple("0123456789")
    from digits.data.datasets import Mnist5k

    originals = Mnist5k().load().train.images
    everything = {image.numpy().tobytes() for image in originals}
    assert all(image.numpy().tobytes() in everything for image in data.splits.test.images)
    torch.manual_seed(123)  # a split without a seed of its own is the same in each run
    again = restore_data(data.settings)
    assert again.settings == data.settings
    assert torch.equal(again.splits.test.images, data.splits.test.images)
    indices = [set(part.dataset.indices) for part in (data.splits.train, data.splits.val, data.splits.test)]
    assert sum(map(len, indices)) == len(set.union(*indices)) == 1000


def test_the_runs_random_numbers_stay(own: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data = module("Plain")
    _ = data.splits.train.target, data.splits.test.images, data.splits.train.__getitems__([1, 2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_its_own_names_normalisation_and_hooks(own: Path) -> None:
    data = module("Described")
    assert data.class_names[3] == "digit 3"
    assert (data.mean, data.std) == ([0.25], [0.5])
    raw = data.module.test.tensors[0]
    assert torch.equal(data.splits.test.images, raw)  # from bytes to floats and back
    images, target = data.splits.train.__getitems__([5, 7])
    assert torch.equal(images, raw[[5, 7]])
    assert target.tolist() == data.splits.train.target[[5, 7]].tolist()
    batch = data.on_after_batch_transfer
    data.trainer = type("Training", (), {"training": True, "world_size": 1, "overfit_batches": 0})()
    batch((raw[:2], target), 0)
    assert data.module.seen_training  # it sees the trainer of this project


def test_this_projects_augmentation_works_on_its_pixels(own: Path) -> None:
    class Inverted(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert 0 <= images.min() <= images.max() <= 1
            return 1 - images

    data = module("Described")
    data.augmentation = Inverted()
    raw, target = data.module.test.tensors[0][:3], torch.zeros(3)
    for training in (True, False):
        data.trainer = type("Trainer", (), {"training": training})()
        images, _ = data.on_after_batch_transfer((raw, target), 0)
        assert torch.equal(data.pixels(images), 255 - raw if training else raw)


def test_it_resumes_during_an_epoch_as_if_it_had_not_been_interrupted(
    command: Command, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = (f"--config-dir={own}", "data=mine", "model=fast", "trainer=cpu", "trainer.max_epochs=2")
    words = (*words, "checkpoint_every_seconds=0", "trainer.limit_test_batches=1")
    whole = command("train", *words)
    assert whole.code == 0, whole.err
    step, done = Classifier.training_step, []

    def broken(self, batch, batch_idx):
        if len(done) == 19:  # of 14 an epoch
            raise InterruptedError
        done.append(batch_idx)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", broken)
        with suppress(InterruptedError):
            command("train", *words)
    cut = max((tmp_path / "logs" / "train" / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    assert cut != whole.folder
    resumed = command("train", f"resume={cut}", "trust=own_modules")
    assert resumed.code == 0, resumed.err
    ours, theirs = (
        Checkpoint.open(folder / "checkpoints" / "last.ckpt").content["state_dict"] for folder in (cut, whole.folder)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_line_from_the_command_line(command: Command, own: Path) -> None:
    for words, line in (
        (["data._target_=own_modules.data.NoSuch"], "data._target_=own_modules.data.NoSuch: names nothing"),
        (["data._target_=own_modules.data.Stream"], "no subclass of lightning.LightningDataModule"),
        (["data=mine", "data.folds=5"], "data.folds: the chosen data has no such key"),
        (["data=mine", "+data.folds=5"], "own_modules.data.Plain: takes no folds. It has root, batch_size"),
        (["data._target_=own_modules.data.NoTrain"], "it has no train_dataloader"),
    ):
        outcome = command("train", f"--config-dir={own}", *words)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1, outcome.err
        assert line in outcome.err


def test_the_order_depends_on_seed_and_epoch_and_can_be_resumed(own: Path) -> None:
    def order(seed: int, epoch: int, done: int = 0) -> list[bytes]:
        loader = module("Plain", seed).train_dataloader()
        assert isinstance(loader, TrainingBatches)
        loader.order.set_epoch(epoch)
        loader.load_state_dict({"epoch": epoch, "batches": done})
        return [images.numpy().tobytes() for images, _ in loader]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 1, done=5) == order(1, 1)[5:]


def test_a_stream_keeps_its_own_order(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = module("Streamed")
    assert "Resuming during an epoch is not exact" in caplog.text
    assert "it has no test_dataloader" in caplog.text
    assert type(data.train_dataloader()) is DataLoader
    assert data.split_sizes == {"train": 0, "val": 100, "test": 0}
    assert data.splits.train.images.shape == (20, 1, 28, 28)
    with pytest.raises(UserError, match="it has no test_dataloader, so that there is nothing to test"):
        restore_data(data.settings)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"_target_": "own_modules.data.NoSuch"},
            "data._target_=own_modules.data.NoSuch: names nothing that can be made",
        ),
        ({"_target_": "own_modules.data.Stream"}, "Stream: no subclass of lightning.LightningDataModule"),
        ({"_target_": "own_modules.data.Plain", "size": 3}, "Plain: takes no size. It has root, batch_size"),
        ({"_target_": "own_modules.data.NoTrain"}, "NoTrain: it has no train_dataloader"),
        ({"_target_": "own_modules.data.Shuffled"}, "its test_dataloader shuffles"),
        ({"_target_": "own_modules.data.Wide"}, "there are images (2, 1, 28, 30)"),
        ({"_target_": "own_modules.data.Dicts"}, "there is a dict"),
        ({"_target_": "own_modules.data.Empty"}, "there is a NoneType"),
        ({"_target_": "own_modules.data.Several"}, "val_dataloader gives 2 loaders. Give one"),
        ({"_target_": "own_modules.data.Unnamed"}, "a stream of images. Give the module class_names"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: dict, line: str, own: Path) -> None:
    with pytest.raises(UserError) as error:
        OwnDataModule(arguments).setup()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_asked_of_it(own: Path) -> None:
    data = module("Plain", root="there")
    assert restore_data(data.settings, root="moved").arguments["root"] == "moved"
    for name, value in {"folds": 5, "eval_batch_size": 3, "val_size": 9}.items():
        with pytest.raises(
            UserError, match=rf"data.{name}={value}: own_modules.data.Plain has the settings of training"
        ):
            restore_data(data.settings, **{name: value})
    forged = data.settings | {"dataset": "own_modules.data.Described"}
    with pytest.raises(UserError, match="the checkpoint names another data module"):
        restore_data(forged)
    data.trainer = type("Many", (), {"world_size": 2})()
    with pytest.raises(UserError, match=r"works in one process only. Give trainer.devices=1"):
        data.setup("fit")
    data.batch_size = 7
    assert data.module.batch_size == 7


def test_known_targets_are_those_of_the_items(own: Path) -> None:
    data = module("Plain").splits.train
    known = known_targets(data.dataset)
    assert known is not None
    assert known.tolist() == [int(data.dataset[i][1]) for i in range(len(data.dataset))]


@pytest.mark.parametrize(("split", "line"), [("test", "its test_dataloader"), ("val", "its val_dataloader")])
def test_a_loader_that_leaves_images_out_is_refused(split: str, line: str, own: Path) -> None:
    data = OwnDataModule({"_target_": "own_modules.data.Plain"})
    module: Any = data.module
    plain = getattr(module, f"{split}_dataloader")
    for loader in (
        lambda: DataLoader(plain().dataset, 64, sampler=SubsetRandomSampler(range(10))),
        lambda: DataLoader(plain().dataset, 64, drop_last=True),
    ):
        setattr(module, f"{split}_dataloader", loader)
        with pytest.raises(UserError, match=f"{line} shuffles, leaves images out or repeats some"):
            data.setup()
