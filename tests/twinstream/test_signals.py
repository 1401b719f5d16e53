"""Signals that come at a bad moment."""

import os
import signal
from collections.abc import Iterator

import pytest

from twinstream.signals import noted_signals


@pytest.fixture(autouse=True)
def _sigint_interrupts() -> Iterator[None]:
    """A shell starts what it puts into the background with SIGINT ignored, and Python
    leaves it so.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignalsItsProcess:
    """Its destructor is struck by SIGINT."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_within_a_destructor_is_not_lost() -> None:
    with noted_signals() as stop:
        stop.check()
        SignalsItsProcess()
        with pytest.raises(KeyboardInterrupt):
            stop.check()


def test_sigterm_ends_with_143() -> None:
    with noted_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            stop.check()
    assert ended.value.code == 143


def test_a_second_signal_acts_at_once() -> None:
    with noted_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with noted_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        stop.listen()
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
