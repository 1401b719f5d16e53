"""What a Ray that is started on this machine needs, asked before it is started.

Ray itself tells of a full disk or a limit after half a minute, in pages, or not at all. Its files
and sockets lie in a folder that is ours alone: it gives its own folders to everyone. The limits are
those below which Ray 2.60 does not start; above them it may still fail, which is told then.
"""

import os
import resource
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS
from pathlib import Path
from typing import Any

from twinstream.errors import InputError

# A socket's path has at most 107 bytes, and Ray adds its own to the folder of temporary files.
RAY_SOCKET = "/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
FILES = "r"
PREFIX = "ts-"
# mkdtemp adds 8 random characters.
MAX_TEMP_DIR_BYTES = 107 - len(RAY_SOCKET) - len(f"/{PREFIX}12345678")
# Ray's least is 75 MiB. Nothing of ours needs it: neither frames nor shards enter Ray.
OBJECT_STORE_BYTES = 80 << 20
LOG_BYTES = 16 << 20
MIN_ADDRESS_BYTES = 2 << 30
MIN_OPEN_FILES = 64
SHM = "/dev/shm"
# What Ray's own logs say of a machine that lacks something.
LACKS = [os.strerror(number) for number in (ENOSPC, EROFS, ENOMEM, EMFILE, ENFILE, EAGAIN)]
LACKS += ["bad_alloc", "failed to map segment"]
# And what its raylet says where its agents need more than the 15 s that it always gives them.
AGENTS_LATE = "Timed out waiting for file"
# Without one of these no Ray starts; it is asked so often whether one has ended.
SERVERS = {"gcs_server", "raylet"}
WATCH_SECONDS = 1.0
WITHOUT = "or use --local, which needs no Ray"


def set_environment() -> None:
    """Variables for a Ray of this machine, which reads them when it is imported."""
    # Otherwise ray replaces 127.0.0.1 by the machine's address and listens on every interface.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Waits in Ray's C++ that no signal ends: for the first server's port, so that a failure is told
    # within 30 s, and for the second to register, which is asked again until 30 s are over.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "20")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "5")
    # Ray would write one into a home that a container may lack, and that others may read.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def require_limits() -> None:
    """InputError where a limit of this process is below what Ray needs to start."""
    limits = (
        ("v", resource.RLIMIT_AS, 1024, MIN_ADDRESS_BYTES, "KiB of address space"),
        # Ray raises the soft limit itself.
        ("n", resource.RLIMIT_NOFILE, 1, MIN_OPEN_FILES, "open files"),
    )
    for letter, kind, unit, least, what in limits:
        soft, hard = resource.getrlimit(kind)
        limit = hard if kind == resource.RLIMIT_NOFILE else soft
        if limit != resource.RLIM_INFINITY and limit < least:
            raise InputError(
                f"ulimit -{letter} {limit // unit}: Ray needs {least // unit} {what}; raise it, "
                f"{WITHOUT}"
            )


@contextmanager
def private_temp_dir() -> Iterator[Path]:
    """A folder for Ray's files and sockets that nobody else can enter; removed at the end.

    In RAY_TMPDIR or TMPDIR, or in /tmp where its path would be too long for a socket. InputError
    where it cannot be made or has no room.
    """
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    usual = os.path.abspath(os.environ.get(name) or "/tmp")
    is_short = len(os.fsencode(usual)) <= MAX_TEMP_DIR_BYTES
    parent = usual if is_short else "/tmp"
    where = f"{name} {usual}"
    if not is_short:
        where += ": too long for Ray's sockets, and /tmp"
    advice = f"set RAY_TMPDIR to a folder of at most {MAX_TEMP_DIR_BYTES} characters, {WITHOUT}"
    needed = LOG_BYTES + (0 if shm_has_room() else OBJECT_STORE_BYTES)
    try:
        if (room := _room(parent)) < needed:
            raise InputError(
                f"{where}: has room for {room >> 20} MiB, Ray needs {needed >> 20}; make room, "
                f"{advice}"
            )
        # Of mode 0700, as all that mkdtemp makes.
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    except OSError as error:
        raise InputError(f"{where}: cannot be written to ({error.strerror}); {advice}") from error
    try:
        yield folder
    finally:
        # Processes of Ray that are ending may still write there.
        shutil.rmtree(folder, ignore_errors=True)


def shm_has_room() -> bool:
    """Whether Ray's object store can lie in shared memory; else its place is among the files."""
    return os.access(SHM, os.W_OK | os.X_OK) and _room(SHM) >= OBJECT_STORE_BYTES


@contextmanager
def watched_start() -> Iterator[None]:
    """ChildProcessError as soon as a server of Ray ends while the block lasts.

    Ray waits on for one that has ended. Seen on Linux, and from the main thread alone.
    """

    def look(*_: Any) -> None:
        if ended := _servers("Z") - before:
            raise ChildProcessError(f"{' and '.join(sorted(name for _, name in ended))} has ended")
        # Not an interval, in which one look could interrupt another.
        signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS)

    # Those of an earlier Ray may still be ending.
    before = _servers()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _servers(state: str = "") -> set[tuple[str, str]]:
    """Number and name of each server that this process has started; `Z`: that ended, unasked."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # `PID (NAME) STATE PARENT ...`; the name of an ended process stays.
            number, _, rest = stat.read_text(errors="replace").partition(" (")
            name, _, rest = rest.rpartition(") ")
            its_state, parent, *_ = rest.split()
            if state in ("", its_state) and parent == str(os.getpid()) and name in SERVERS:
                found.add((number, name))
    return found


def what_it_lacked(temp_dir: Path) -> str | None:
    """The first word in Ray's logs of something that the machine lacks: `raylet.err: ...`."""
    return _logged(temp_dir, "*.*", LACKS)


def was_too_busy(temp_dir: Path) -> bool:
    """Whether Ray's agents were late: the next start may succeed."""
    return _logged(temp_dir, "raylet.*", [AGENTS_LATE]) is not None


def _logged(temp_dir: Path, names: str, wanted: list[str]) -> str | None:
    """The first of the wanted words in those of Ray's logs, behind the log's name."""
    for log in sorted(temp_dir.glob(f"{FILES}/session_2*/logs/{names}")):
        with suppress(OSError):
            text = log.read_text(errors="replace")
            for found in (each for each in wanted if each in text):
                return f"{log.name}: {found}"
    return None


def end_leftovers(temp_dir: Path) -> None:
    """Kill what a start that failed has left: it would make the folder again and write there."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # No other process has the folder's random name among its arguments.
            if os.fsencode(temp_dir) in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def _room(folder: str) -> int:
    """Bytes that a user may still write below a folder."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
