"""Learning-rate schedules: what `auto` stands for, and a warm-up in front of any."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from digits.errors import UserError


def make_schedule(make: partial[LRScheduler], optimizer: Optimizer, steps: Callable[[str], int]) -> LRScheduler:
    """Makes the schedule of an optimizer.

    An argument that is `auto` is filled in. A learning rate (`max_lr`, `base_lr`) becomes that of each of the
    optimizer's groups, anything else (`T_max`, `total_steps`) the number of times that the schedule steps in the run.

    Args:
        make: makes it from the optimizer.
        optimizer: with its groups.
        steps: gives that number; gets the name of the argument, for an error.

    Raises:
        UserError: for one highest learning rate where the optimizer's groups have several.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    given = make.keywords.get("max_lr", "auto")
    if isinstance(given, int | float) and len(set(rates)) > 1:
        raise UserError(
            f"scheduler.max_lr={given}: the optimizer's groups have learning rates of their own, which this would"
            " replace. scheduler.max_lr=auto rises to each group's own"
        )
    unknown = [name for name, value in make.keywords.items() if value == "auto"]
    return make(optimizer, **{name: rates if name.endswith("_lr") else steps(name) for name in unknown})


class WarmUp(LRScheduler):
    """Multiplies the learning rates of a schedule by a factor that rises linearly to 1.

    At the optimizer's step n, from 0, the factor is (n + 1) / (steps + 1). It steps after each step of the optimizer.
    The schedule steps inside `lifted`, where the rates are its own: so it may be any, whether it multiplies the current
    rate or sets another.

    Args:
        optimizer: with the rates that the schedule begins with.
        steps: how many of the optimizer's steps have a lower rate.
    """

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self.steps = steps
        self.scheduled = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    @property
    def is_over(self) -> bool:
        return self.last_epoch >= self.steps

    def get_lr(self) -> list[float]:  # type: ignore[override] # none is a tensor here
        factor = 1.0 if self.is_over else (self.last_epoch + 1) / (self.steps + 1)
        return [rate * factor for rate in self.scheduled]

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Shows the optimizer's groups the schedule's rates, and multiplies what the schedule makes of them."""
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, self.scheduled, strict=True):
            group["lr"] = rate
        yield
        self.scheduled = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.get_lr(), strict=True):
            group["lr"] = rate
