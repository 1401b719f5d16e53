"""What the indexes of finished shards say, each read once; and the last files of a dataset.

A run that goes on reads every index to know what is done, and what it has read is what
videos.parquet and dataset.json need at the end. So rows are kept as columns, some 50 bytes for a
video, in the order in which indexes were read; each shard knows where its rows begin.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from twinstream.shards.format.columns import (
    Joined,
    Positions,
    TableBuilder,
    slices,
    taken,
)
from twinstream.shards.format.index import IndexFile
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FORMAT,
    FileEntry,
    FlowCodec,
    Manifest,
    ShardEntry,
    manifest_bytes,
)
from twinstream.shards.format.video_table import (
    CODED,
    GROUP_ROWS,
    KNOWN,
    VIDEOS_NAME,
    StoredRows,
    VideoRow,
    write_groups,
)
from twinstream.shards.format.video_table import SCHEMA as VIDEO_SCHEMA
from twinstream.shards.storage.atomic import atomic_file, write_atomically
from twinstream.shards.storage.location import Location

# The rest of a row.
FOUND = pa.schema([field for field in CODED if field.name not in KNOWN.names])


@dataclass(frozen=True)
class Contents:
    """What dataset.json says beside its files, and the rows of videos without a planned shard."""

    classes: tuple[str, ...]
    codec: FlowCodec
    settings: dict[str, Any]
    other_rows: Sequence[VideoRow] = ()


class FinishedShard(NamedTuple):
    """A shard that is done; `path` is relative to the dataset, without a suffix. Its `num_videos`
    rows begin at `begin`.
    """

    split: str
    path: str
    tar_bytes: int
    tar_sha256: str
    index_bytes: int
    index_sha256: str
    num_samples: int
    begin: int
    num_videos: int

    def entry(self) -> ShardEntry:
        """What the manifest says of it."""
        tar, index = f"{self.path}.tar", f"{self.path}.parquet"
        return ShardEntry(
            tar=FileEntry(path=tar, num_bytes=self.tar_bytes, sha256=self.tar_sha256),
            index=FileEntry(path=index, num_bytes=self.index_bytes, sha256=self.index_sha256),
            num_samples=self.num_samples,
        )


class Finished:
    """Finished shards by their paths, and the rows of their videos."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.shards: dict[str, FinishedShard] = {}
        self._rows, self._num_rows = TableBuilder(FOUND), 0

    def add(self, shards: Sequence[tuple[str, str, IndexFile]], rows: pa.Table) -> None:
        """Split, path and index of shards; `rows` are those of their videos in turn."""
        self._rows.add_table(rows)
        for split, path, index in shards:
            record, num_videos = index.record, len(index.record.videos)
            self.shards[path] = FinishedShard(
                *(split, path, record.num_bytes, record.sha256),
                *(index.num_bytes, index.sha256, index.num_samples),
                *(self._num_rows, num_videos),
            )
            self._num_rows += num_videos

    def keep_only(self, there: Mapping[str, int]) -> None:
        """Forget the shards that have other sizes now, of the files by their paths, or are gone."""
        self.shards = {
            path: shard
            for path, shard in self.shards.items()
            if there.get(f"{path}.parquet") == shard.index_bytes
            and there.get(f"{path}.tar", 0) == shard.tar_bytes
        }

    def rows_of(
        self, shards: Sequence[FinishedShard], others: Iterable[VideoRow]
    ) -> tuple[pa.Table, Positions]:
        """All rows, and where those of the shards in turn, and then the others, are among them.

        Rows are given away, and gone here.
        """
        for row in others:
            self._rows.add(*(getattr(row, name) for name in FOUND.names))
        rows = self._rows.table()
        lengths = np.array([shard.num_videos for shard in shards], np.int32)
        begins = np.array([shard.begin for shard in shards], np.int32)
        # From the number of a video to its place: 0 1 2, 3 4 -> 7 8 9, 2 3.
        places = np.repeat(begins - (np.cumsum(lengths, dtype=np.int32) - lengths), lengths)
        places += np.arange(len(places), dtype=np.int32)
        after = np.arange(self._num_rows, len(rows), dtype=np.int32)
        return rows, np.concatenate([places, after]) if len(after) else places


def finish_dataset(
    out: Location,
    finished: Finished,
    paths: Sequence[str],
    contents: Contents,
    videos: Joined[Any],
) -> StoredRows:
    """Write videos.parquet and then dataset.json, which makes the dataset complete.

    `videos` are those of the shards at `paths` in turn, and then those of `contents.other_rows`.
    Returns every row. The index of a shard without a sample is removed.
    """
    shards = [finished.shards[path] for path in paths]
    for shard in shards:
        # Its rows go into the table, and a manifest entry needs a tar that readers can open.
        if shard.tar_bytes == 0:
            (out / f"{shard.path}.parquet").unlink()
    # Before the entries are made, so that the rows are gone by then.
    table = _write_videos(out, videos, *finished.rows_of(shards, contents.other_rows))
    # The pool would keep them while the entries take as much again.
    pa.default_memory_pool().release_unused()
    splits: dict[str, list[ShardEntry]] = {}
    for shard in shards:
        if shard.tar_bytes:
            splits.setdefault(shard.split, []).append(shard.entry())
    manifest = Manifest(
        format=FORMAT,
        classes=contents.classes,
        flow_codec=contents.codec,
        settings=contents.settings,
        splits={name: tuple(entries) for name, entries in splits.items()},
        videos=table,
    )
    write_atomically(out / FILE_NAME, manifest_bytes(manifest))
    return StoredRows(out / VIDEOS_NAME)


def _write_videos(
    out: Location, videos: Joined[Any], rest: pa.Table, places: Positions
) -> FileEntry:
    """videos.parquet; the rest of the row of each of `videos` is at its place in `rest`."""
    order = videos.by_key()

    def group(numbers: Positions) -> pa.Table:
        # What the group before took, which the pool would keep.
        pa.default_memory_pool().release_unused()
        known, found = videos.rows(numbers), taken(rest, places[numbers])
        return pa.table(
            [(known if name in KNOWN.names else found)[name] for name in VIDEO_SCHEMA.names],
            VIDEO_SCHEMA.names,
        )

    with atomic_file(out / VIDEOS_NAME) as file:
        hashed = HashedFile(file)
        parts = slices(len(order), GROUP_ROWS)
        write_groups(hashed, (group(order[part]) for part in parts))
    return FileEntry(path=VIDEOS_NAME, num_bytes=hashed.num_bytes, sha256=hashed.hexdigest())


class HashedFile(io.RawIOBase):
    """Writes to a file, and knows the SHA-256 and length of what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.num_bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        """Yes, and no more."""
        return True

    def write(self, data: Any) -> int:
        """Append."""
        self._hash.update(data)
        self.num_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self.num_bytes

    def hexdigest(self) -> str:
        """Of all bytes so far."""
        return self._hash.hexdigest()
