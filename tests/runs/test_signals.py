"""A signal ends a run as a shell expects it: at once, or where its state is whole."""

import os
import signal

import pytest

from digits.runs.signals import Interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_at_once(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.code == code
    assert signal.getsignal(number) is before


def test_deferred_until_asked_for() -> None:
    with Interrupts() as interrupts:
        interrupts.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.signal == signal.SIGTERM
        with pytest.raises(SystemExit) as caught:
            interrupts.leave()
    assert caught.value.code == 143


def test_the_second_signal_does_not_wait() -> None:
    with Interrupts() as interrupts:
        interrupts.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.code == 130


def test_it_takes_the_signals_back() -> None:
    with Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library may
        interrupts.take_over()
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
