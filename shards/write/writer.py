"""Writes one shard: a plain WebDataset tar, whole or absent, then its index.

Uses tarfile and not webdataset's TarWriter, which imports torch (0.5 GB and seconds in every
worker) and does not tell where a member lies. Headers carry no clock, owner or host, so the same
members give the same bytes. The JSON comes first and names the number of frames, which is known
last: a sample waits in a spool on disk, and memory does not grow with a video's length.
"""

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

import numpy as np

from twinstream.shards.format.index import JobRecord, SampleIndex, index_bytes, sample_row
from twinstream.shards.format.manifest import FORMAT
from twinstream.shards.format.sample import SampleMeta, member_names, meta_to_json
from twinstream.shards.format.video_table import VideoRow
from twinstream.shards.storage.atomic import atomic_file, write_atomically
from twinstream.shards.storage.location import Location, spool_folder

SPOOL_BYTES = 32 * 2**20


def index_path(folder: Location, name: str) -> Location:
    """Where the index of the shard `name` (`train-000000`) lies; it is there when the shard is
    done.
    """
    return folder / f"{name}.parquet"


class SampleSpool:
    """Encoded members of a sample in the making, as JPEG bytes in two files; made by
    `sample_spool`.
    """

    def __init__(self, frames: IO[bytes], flow: IO[bytes]) -> None:
        self._frames, self._flow = frames, flow
        self._frame_sizes: list[int] = []
        self._flow_sizes: list[int] = []

    @property
    def num_frames(self) -> int:
        """Frames added so far."""
        return len(self._frame_sizes)

    def add_frame(self, jpeg: bytes) -> None:
        """Append the next frame."""
        self._frame_sizes.append(self._frames.write(jpeg))

    def add_flow(self, x_jpeg: bytes, y_jpeg: bytes) -> None:
        """Append the next flow field, dx then dy."""
        self._flow_sizes += [self._flow.write(x_jpeg), self._flow.write(y_jpeg)]

    def sample_index(self, key: str, label: int, height: int, width: int) -> SampleIndex:
        """Where `read` finds the members: as in a shard, but that the JSON has no bytes."""
        sizes = np.array([0, *self._frame_sizes, *self._flow_sizes], np.int32)
        offsets = np.cumsum(sizes, dtype=np.int64) - sizes
        return SampleIndex(key, label, self.num_frames, width, height, offsets, sizes)

    def read(self, begin: int, num_bytes: int) -> bytes:
        """Bytes of neighbouring frames, or of neighbouring flow images, at an offset of the
        index.
        """
        frame_bytes = sum(self._frame_sizes)
        is_flow = begin >= frame_bytes
        file = self._flow if is_flow else self._frames
        file.seek(begin - frame_bytes if is_flow else begin)
        return file.read(num_bytes)

    def members(self) -> Iterator[bytes]:
        """Every frame, then every flow image, in the order of the format."""
        assert len(self._flow_sizes) == 2 * (len(self._frame_sizes) - 1), (
            "N frames need N - 1 flow fields"
        )
        for file, sizes in ((self._frames, self._frame_sizes), (self._flow, self._flow_sizes)):
            file.seek(0)
            yield from (file.read(size) for size in sizes)


@contextmanager
def sample_spool(folder: Location) -> Iterator[SampleSpool]:
    """An empty spool; up to SPOOL_BYTES in memory, the rest in nameless files that die with the
    process.

    They lie in `folder`, or in $TMPDIR where that is in an object store.
    """
    beside = spool_folder(folder)
    with (
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=beside) as frames,
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=beside) as flow,
    ):
        yield SampleSpool(frames, flow)


class TarStream:
    """A tar written front to back that knows its SHA-256, its length and where each member's data
    begins.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first data byte."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        offset = self.num_bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def finish(self) -> str:
        """End the archive; returns the hex SHA-256 of all of it."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self.num_bytes += self._file.write(data)


class ShardWriter:
    """Adds samples to one shard inside `write_shard`; only there."""

    def __init__(self, name: str, tar: TarStream) -> None:
        self.name = name
        self._tar = tar
        self.rows: list[dict[str, object]] = []

    def add(self, meta: SampleMeta, spool: SampleSpool) -> None:
        """Append a whole sample: its JSON, then what the spool holds."""
        assert meta.num_frames == spool.num_frames, (
            f"{meta.key}: {spool.num_frames} frames for {meta.num_frames}"
        )
        names = iter(member_names(meta.key, meta.num_frames))
        json_member = meta_to_json(meta)
        offsets, sizes = [self._tar.add(next(names), json_member)], [len(json_member)]
        for data in spool.members():
            offsets.append(self._tar.add(next(names), data))
            sizes.append(len(data))
        self.rows.append(sample_row(meta, offsets, sizes))


@contextmanager
def write_shard(
    folder: Location, name: str, settings: dict[str, Any], videos: list[VideoRow]
) -> Iterator[ShardWriter]:
    """`folder`/`name`.tar and then its index, when the block ends well; nothing when it does not.

    `videos` is filled inside the block with one row for every video of the job. Without any sample
    there is an index and no tar, since WebDataset readers stop at an empty one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"{name}.tar") as file:
        tar = TarStream(file)
        writer = ShardWriter(name, tar)
        yield writer
        if writer.rows:
            record = JobRecord(FORMAT, tar.finish(), tar.num_bytes, settings, tuple(videos))
        else:
            file.close()
            record = JobRecord(FORMAT, "", 0, settings, tuple(videos))
    write_atomically(index_path(folder, name), index_bytes(writer.rows, record))
