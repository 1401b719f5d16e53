"""Blocks of remote shards on a local disk, shared by the processes of a machine.

An epoch reads 0.3 of a video's 9 MB, at other offsets each time. A cache of whole shards would
fetch 30 times what is needed, again and again on a disk smaller than the dataset. So the file of a
shard here is sparse and fills block by block. A block is valid if its checksum, written after it,
fits; a torn or damaged one is fetched again. A file is named by the SHA-256 of its shard. Room is
made by removing whole files, the least recently used first; a process that has one open can still
read it.
"""

import os
import time
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from twinstream.errors import InputError
from twinstream.progress import LOGGER
from twinstream.shards.storage.location import Location, read_range

BLOCK_BYTES = 64 * 2**10
SUM_BYTES = 4
# The unit of st_blocks.
DISK_BLOCK_BYTES = 512
HEAD_ALIGNMENT = 4096
# Room is looked for whenever a process has written STEP of the whole, and made down to KEPT of it:
# 32 processes that write at the same time stay within it.
STEP, KEPT = 1 / 256, 7 / 8
TOUCH_SECONDS = 60.0
SUFFIX, LOCK_NAME = ".blocks", "lock"


class CachedFile(Protocol):
    """What the cache must know of a file; a manifest's FileEntry says it."""

    @property
    def num_bytes(self) -> int:
        """Its length."""

    @property
    def sha256(self) -> str:
        """Of its bytes; it names the file in the cache."""


@dataclass
class BlockCache:
    """A folder of cached blocks that stays below `max_bytes`; made by `open_cache`."""

    folder: Path
    max_bytes: int
    is_off: bool = field(default=False, init=False)
    _unaccounted: int = field(default=0, init=False)

    def read(self, tar: Location, entry: CachedFile, begin: int, num_bytes: int) -> bytes:
        """`num_bytes` of `tar` from `begin` on, fewer at its end; fetches absent blocks."""
        end = min(begin + num_bytes, entry.num_bytes)
        if self.is_off or begin >= end:
            return read_range(tar, begin, num_bytes)
        wanted = range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        path = self.folder / f"{entry.sha256}{SUFFIX}"
        blocks = self._load(path, entry, wanted)
        for run in _runs(wanted, blocks):
            fetched = _fetch(tar, entry, run)
            # A disk that has failed already must not be reported a second time.
            if not self.is_off:
                self._store(path, entry, fetched)
            blocks |= fetched
        start = wanted.start * BLOCK_BYTES
        return b"".join(blocks[number] for number in wanted)[begin - start : end - start]

    def _load(self, path: Path, entry: CachedFile, wanted: range) -> dict[int, bytes]:
        """Those of the wanted blocks that are here and sound."""
        with (
            self._off_when_disk_fails(),
            suppress(FileNotFoundError),
            _opened(path, os.O_RDONLY) as file,
        ):
            # The modification time orders files by last use; one write a minute is exact enough.
            if time.time() - os.fstat(file).st_mtime > TOUCH_SECONDS:
                os.utime(path)
            sums = os.pread(file, SUM_BYTES * len(wanted), SUM_BYTES * wanted.start)
            data = os.pread(file, BLOCK_BYTES * len(wanted), _block_offset(entry, wanted.start))
            pieces = {
                number: data[position * BLOCK_BYTES :][:BLOCK_BYTES]
                for position, number in enumerate(wanted)
            }
            return {
                number: piece
                for position, (number, piece) in enumerate(pieces.items())
                if _sum(piece) == sums[SUM_BYTES * position :][:SUM_BYTES]
            }
        return {}

    def _store(self, path: Path, entry: CachedFile, blocks: dict[int, bytes]) -> None:
        with self._off_when_disk_fails(), _opened(path, os.O_RDWR | os.O_CREAT) as file:
            if os.fstat(file).st_size == 0:
                os.ftruncate(file, _block_offset(entry, 0) + entry.num_bytes)
            for number, data in blocks.items():
                # The checksum second: a process that is killed in between leaves an invalid block.
                os.pwrite(file, data, _block_offset(entry, number))
                os.pwrite(file, _sum(data), SUM_BYTES * number)
            self._unaccounted += sum(map(len, blocks.values()))
        if self._unaccounted > STEP * self.max_bytes:
            self._unaccounted = 0
            with self._off_when_disk_fails():
                _make_room(self.folder, int(KEPT * self.max_bytes))

    @contextmanager
    def _off_when_disk_fails(self) -> Iterator[None]:
        """Switch the cache off in this process when the disk fails, with one line on stderr."""
        try:
            yield
        except OSError as error:
            self.is_off = True
            LOGGER.warning(
                f"shards.cache_dir {self.folder}: {error.strerror}; reading without the cache"
            )


def open_cache(folder: str | None, max_bytes: int) -> BlockCache | None:
    """The cache in this folder, which is created; None for None.

    InputError if it cannot be written to, or where a system has no file locks.
    """
    if folder is None:
        return None
    if find_spec("fcntl") is None:
        raise InputError(f"shards.cache_dir {folder}: needs file locks as of POSIX; leave it out")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with _opened(Path(folder) / LOCK_NAME, os.O_RDWR | os.O_CREAT):
            return BlockCache(Path(folder).absolute(), max_bytes)
    except OSError as error:
        raise InputError(
            f"shards.cache_dir {folder}: cannot be written to ({error.strerror})"
        ) from error


def _runs(wanted: range, there: Container[int]) -> list[range]:
    """Blocks that are absent, neighbours together: 2 to 6 wanted, 4 there -> 2 to 3, 5 to 6."""
    runs: list[range] = []
    for number in wanted:
        if number not in there:
            joins = bool(runs) and runs[-1].stop == number
            start = runs.pop().start if joins else number
            runs.append(range(start, number + 1))
    return runs


def _fetch(tar: Location, entry: CachedFile, run: range) -> dict[int, bytes]:
    """Blocks of the shard in one request; InputError when it is shorter than it was."""
    begin, end = run.start * BLOCK_BYTES, min(run.stop * BLOCK_BYTES, entry.num_bytes)
    data = read_range(tar, begin, end - begin)
    if len(data) < end - begin:
        raise InputError(f"{tar}: the shard ends at byte {begin + len(data)} of {entry.num_bytes}")
    return {
        number: data[position * BLOCK_BYTES :][:BLOCK_BYTES] for position, number in enumerate(run)
    }


def _block_offset(entry: CachedFile, number: int) -> int:
    """Offset of a block in its cache file; the checksums of all blocks come first."""
    head = SUM_BYTES * -(-entry.num_bytes // BLOCK_BYTES)
    return -(-head // HEAD_ALIGNMENT) * HEAD_ALIGNMENT + number * BLOCK_BYTES


def _sum(data: bytes) -> bytes:
    """CRC-32, never zero: that stands for a block that is not there."""
    return (zlib.crc32(data) or 1).to_bytes(SUM_BYTES, "little")


def _make_room(folder: Path, max_bytes: int) -> None:
    """Remove the files used longest ago until the others fit; one process at a time."""
    # Imported here: Windows does not have it.
    import fcntl

    with _opened(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = [
            (entry.stat(), entry.path)
            for entry in os.scandir(folder)
            if entry.name.endswith(SUFFIX)
        ]
        # st_blocks and not st_size: the files are sparse, and only filled blocks take disk space.
        total = sum(stat.st_blocks * DISK_BLOCK_BYTES for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
            if total <= max_bytes:
                return
            os.unlink(path)
            total -= stat.st_blocks * DISK_BLOCK_BYTES


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o666)
    try:
        yield file
    finally:
        os.close(file)
