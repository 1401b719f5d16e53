"""Ray's workers as the kernel sees them, so that tests can kill the right one."""

import os
from pathlib import Path


def worker_pids(driver: int) -> list[int]:
    """Every worker process below the process `driver`."""
    found = []
    for pid, name in descendants(driver):
        if name.startswith("ray::Worker"):
            found.append(pid)
    return found


def descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, command line) of the children of a process, and of theirs."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # From the right, as the command name in the brackets may contain brackets and spaces.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, IndexError):
            # The process ended while /proc was read.
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += [(child, names[child]) for child in below]
        left += below
    return found


def readers(path: Path, driver: int) -> list[int]:
    """Every process below `driver` that has this file open."""
    found = []
    for pid, _ in descendants(driver):
        try:
            opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        if str(path) in opened:
            found.append(pid)
    return found
