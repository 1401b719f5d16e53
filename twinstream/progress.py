"""What is told on stderr while work goes on: notes by the logger `twinstream`, and progress.

Progress is a tqdm bar on a terminal, elsewhere a plain line after 2 seconds and every 10: a bar in
a log file is one long line of control characters. The price: short work shows nothing there.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm
from tqdm.utils import disp_len, disp_trim

from twinstream.output import one_line, plain, tell

FIRST_LINE_SECONDS, PLAIN_LINE_SECONDS = 2.0, 10.0
# The narrow one where a bar would leave no room for the first note
WIDE, NARROW = "{desc} {bar:8} {n_fmt}/{total_fmt}", "{desc} {n_fmt}/{total_fmt}"
LEFT = " {remaining} left"
SEPARATOR = " · "
MIN_CUT_COLUMNS, ENOUGH_COLUMNS = 8, 30
LOGGER = logging.getLogger("twinstream")


class _AboveBars(logging.Handler):
    """Lines on stderr as it is at that time, above the bars that are there."""

    def emit(self, record: logging.LogRecord) -> None:
        # One write: the lines of two ranks would run into one another.
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(plain(self.format(record)) + "\n")


def log_to_stderr(level: int = logging.INFO) -> None:
    """Tell notes from this level on; above INFO there is no progress either."""
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    if not any(isinstance(handler, _AboveBars) for handler in LOGGER.handlers):
        LOGGER.addHandler(_AboveBars())


# A class with parameters to typeshed alone.
class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar, then as many of its notes as the terminal has room for."""

    notes: Sequence[str] = ()

    def __str__(self) -> str:
        columns, meter = terminal_columns(), {**self.format_dict, "ncols": None}
        heads = [self.format_meter(**meter | {"bar_format": f + LEFT}) for f in (WIDE, NARROW)]
        needed = disp_len(SEPARATOR.join(("", *self.notes[:1])))
        head = heads[disp_len(heads[0]) + min(needed, ENOUGH_COLUMNS) >= columns]
        return fitted([head, *self.notes], columns)


class Progress:
    """Counts units of work on stderr; a note (`12 skipped · flow 31 ms/frame`) follows, its parts
    in the order of their weight.
    """

    def __init__(
        self, name: str, total: int, unit: str, done: int = 0, *, shown: bool = True
    ) -> None:
        self._name = name
        self._unit = unit
        self._shown = shown and LOGGER.level <= logging.INFO
        self._on_terminal = sys.stderr.isatty()
        hidden = not (self._shown and self._on_terminal)
        options: dict[str, Any] = {"leave": False, "disable": hidden, "unit_scale": unit == "B"}
        self._bar = _Bar(desc=name, total=total, initial=done, unit=unit, **options)
        self._done, self._total = done, total
        self._next_line = time.monotonic() + FIRST_LINE_SECONDS
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

    def expect(self, total: int) -> None:
        """So many units in all, where that is known only once the work has begun."""
        self._total = self._bar.total = total

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more."""
        self._done += units
        note = one_line(note)
        self._bar.notes = [part for part in note.split(SEPARATOR) if part]
        self._bar.update(units)
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        if self._shown and not self._on_terminal and now >= self._next_line:
            self._next_line = now + PLAIN_LINE_SECONDS
            begun, done_then = self._first
            left = time_left(self._done - done_then, self._total - self._done, now - begun)
            parts = (f"{self._name}: {self._done}/{self._total} {self._unit}", left, note)
            tell(SEPARATOR.join(part for part in parts if part))

    def write(self, line: str, file: TextIO) -> None:
        """Print a line above the bar, or just print it where there is no bar."""
        self._bar.write(plain(line), file=file)
        file.flush()


def fitted(parts: Sequence[str], columns: int) -> str:
    """The first parts that fit into less than so many columns; the second one is cut if need be.

    `[preprocess 3/9, 12 skipped, 48 frames/s]`, 30 -> `preprocess 3/9 · 12 skipped`.
    """
    line, room = parts[0], columns - 1
    for number, part in enumerate(parts[1:]):
        longer = line + SEPARATOR + part
        if disp_len(longer) > room:
            cut = room - disp_len(line + SEPARATOR) - 1
            if number == 0 and cut >= MIN_CUT_COLUMNS:
                line += SEPARATOR + disp_trim(part, cut) + "…"
            break
        line = longer
    return disp_trim(line, room)


def terminal_columns() -> int:
    """Width of the terminal on stderr: COLUMNS where it is set; 80 where nobody knows."""
    try:
        return int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        pass
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def time_left(num_done: int, num_left: int, seconds: float) -> str:
    """`2:05:00 left` at the rate so far; empty when no unit is done yet."""
    if not num_done:
        return ""
    return f"{timedelta(seconds=round(seconds / num_done * num_left))} left"
