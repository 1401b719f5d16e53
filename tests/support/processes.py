"""Workers as the kernel sees them, so that tests can kill the right one."""

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path


def worker_pids(driver: int) -> list[int]:
    """Every worker process below the process `driver`."""
    found = []
    for pid, name in descendants(driver):
        if name.startswith("ray::RayWorker") or "cluster.processes import serve" in name:
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


def opened_paths(pid: int) -> set[Path]:
    """What a process has open, sockets on the disk included; nothing of one that has ended."""
    names = _open_files(pid)
    sockets = {name[8:-1] for name in names if name.startswith("socket:[")}
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    # Num, RefCount, Protocol, Flags, Type, St, Inode and, of a socket on the disk, its path
    fields = [line.split() for line in lines]
    bound = {one[7] for one in fields if len(one) == 8 and one[6] in sockets}
    return {Path(name) for name in {*names, *bound} if name.startswith("/")}


def listening_addresses(pid: int) -> set[str]:
    """The addresses at which a process takes connections by TCP."""
    sockets = {name[8:-1] for name in _open_files(pid) if name.startswith("socket:[")}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                words = struct.iter_unpack(">I", bytes.fromhex(fields[1].partition(":")[0]))
                packed = b"".join(struct.pack("=I", word) for (word,) in words)
                found.add(socket.inet_ntop(family, packed))
    return found


def readers(path: Path, driver: int) -> list[int]:
    """Every process below `driver` that has this file open."""
    return [pid for pid, _ in descendants(driver) if str(path) in _open_files(pid)]


def _open_files(pid: int) -> set[str]:
    found = set()
    # The process, or one of its files, may end while it is looked at.
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(entry))
    return found
