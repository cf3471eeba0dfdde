"""Batches in an order that depends on the seed and the epoch alone, and that can be resumed during an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler


class Batches(DataLoader):
    """torch's DataLoader, for batches that are one gather each; it draws nothing from torch's global random numbers."""

    def __init__(self, images: Any, **further: Any) -> None:
        # Else a DataLoader draws a seed for its workers, even if it has none, and with persistent ones only once.
        super().__init__(images, **{"generator": torch.Generator(), "collate_fn": _as_is, **further})


class TrainingBatches(Batches):
    """Batches of training images; each epoch has an order of its own, which the seed determines.

    Lightning sets the epoch, and keeps `state_dict` in its checkpoints.

    Args:
        images: the training split, or any data set of torch's that has a length.
        batch_size: of each batch but the last.
        seed: of the order.
        rank: of this process, among the `world_size` that share the images.
        shuffle: else the order is that of the images.
        drop_last: leaves out a last batch that is smaller.
        further: arguments of torch's DataLoader.
    """

    def __init__(
        self,
        images: Any,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        **further: Any,
    ) -> None:
        # The sampler adds the epoch to its seed: from 1 and 2, a run's orders would be those of the other one before.
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.order: DistributedSampler[int] = DistributedSampler(images, world_size, rank, shuffle=shuffle, seed=mixed)
        self._rest = _Rest(self.order, batch_size, drop_last)
        self._epoch, self._handed_out = 0, 0
        self._resumed: dict[str, int] | None = None
        super().__init__(images, batch_sampler=self._rest, **further)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch names its own class
        # A generator: it starts at the first batch, when Lightning has set the epoch.
        state, self._resumed = self._resumed, None
        self._epoch = self.order.epoch
        self._handed_out = state["batches"] if state and state["epoch"] == self._epoch else 0
        self._rest.skip = self._handed_out
        # Of the workers, which may draw in a data set of the user's own.
        self.generator.manual_seed(self.order.seed + self._epoch)
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out; workers may have prepared more."""
        begun = self._epoch == self.order.epoch
        return {"epoch": self.order.epoch, "batches": self._handed_out if begun else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Has the next iteration leave out the batches that were handed out, if it is of the same epoch."""
        self._resumed = dict(state)


class _Rest(BatchSampler):
    """Batches of indices, without the first `skip`, whose images need not be loaded."""

    skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self.skip, None)


def _as_is(batch: object) -> object:
    """The images come as whole batches, so there is nothing to collate."""
    return batch
