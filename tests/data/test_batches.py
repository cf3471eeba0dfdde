"""Batches: the images of their split, shuffled for training, normalised, and shared among processes."""

from types import SimpleNamespace

import kornia
import torch
import torchvision
from torchvision.transforms import v2

from digits.data import DigitsDataModule


def test_batches_are_gathers_of_the_images(sample: DigitsDataModule) -> None:
    batches = list(sample.val_dataloader())
    assert [len(target) for _, target in batches] == [250, 250]
    assert torch.equal(torch.cat([images for images, _ in batches]), sample.splits.val.images)
    assert torch.equal(torch.cat([target for _, target in batches]), sample.splits.val.target)


def test_training_batches_are_shuffled_and_complete(sample: DigitsDataModule) -> None:
    torch.manual_seed(0)
    first, second = (torch.cat([target for _, target in sample.train_dataloader()]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, sample.splits.train.target.sort().values)
    images, target = next(iter(sample.train_dataloader()))
    assert images.shape == (100, 1, 28, 28)
    assert target.dtype == torch.int64
    pairs = {(image.numpy().tobytes(), int(t)) for image, t in sample.splits.train}
    assert all((image.numpy().tobytes(), int(t)) in pairs for image, t in zip(images, target, strict=True))


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
        modules[-1].trainer = SimpleNamespace(world_size=world_size, global_rank=rank, training=False)
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
    torch.manual_seed(5)
    loaders = [data.train_dataloader() for data in processes(3)]
    orders = []
    for epoch in range(2):
        for loader in loaders:
            loader.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does
        shares = [[index for batch in loader.batch_sampler for index in batch] for loader in loaders]
        assert {len(share) for share in shares} == {1334}  # 4000 / 3, two images twice: all take as many steps
        assert set().union(*shares) == set(range(4000))
        orders.append(shares)
    assert orders[0] != orders[1]


def test_predicts_on_the_test_images(sample: DigitsDataModule) -> None:
    assert sample.predict_dataloader().dataset is sample.splits.test
