"""Freed memory stays with the process.

A training step frees what the next one asks for again. glibc hands blocks of that size back to the
kernel, which then maps them page by page and zeroes each: up to a tenth of a step on a CPU, and of
a batch in the process that decodes it.
"""

import ctypes

# mallopt's parameters and their largest value, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
# What older versions accept at most for M_MMAP_THRESHOLD
OLDER = 32 << 20


def keep_freed_memory() -> None:
    """From now on, in this process; nothing where the C library has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, LARGEST)
        if not mallopt(M_MMAP_THRESHOLD, LARGEST):
            mallopt(M_MMAP_THRESHOLD, OLDER)
