"""How many CPU cores this process may use; its own module, as every program asks."""

import os


def usable_cores() -> int:
    """Those of its affinity, which a batch system or container may narrow; else all there are."""
    # Linux alone has it; process_cpu_count of Python 3.13 says the same.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
