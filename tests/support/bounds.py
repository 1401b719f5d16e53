"""Bounds for code that reads what someone forged: neither for ever nor all memory."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS, MORE_BYTES = 60.0, 2**30


@contextmanager
def bounded() -> Iterator[None]:
    """A hang in the block is a TimeoutError, and more than a GiB of memory a MemoryError."""

    def stop(*arguments: object) -> None:
        raise TimeoutError(f"no end within {SECONDS} s")

    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
