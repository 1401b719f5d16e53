"""Writes one shard: a plain WebDataset tar, complete or absent, and then its index.

It uses tarfile and not webdataset's TarWriter, which imports torch (0.5 GB and seconds in every
worker) and does not return the offset of a member. Headers hold no time, owner or host, so the same
members give the same bytes. The JSON is the first member but contains the number of frames, which
is known last. So a sample waits in a spool on disk; memory does not grow with the video's length.
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
    """Path of the index of the shard `name` (`train-000000`); it exists when the shard is done."""
    return folder / f"{name}.parquet"


class SampleSpool:
    """JPEGs of an unfinished sample, frames and flow in a file each; made by `sample_spool`."""

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
        """The offsets for `read`: those of a shard, except that the JSON member has 0 bytes."""
        sizes = np.array([0, *self._frame_sizes, *self._flow_sizes], np.int32)
        offsets = np.cumsum(sizes, dtype=np.int64) - sizes
        return SampleIndex(key, label, self.num_frames, width, height, offsets, sizes)

    def read(self, begin: int, num_bytes: int) -> bytes:
        """Bytes of neighbouring frames, or of neighbouring flow images, at an index's offset."""
        # Offsets run through both files, as if the flow stood behind the frames as in the tar.
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
    """An empty spool: each file in memory up to SPOOL_BYTES, then in a nameless temporary file.

    The files are in `folder`, or in $TMPDIR for an object store; they vanish with the process.
    """
    beside = spool_folder(folder)
    with (
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=beside) as frames,
        tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=beside) as flow,
    ):
        yield SampleSpool(frames, flow)


class TarStream:
    """A tar that is written front to back; knows its SHA-256, length and members' offsets."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first data byte."""
        header = tarfile.TarInfo(name)
        # All other fields keep tarfile's defaults: time 0, no owner.
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        offset = self.num_bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def finish(self) -> str:
        """End the archive; returns the hex SHA-256 of all of it."""
        # The end mark and padding that tarfile writes too, so readers see an ordinary tar.
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self.num_bytes += self._file.write(data)


class ShardWriter:
    """Adds samples to one shard; made by `write_shard` and usable inside its block only."""

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
    """Write `folder`/`name`.tar and then its index if the block succeeds; nothing if it fails.

    The caller fills `videos` inside the block, one row for every video of the job. Without a sample
    there is an index and no tar, because WebDataset readers stop at an empty tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / f"{name}.tar") as file:
        tar = TarStream(file)
        writer = ShardWriter(name, tar)
        yield writer
        if writer.rows:
            record = JobRecord(FORMAT, tar.finish(), tar.num_bytes, settings, tuple(videos))
        else:
            # Closed inside `atomic_file`, which then writes no tar.
            file.close()
            record = JobRecord(FORMAT, "", 0, settings, tuple(videos))
    # After the tar is in place: the index is what says that the job is done.
    write_atomically(index_path(folder, name), index_bytes(writer.rows, record))
