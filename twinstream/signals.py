"""SIGINT and SIGTERM, noticed between two steps of the work instead of in the middle of one.

An exception that a handler raises can strike inside a destructor, where Python drops it: the signal
is then lost. Here the handler only takes note, and the work asks. The price: it stops at its next
step, not at once; a second signal does what it did before.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """The first signal that came, or None; made by `noted_signals`."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def listen(self) -> None:
        """Take the signals over, again if a library has put a handler of its own in place."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back to whom they belonged to."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """End as the signal asks: KeyboardInterrupt for SIGINT, SystemExit with 143 for SIGTERM."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.restore()


@contextmanager
def noted_signals() -> Iterator[StopSignal]:
    """Within the block signals are only noted; the main thread's alone."""
    stop = StopSignal()
    stop.listen()
    try:
        yield stop
    finally:
        stop.restore()
