"""How much memory there is, and how freed memory stays in the process for the next step.

A training step frees blocks that the next one asks for again. By default glibc returns blocks of
that size to the kernel, which then maps them page by page and zeroes each page: up to a tenth of a
step on a CPU, and of the time for a batch in a worker. The price: the process never shrinks.
"""

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

# Options of mallopt and their largest value, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
# The largest M_MMAP_THRESHOLD that older versions accept
OLDER = 32 << 20
# Where Linux says what a container may use
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@cache
def machine_bytes() -> int | None:
    """Memory of this machine, or what a container may use of it; None where nothing says."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in CGROUP_LIMITS:
        # `max` stands for none.
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits, default=None)


def keep_freed_memory() -> None:
    """Keep it from now on, in this process; without effect where libc has no mallopt."""
    # Windows has no library of the process itself to open.
    if sys.platform == "win32":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, LARGEST)
        if not mallopt(M_MMAP_THRESHOLD, LARGEST):
            mallopt(M_MMAP_THRESHOLD, OLDER)
