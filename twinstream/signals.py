"""SIGINT and SIGTERM, noted by a handler and acted on between two steps of the work.

An exception raised in a handler can fall into a destructor, where Python drops it, and the signal
is lost. Here the handler only notes the signal, and the work asks for it. The price: the work stops
at its next step, not at once. A second signal is handled as before `noted_signals`.
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
        """Set our handler for both signals; again, if a library has set one of its own."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def restore(self) -> None:
        """Set the handlers that were there before."""
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
        # So that a second Ctrl-C stops a step that hangs.
        self.restore()


@contextmanager
def noted_signals() -> Iterator[StopSignal]:
    """Signals are only noted within the block; works in the main thread alone."""
    stop = StopSignal()
    stop.listen()
    try:
        yield stop
    finally:
        stop.restore()
