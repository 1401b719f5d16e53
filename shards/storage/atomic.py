"""Files that exist whole or not at all: a temporary name, fsync, rename, fsync of the folder.

The price is two flushes a file; a crash, a kill or a full disk then leaves at most a `.NAME.*.tmp`,
which `remove_temporaries` clears at the next start. What goes to an object store is written to a
temporary file first and sent when it is whole; an upload that is cut leaves no visible object.
"""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from twinstream.errors import InputError
from twinstream.shards.storage.remote import RemotePath
from twinstream.shards.storage.walk import files_below

# Longest name of a file on nearly every file system.
NAME_BYTES = 255
FULL = {errno.ENOSPC, errno.EDQUOT}
# What only a file that is written gives; EFBIG is a file system's or a user's limit of a file.
WRITE_FAULTS = frozenset({*FULL, errno.EROFS, errno.EFBIG})


@contextmanager
def atomic_file(path: Path | RemotePath) -> Iterator[BinaryIO]:
    """A binary file that gets the name `path` if the block succeeds and is removed if it fails.

    Closing the file inside the block cancels it: nothing appears, and what was at `path` stays.
    An OSError of a full disk names `path`.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryFile() as spool:
            yield spool
            if not spool.closed:
                path.upload(spool)
        return
    # In the same folder, as a rename is atomic within one file system only. The random part keeps
    # two processes that write the same file apart.
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, "xb") as file:
            yield file
            if file.closed:
                return
            file.flush()
            # Before the rename: else a power cut may leave the new name on an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        # Python's write and fsync do not say of which file. Another error without a name may be of
        # a file that the block reads.
        unnamed = error.filename is None and error.errno in WRITE_FAULTS
        if unnamed or str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """`.NAME.1a2b3c4d.tmp`; a long NAME is cut, so that a disk takes it wherever it takes NAME."""
    end = f".{secrets.token_hex(4)}.tmp"
    kept = os.fsencode(name)[: NAME_BYTES - len(end) - 1]
    return f".{kept.decode(errors='ignore')}{end}"


def write_atomically(path: Path | RemotePath, data: bytes) -> None:
    """Write `data` as the whole of `path`, or leave what was there."""
    with atomic_file(path) as file:
        file.write(data)


def remove_temporaries(folder: Path | RemotePath) -> None:
    """Remove what a killed run left below `folder`; no other run may be writing there."""
    # A store never shows an unfinished object, so there is nothing to remove.
    if isinstance(folder, Path):
        for path in [*files_below(folder)]:
            if fnmatchcase(path.name, ".*.tmp"):
                path.unlink(missing_ok=True)


@contextmanager
def one_line_disk_faults(
    path: Path | RemotePath,
    kept: str,
    again: str,
    *,
    option: str = "",
    faults: frozenset[int] | None = WRITE_FAULTS,
) -> Iterator[None]:
    """A full or read-only disk in the block is an InputError; with None for `faults` any OSError.

    `OPTION PATH: No space left on device; KEPT, make room and AGAIN`: what is not lost, and what to
    do. Files for a store fill the folder of temporary files.
    """
    try:
        yield
    except OSError as error:
        if faults is not None and error.errno not in faults:
            raise
        where = f"{option} {path}" if isinstance(path, Path) else f"TMPDIR {tempfile.gettempdir()}"
        room = "make room and " if error.errno in FULL else ""
        raise InputError(f"{where.strip()}: {error.strerror}; {kept}, {room}{again}") from error


def _sync_folder(folder: Path) -> None:
    # Windows has no such flag, as it opens no folders: its own journal keeps the new name.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
