"""The disk that a dataset is written to: preparing it, and the error when it is full.

A full disk ends the run with an InputError instead of a traceback. Finished shards are whole,
because each is written under a temporary name first, so the same command resumes.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.storage.atomic import remove_temporaries, write_atomically
from twinstream.shards.storage.location import Location

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@contextmanager
def one_line_disk_faults(out: Location) -> Iterator[None]:
    """A full or read-only disk in the block is an InputError that says how to resume."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise InputError(
            f"shards.path {out}: {error.strerror}; finished shards are kept, make room and run the "
            "same command again"
        ) from error


def prepare_output(out: Location) -> None:
    """Make the folder, remove a killed run's temporary files and check that it can be written to.

    An object store needs none of this.
    """
    if not isinstance(out, Path):
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_temporaries(out)
        # Without this test write a read-only folder would be noticed only after the first video.
        probe = out / f".{FILE_NAME}.probe.tmp"
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"shards.path {out}: cannot be written to ({error.strerror})") from error
