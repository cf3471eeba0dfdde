"""Batches of indices that can be resumed during an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler


class ResumableBatches(BatchSampler):
    """Batches of indices, of which the first epoch may begin in its middle.

    Args:
        sampler: the order of the images, drawn anew for each epoch from torch's random numbers.
        batch_size: of each but the last.
        position: where the first epoch begins, as `LastCheckpoint` keeps it; None: at its start.
        draws_before: random numbers that the DataLoader draws for a later epoch before the order is drawn.
    """

    def __init__(
        self, sampler: Sampler[int], batch_size: int, position: dict[str, Any] | None, draws_before: int
    ) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.before_order = torch.get_rng_state()
        self._position = position
        self._draws_before = draws_before

    def __iter__(self) -> Iterator[list[int]]:
        position, self._position = self._position, None
        if position is None:
            self.before_order = torch.get_rng_state()
            yield from super().__iter__()
            return
        done = position["batches"]
        if done:
            torch.set_rng_state(position["before_order"])
        else:
            _set_random_states(position)
            for _ in range(self._draws_before):
                torch.empty((), dtype=torch.int64).random_()
        self.before_order = torch.get_rng_state()
        rest = islice(super().__iter__(), done, None)
        first = next(rest)  # the order is drawn now
        if done:
            _set_random_states(position)
        yield first
        yield from rest


def _set_random_states(position: dict[str, Any]) -> None:
    torch.set_rng_state(position["random"])
    if position["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(position["random_cuda"])
