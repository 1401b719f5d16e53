"""Progress of long work: a tqdm bar on a terminal, one plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0


class Progress:
    """Counts units of work on stderr; `note` is shown behind the count (`flow 31 ms/frame · 12 skipped`)."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0) -> None:
        self._name = name
        self._unit = unit
        self._on_terminal = sys.stderr.isatty()
        self._bar = tqdm(desc=name, total=total, initial=done, unit=unit, leave=False, disable=not self._on_terminal)
        self._done, self._total = done, total
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more."""
        self._done += units
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        if not self._on_terminal and now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            print(f"{self._name}: {self._done}/{self._total} {self._unit} · {note}", file=sys.stderr, flush=True)
