"""Exceptions with a meaning for the commands: what the user can put right, and what a search ends early."""

from collections.abc import Sequence


class UserError(Exception):
    """Shown as one line, without a traceback; its message names the offender and the way out."""


class Pruned(Exception):
    """A search gives a run up, because it does worse than others did by the same epoch: no failure."""


class Diverged(UserError):
    """A training whose numbers are no longer finite.

    Args:
        what: which number.
        step: how many steps the optimizer had made.
        learning_rates: of the optimizer's groups.
    """

    def __init__(self, what: str, step: int, learning_rates: Sequence[float]) -> None:
        rate = f", at learning rate {max(learning_rates):g}" if learning_rates else ""
        super().__init__(
            f"training diverged: {what} after step {step}{rate}."
            " Lower optimizer.lr, or clip with trainer.gradient_clip_val=1"
        )
