"""The disk that a dataset is written to: made ready, and what is said when it is full."""

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
def disk_faults_told(out: Location) -> Iterator[None]:
    """A disk that fills up in the block is an InputError: what is whole stays, and the same command
    resumes.
    """
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
    """Make the folder, clear what a killed run left, and see that it can be written to; a store has
    nothing to make.
    """
    if not isinstance(out, Path):
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_temporaries(out)
        probe = out / f".{FILE_NAME}.probe.tmp"
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"shards.path {out}: cannot be written to ({error.strerror})") from error
