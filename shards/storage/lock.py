"""One run at a time in a folder: a lock on a disk, a record with a heartbeat in an object store.

On a disk it is a POSIX record lock. The kernel drops it when the process ends, kill -9 included,
and forked loader processes do not inherit it, as they would flock's. The price: nothing else in the
process may open the file, as closing it would drop the lock.

A store has no locks, so the owner rewrites a record every BEAT_SECONDS. The clocks of two machines
may differ, so a record counts as alive if it changes while it is watched. The price: a start after
a crash waits WATCH_SECONDS and every start SETTLE_SECONDS. Two starts go on together only where the
write of one takes longer than that; the first of them finds the other's record at its next beat.
"""

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from twinstream.errors import InputError
from twinstream.progress import LOGGER
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.remote import RemotePath

OWNER_NAME = ".owner.json"
BEAT_SECONDS, WATCH_SECONDS, SETTLE_SECONDS = 5.0, 20.0, 2.0
# Asked so often while a record is watched
POLL_SECONDS = 1.0
SIGNED_OFF = b"{}"
# Of a folder that others remove again and again
MAX_STARTS = 100
IS_LOCKED = {errno.EACCES, errno.EAGAIN}
HAS_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
# What this process holds: the kernel would grant it the same lock a second time.
_held: dict[Path, bytes] = {}


@contextmanager
def owned(
    folder: Path | RemotePath, what: str, option: str | None = "--out", name: str = OWNER_NAME
) -> Iterator[Callable[[], None]]:
    """Make `folder` and hold it for this process while the block lasts.

    `what` is the command, for the message to others; `option` is what they can choose another of.
    What is held is the folder's `name`: two of different names go on side by side.
    Yields a check to call between two steps: InputError when another run has taken the folder, as
    can happen in a store. InputError where another run holds it or it cannot be written to. Folders
    that were made here and are empty at the end are removed.
    """
    owner = {"process": os.getpid(), "host": socket.gethostname(), "what": what}
    other = f" or choose another {option}" if option else ""
    advice = f"wait for it{other}"
    if isinstance(folder, RemotePath):
        with _recorded(folder / name, owner, advice) as check:
            yield check
        return
    path = folder.resolve() / name
    try:
        made, file = _made_and_locked(folder, path)
    except OSError as error:
        where = f"{option} {folder}" if option else folder
        # One that another user's run has left behind: the folder itself can be written to.
        hint = f"; where no run is left, remove {path}" if path.is_file() else ""
        raise InputError(f"{where}: cannot be written to ({error.strerror}){hint}") from error
    if file is None:
        raise _refusal(folder, _held.get(path) or _read(path), advice)
    _held[path] = json.dumps(owner).encode()
    try:
        # The lock holds without it: a disk that is full is told by who needs the room.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.write(file, _held[path])
        yield lambda: None
    finally:
        del _held[path]
        # Not the error to tell, where the disk has turned read-only.
        with suppress(OSError):
            # While it is locked: who has opened it meanwhile sees that the name is gone.
            path.unlink()
        os.close(file)
        with suppress(OSError):
            # Windows removes no file that is open, and has none of these locks.
            if os.name == "nt":
                path.unlink(missing_ok=True)
            for each in made:
                each.rmdir()


def _made_and_locked(folder: Path, path: Path) -> tuple[list[Path], int | None]:
    """The folders that had to be made, `folder` first, and the locked file, or None."""
    for _ in range(MAX_STARTS):
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        # A run that ends has removed the folder that it had made and left empty.
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return made, None if path in _held else _locked_file(path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _locked_file(path: Path) -> int | None:
    """The file, opened and locked until it is closed; None where another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Imported here: Windows does not have it.
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the name before it let the lock go.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except ImportError:
            return _without_lock(path, file, "this system has none")
        except OSError as error:
            if error.errno in HAS_NO_LOCKS:
                return _without_lock(path, file, str(error.strerror))
            os.close(file)
            if error.errno in IS_LOCKED:
                return None
            raise
        os.close(file)


def _without_lock(path: Path, file: int, reason: str) -> int:
    LOGGER.warning(
        f"{path.parent}: cannot be locked ({reason}); see to it that no other run writes there"
    )
    return file


@contextmanager
def _recorded(path: RemotePath, owner: dict[str, Any], advice: str) -> Iterator[Callable[[], None]]:
    """The same in a store."""
    folder, own = path.parent, secrets.token_hex(8)
    ended, lost = threading.Event(), threading.Event()

    def sign() -> None:
        # Always as long: a reader knows the length of the record before.
        record = {"id": own, "beat": secrets.token_hex(8), **owner}
        write_atomically(path, json.dumps(record).encode())

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            # A store that does not answer is asked again at the next beat.
            with suppress(OSError):
                if _owner(_read(path)).get("id", own) != own:
                    lost.set()
                    return
                sign()

    def check() -> None:
        if lost.is_set():
            raise _refusal(folder, _read(path), f"it has taken over from this run; {advice}")

    _watch(folder, path, advice)
    thread = threading.Thread(target=beat, daemon=True)
    try:
        sign()
        time.sleep(SETTLE_SECONDS)
        if _owner(found := _read(path)).get("id") != own:
            raise _refusal(folder, found, advice)
        thread.start()
        yield check
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
        with suppress(OSError):
            if _owner(_read(path)).get("id") == own:
                # pyarrow marks a folder that becomes empty with an object, after which rclone's
                # server takes no other object there.
                if len(folder.file_sizes()) == 1:
                    write_atomically(path, SIGNED_OFF)
                else:
                    path.unlink()


def _watch(folder: RemotePath, path: RemotePath, advice: str) -> None:
    """Return when there is no record or it has not changed for WATCH_SECONDS; else InputError."""
    found = _read(path)
    if found in (b"", SIGNED_OFF):
        return
    LOGGER.warning(
        f"{folder}: {_name(found)} has not signed off; watching for {WATCH_SECONDS:g} s whether it "
        "is alive, and going on if not"
    )
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        now = _read(path)
        if now in (b"", SIGNED_OFF):
            return
        if now != found:
            raise _refusal(folder, now, advice)


def _read(path: Path | RemotePath) -> bytes:
    """What the owner has written, nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _owner(record: bytes) -> dict[str, Any]:
    """The record as a dict; empty where it is cut."""
    try:
        found = json.loads(record)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(record: bytes) -> str:
    found = _owner(record)
    if not {"process", "host", "what"} <= found.keys():
        return "another process"
    return f"process {found['process']} on host {found['host']} ({found['what']})"


def _refusal(folder: Path | RemotePath, record: bytes, advice: str) -> InputError:
    return InputError(f"{folder}: in use by {_name(record)}; {advice}")
