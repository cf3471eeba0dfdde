"""Batches: the images of their split, shuffled for training, normalised, and shared among processes."""

from types import SimpleNamespace

import kornia
import numpy as np
import pytest
import torch
import torchvision
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import SequentialSampler
from torchvision.transforms import v2

from digits.data import DigitsDataModule
from digits.data.batches import TrainingBatches
from digits.data.images import TensorImages

ON_CPU = SimpleNamespace(root_device=torch.device("cpu"))


def test_batches_are_gathers_of_the_images(sample: DigitsDataModule) -> None:
    batches = list(sample.val_dataloader())
    assert [len(target) for _, target in batches] == [250, 250]
    assert torch.equal(torch.cat([images for images, _ in batches]), sample.splits.val.images)
    assert torch.equal(torch.cat([target for _, target in batches]), sample.splits.val.target)


def indices(batches: TrainingBatches) -> list[int]:
    """The order of an epoch, from images that are their own numbers."""
    return torch.cat([target for _, target in batches]).tolist()


def numbered(count: int, **arguments) -> TrainingBatches:
    numbers = torch.arange(count)
    return TrainingBatches(TensorImages(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), numbers), 10, **arguments)


def test_training_batches_are_shuffled_and_complete(sample: DigitsDataModule) -> None:
    batches = sample.train_dataloader()
    orders = []
    for epoch in (0, 1):
        batches.order.set_epoch(epoch)
        orders.append(torch.cat([target for _, target in batches]))
    assert not torch.equal(*orders)
    assert torch.equal(orders[0].sort().values, sample.splits.train.target.sort().values)
    images, target = next(iter(batches))
    assert images.shape == (100, 1, 28, 28)
    assert target.dtype == torch.int64
    pairs = {(image.numpy().tobytes(), int(t)) for image, t in sample.splits.train}
    assert all((image.numpy().tobytes(), int(t)) in pairs for image, t in zip(images, target, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_order_comes_from_the_seed_and_the_epoch_alone(num_workers: int) -> None:
    batches = numbered(95, seed=3, num_workers=num_workers, persistent_workers=num_workers > 0)
    orders = {}
    for epoch in (0, 1, 2, 0):
        batches.order.set_epoch(epoch)
        before = torch.get_rng_state()
        order = indices(batches)
        assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from the global random numbers
        assert sorted(order) == list(range(95))
        assert orders.setdefault(epoch, order) == order
        torch.rand(7)
    assert len({tuple(order) for order in orders.values()}) == 3
    seed = int(np.random.SeedSequence(3).generate_state(1)[0])
    for epoch, order in orders.items():
        assert order == torch.randperm(95, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    other = numbered(95, seed=4)
    assert indices(other) not in orders.values()  # as it would be with the sum of seed and epoch


def test_overfitting_takes_the_same_images_in_each_epoch(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k")
    data.setup()
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, overfit_batches=2, strategy=ON_CPU)
    batches = data.train_dataloader()
    for epoch in (0, 1):
        batches.order.set_epoch(epoch)
        assert torch.equal(next(iter(batches))[0], sample.splits.train.images[:100])
    assert isinstance(batches.sampler, SequentialSampler)  # else Lightning warns, and puts its own in place


# Resuming during an epoch


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("epoch", [0, 3])
def test_resumes_during_an_epoch(epoch: int, num_workers: int) -> None:
    workers = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
    begun = numbered(95, seed=1, **workers)
    begun.order.set_epoch(epoch)
    expected = indices(begun)
    done = [target for _, (_, target) in zip(range(4), begun, strict=False)]  # workers have prepared more by now
    assert begun.state_dict() == {"epoch": epoch, "batches": 4}

    resumed = numbered(95, seed=1, **workers)
    resumed.load_state_dict(begun.state_dict())
    waiting = iter(resumed)  # Lightning asks for an iterator before it sets the epoch
    resumed.order.set_epoch(epoch)
    assert len(resumed) == 10
    rest = [target for _, target in waiting]
    assert torch.cat([*done, *rest]).tolist() == expected
    assert resumed.state_dict() == {"epoch": epoch, "batches": 10}
    resumed.order.set_epoch(epoch + 1)
    assert resumed.state_dict() == {"epoch": epoch + 1, "batches": 0}
    begun.order.set_epoch(epoch + 1)
    assert indices(resumed) == indices(begun)


def test_what_is_left_out_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    gather = TensorImages.__getitems__
    monkeypatch.setattr(TensorImages, "__getitems__", lambda self, index: loaded.append(index) or gather(self, index))
    batches = numbered(95)
    batches.load_state_dict({"epoch": 0, "batches": 7})
    assert len(list(batches)) == len(loaded) == 3


def test_an_epoch_that_ended_early_is_over() -> None:
    """As with trainer.limit_train_batches: the next one starts at its first batch."""
    batches = numbered(95)
    for _, _ in zip(range(4), batches, strict=False):
        pass
    resumed = numbered(95)
    resumed.load_state_dict(batches.state_dict())
    resumed.order.set_epoch(1)
    assert sorted(indices(resumed)) == list(range(95))
    resumed.order.set_epoch(0)
    assert sorted(indices(resumed)) == list(range(95))  # the state was for the first iteration


def test_lightning_saves_and_restores_the_state() -> None:
    loader = CombinedLoader(numbered(95))
    next(iter(loader))
    assert loader._state_dicts() == [{"epoch": 0, "batches": 1}]


def test_worker_processes_serve_the_same_batches(sample: DigitsDataModule) -> None:
    workers = DigitsDataModule("mnist5k", num_workers=2)
    workers.setup()
    for (images, target), (expected, labels) in zip(workers.val_dataloader(), sample.val_dataloader(), strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(target, labels)


def test_normalisation_is_torchvisions(sample: DigitsDataModule) -> None:
    data = DigitsDataModule("mnist5k")
    data.trainer = SimpleNamespace(training=True)
    images, target = data.on_after_batch_transfer((sample.splits.val.images[:8], sample.splits.val.target[:8]), 0)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.1307,), (0.3081,))])
    reference = [transform(torchvision.transforms.functional.to_pil_image(i)) for i in sample.splits.val.images[:8]]
    torch.testing.assert_close(images, torch.stack(reference))
    assert torch.equal(target, sample.splits.val.target[:8])


def test_augmentation_is_for_training_only_and_by_image(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    data = DigitsDataModule("mnist5k", augmentation=kornia.augmentation.RandomAffine(10, translate=(0.1, 0.1), p=1.0))
    same_digit = sample.splits.val.images[:1].repeat(6, 1, 1, 1)
    batch = (same_digit, torch.zeros(6, dtype=torch.int64))
    data.trainer = SimpleNamespace(training=False)
    plain, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(plain, data.normalise(same_digit / 255))
    data.trainer = SimpleNamespace(training=True)
    augmented, _ = data.on_after_batch_transfer(batch, 0)
    assert augmented.shape == plain.shape
    assert len({image.numpy().tobytes() for image in augmented}) == 6
    assert augmented.min() >= data.normalise(torch.tensor(0.0)) - 1e-5  # what is shifted in is background


# Several processes


def processes(world_size: int, **arguments) -> list[DigitsDataModule]:
    modules = []
    for rank in range(world_size):
        modules.append(DigitsDataModule("mnist5k", **arguments))
        modules[-1].setup()
        modules[-1].trainer = SimpleNamespace(
            world_size=world_size, global_rank=rank, training=False, overfit_batches=0, strategy=ON_CPU
        )
    return modules


def test_processes_share_the_test_images_exactly() -> None:
    modules = processes(3)
    loaders = [data.test_dataloader() for data in modules]
    assert sorted(position for loader in loaders for position in loader.sampler) == list(range(500))
    for loader, data in zip(loaders, modules, strict=True):
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images, data.splits.test.images[list(loader.sampler)])
    assert sum(len(target) for data in modules for _, target in data.val_dataloader()) == 500


def test_processes_share_the_training_images_in_one_order() -> None:
    loaders = [data.train_dataloader() for data in processes(3, seed=5)]
    orders = []
    for epoch in range(2):
        for loader in loaders:
            loader.order.set_epoch(epoch)  # as Lightning does
        shares = [[index for batch in loader.batch_sampler for index in batch] for loader in loaders]
        assert {len(share) for share in shares} == {1334}  # 4000 / 3, two images twice: all take as many steps
        assert set().union(*shares) == set(range(4000))
        orders.append(shares)
    assert orders[0] != orders[1]


def test_predicts_on_the_test_images(sample: DigitsDataModule) -> None:
    assert sample.predict_dataloader().dataset is sample.splits.test
