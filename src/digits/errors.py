"""Exceptions with a meaning for the commands: what the user can put right, and what a search ends early."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


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


@contextmanager
def one_line_errors(name: object, what: str) -> Iterator[None]:
    """Turns whatever the reader of a file fails with into a UserError of one line: a damaged one can break it anywhere.

    Args:
        name: of the file.
        what: is wrong with it, as far as one knows; that it cannot be opened is said in the system's words.
    """
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(str(error), 300) or type(error).__name__
        line = f"{what}: {reason}"
        if isinstance(error, OSError) and error.filename is not None:  # the file system's, no reader's
            line = str(error.strerror)
        raise UserError(f"{name}: {line}") from error
