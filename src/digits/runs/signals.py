"""How a signal ends a run: once what is done so far is saved."""

import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn


class Interrupts:
    """SIGINT (Ctrl-C) and SIGTERM end the process with 130 or 143: at once, or while `deferred`, when it is asked.

    As a context manager it takes the signals over; a second signal does not wait.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The signal that came."""
        return signal.Signals(self.signal).name if self.signal else "an exit of its own"

    def __enter__(self) -> "Interrupts":
        self._before = self.take_over()
        return self

    def take_over(self) -> dict[int, Any]:
        """Puts this handler in place, also after another took it; the handlers before."""
        if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
            return {}
        return {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        again, self.signal = self.signal, number
        if again or not self.deferred:
            self.leave()

    def leave(self) -> NoReturn:
        """Ends the process as a shell expects it of one that the signal ended."""
        sys.exit(128 + (self.signal or 0))
