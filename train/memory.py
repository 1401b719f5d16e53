"""Keep freed memory in the process, for the next step to use again.

A training step frees blocks that the next one asks for again. By default glibc returns blocks of
that size to the kernel, which then maps them page by page and zeroes each page: up to a tenth of a
step on a CPU, and of the time for a batch in a worker. The price: the process never shrinks.
"""

import ctypes
import sys

# Options of mallopt and their largest value, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
# The largest M_MMAP_THRESHOLD that older versions accept
OLDER = 32 << 20


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
