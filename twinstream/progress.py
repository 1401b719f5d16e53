"""Progress of long work: a tqdm bar on a terminal, elsewhere a plain line every 10 seconds.

A bar in a log file is one long line of control characters. The price: short work shows nothing
there.
"""

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from twinstream.output import one_line, plain, tell

PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Counts units of work on stderr; a note (`flow 31 ms/frame · 12 skipped`) follows."""

    def __init__(
        self, name: str, total: int, unit: str, done: int = 0, *, shown: bool = True
    ) -> None:
        self._name = name
        self._unit = unit
        self._shown = shown
        self._on_terminal = sys.stderr.isatty()
        hidden = not (shown and self._on_terminal)
        self._bar = tqdm(
            desc=name, total=total, initial=done, unit=unit, leave=False, disable=hidden
        )
        self._done, self._total = done, total
        self._last_line = time.monotonic()
        # When the first unit was done, and the count at that time: the time before it is start-up
        # and would make the rate too low.
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more."""
        self._done += units
        note = one_line(note)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        if self._shown and not self._on_terminal and now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            begun, done_then = self._first
            left = time_left(self._done - done_then, self._total - self._done, now - begun)
            parts = (f"{self._name}: {self._done}/{self._total} {self._unit}", left, note)
            tell(" · ".join(part for part in parts if part))

    def write(self, line: str, file: TextIO) -> None:
        """Print a line above the bar, or just print it where there is no bar."""
        self._bar.write(plain(line), file=file)
        file.flush()


def time_left(num_done: int, num_left: int, seconds: float) -> str:
    """`2:05:00 left` at the rate so far; empty when no unit is done yet."""
    if not num_done:
        return ""
    return f"{timedelta(seconds=round(seconds / num_done * num_left))} left"
