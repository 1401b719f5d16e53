"""The index beside a shard: a Parquet file, one row a sample with its members' offsets and sizes.

It is written after its shard. The metadata of the file holds all that a resumed run must know: the
hash of the tar, the settings, and the row of every video of the job. So an index that exists means
that the job is done, and no other list of finished jobs is needed.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic_core
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format import tables
from twinstream.shards.format.columns import Records, Some
from twinstream.shards.format.image import MAX_PIXELS, MAX_SIDE
from twinstream.shards.format.manifest import ShardEntry
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import VideoRow, refuse_values, table_of
from twinstream.shards.storage.location import Location, read_whole

Rows = NDArray[np.int64]
METADATA_KEY = b"twinstream"
MAX_BYTES = 2**29
# The bytes of a JPEG are fewer than PIXEL_BYTES for each pixel and METADATA_BYTES of other data, so
# that a read is no larger than what it becomes.
PIXEL_BYTES, METADATA_BYTES = 16, 2**20
# Between two members: padding, and headers of a long name.
MAX_GAP_BYTES = 2**20
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("num_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("offsets", pa.list_(pa.int64())),
        ("sizes", pa.list_(pa.int32())),
    ]
)

NUMBERS = ("label", "num_frames", "width", "height")
LAST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class SampleIndex:
    """One row of an index; offsets and sizes are bytes in the tar, in member order."""

    key: str
    label: int
    num_frames: int
    width: int
    height: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]


@dataclass(frozen=True)
class JobRecord:
    """The job that wrote an index, from its metadata; sha256 and num_bytes are those of the tar.

    A job without a usable video has no tar: sha256 is empty and num_bytes is 0. Videos that were
    read are `Records`.
    """

    format: int
    sha256: str
    num_bytes: int
    settings: dict[str, Any]
    videos: Sequence[VideoRow]


def sample_row(meta: SampleMeta, offsets: list[int], sizes: list[int]) -> dict[str, object]:
    """One row of the index as plain values."""
    return {
        "key": meta.key,
        "label": meta.label,
        "num_frames": meta.num_frames,
        "width": meta.width,
        "height": meta.height,
        "offsets": offsets,
        "sizes": sizes,
    }


def index_bytes(rows: list[dict[str, object]], record: JobRecord) -> bytes:
    """The whole Parquet file; the same rows and record give the same bytes."""
    fields = vars(record) | {"videos": [vars(video) for video in record.videos]}
    metadata = {METADATA_KEY: json.dumps(fields, sort_keys=True, separators=(",", ":"))}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    # Parquet's metadata has no clock in it, and the one JSON spelling keeps the bytes equal.
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def read_index(
    path: Location, entry: ShardEntry | None = None, num_classes: int | None = None
) -> list[SampleIndex]:
    """Every row of an index; InputError as for `parse_table`."""
    table = parse_table(path, _bytes(path), entry, num_classes).combine_chunks()
    plain = [table.column(name).to_pylist() for name in ("key", *NUMBERS)]
    arrays = [_split_list(table.column(name)) for name in ("offsets", "sizes")]
    return [SampleIndex(*row) for row in zip(*plain, *arrays, strict=True)]


@dataclass(frozen=True)
class IndexFile:
    """An index as a file: its own length and hash, its number of samples, and its job's record."""

    num_bytes: int
    sha256: str
    num_samples: int
    record: JobRecord


def read_index_file(path: Location, *, check_values: bool = True) -> IndexFile:
    """What a resumed run needs of an index, in one read; InputError when it is not ours.

    Whoever reads many may check the values of their rows together: for each index that takes as
    long as all the rest.
    """
    data = _bytes(path)
    with _ours(path):
        file, fields = _parsed(data)
        # As columns: a run reads this of every video, and objects would cost more than the rest.
        videos = table_of(fields["videos"])
        if check_values:
            refuse_values("videos", videos)
    return replace(file, record=replace(file.record, videos=Records(videos, VideoRow)))


def read_index_files(
    paths: Sequence[Location], each: Callable[..., Iterable[bytes]] = map
) -> tuple[list[IndexFile], pa.Table]:
    """Many, with values that are not checked, and the rows of all their videos; `each` reads them.

    InputError as for `read_index_file`, but not of which file where rows are none: to make columns
    of the rows of each takes longer than all else.
    """
    files: list[IndexFile] = []
    found: list[dict[str, Any]] = []
    ends: list[int] = []
    for path, data in zip(paths, each(_bytes, paths), strict=True):
        with _ours(path):
            file, fields = _parsed(data)
            found += fields["videos"]
        files.append(file)
        ends.append(len(found))
    with _ours(paths[0]):
        rows = table_of(found)
    begins, all_rows = [0, *ends], Records(rows, VideoRow)
    parts: list[Some[VideoRow]] = [Some(all_rows, np.arange(*part)) for part in pairwise(begins)]
    records = [
        replace(file, record=replace(file.record, videos=part))
        for file, part in zip(files, parts, strict=True)
    ]
    return records, rows


def rows_of(files: Sequence[IndexFile]) -> pa.Table:
    """The rows of the videos of indexes that were read one by one, as columns."""
    rows = (file.record.videos for file in files)
    return pa.concat_tables([one.table for one in rows if isinstance(one, Records)])


def _parsed(data: bytes) -> tuple[IndexFile, dict[str, Any]]:
    """An index without its videos, and all that its metadata says."""
    # Rows stay unparsed: the metadata says all, and a run may have thousands of shards.
    file = pq.ParquetFile(pa.BufferReader(data))
    # In half the time of the standard library's, which is the most of reading an index. Of texts
    # only the columns' names come again and again.
    text = file.metadata.metadata[METADATA_KEY]
    fields = pydantic_core.from_json(text, allow_inf_nan=False, cache_strings="keys")
    record = JobRecord(**fields | {"videos": ()})
    _refuse_record(record)
    digest = hashlib.sha256(data).hexdigest()
    return IndexFile(len(data), digest, file.metadata.num_rows, record), fields


@contextmanager
def _ours(path: Location) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a shard index of twinstream ({tables.first_line(error)})"
        ) from error


def _split_list(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """A list column as one NumPy view a row, without making a Python number of each entry."""
    return [row.values.to_numpy() for row in column]


def _bytes(path: Location) -> bytes:
    try:
        return read_whole(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: this index is gone; `twinstream shards verify` lists what is"
        ) from error


def parse_table(
    path: Location, data: bytes, entry: ShardEntry | None = None, num_classes: int | None = None
) -> pa.Table:
    """Every column of the index at `path` that has these bytes; InputError when it is none.

    Checked are the types and ranges of all rows, and with what dataset.json says the number of
    samples, the end of the tar and the labels. So no reader looks at a sample's row again.
    """
    # Positions are computed from dataset.json: another count would shift every later sample.
    num_rows = None if entry is None else entry.num_samples
    table = tables.parse_table(path, data, SCHEMA, "index", num_rows=num_rows)
    tables.require_usable_texts(str(path), table["key"])
    numbers = {name: table[name].to_numpy().astype(np.int64) for name in NUMBERS}
    _refuse_numbers(path, numbers, num_classes)
    _refuse_members(path, table, numbers, 2**62 if entry is None else entry.tar.num_bytes)
    return table


def _refuse_numbers(path: Location, numbers: Mapping[str, Rows], num_classes: int | None) -> None:
    ranges = {
        "label": (0, LAST_INT32 if num_classes is None else num_classes - 1),
        "num_frames": (1, LAST_INT32),
        "width": (1, MAX_SIDE),
        "height": (1, MAX_SIDE),
    }
    for name, (first, last) in ranges.items():
        column = numbers[name]
        if len(wrong := column[(column < first) | (column > last)]):
            raise InputError(f"{path}: {name} {wrong[0]}; expected {first} to {last}")
    if len(wrong := np.flatnonzero(numbers["width"] * numbers["height"] > MAX_PIXELS)):
        width, height = (numbers[name][wrong[0]] for name in ("width", "height"))
        raise InputError(
            f"{path}: images of {width}x{height}; expected {MAX_PIXELS} pixels at most"
        )


def _refuse_members(
    path: Location, table: pa.Table, numbers: Mapping[str, Rows], tar_bytes: int
) -> None:
    """InputError for members that do not lie one behind the other in the tar, in order."""
    frames = numbers["num_frames"]
    expected = 1 + frames + 2 * (frames - 1)
    for name in ("offsets", "sizes"):
        found = pc.list_value_length(table[name]).to_numpy()
        if len(wrong := np.flatnonzero(found != expected)):
            raise InputError(
                f"{path}: {found[wrong[0]]} {name} for {frames[wrong[0]]} frames, expected "
                f"{expected[wrong[0]]}"
            )
    flat = {name: pc.list_flatten(table[name]) for name in ("offsets", "sizes")}
    if any(column.null_count for column in flat.values()):
        raise InputError(f"{path}: members without offset or size")
    offsets, sizes = (flat[name].to_numpy().astype(np.int64) for name in ("offsets", "sizes"))
    most = np.repeat(PIXEL_BYTES * numbers["width"] * numbers["height"] + METADATA_BYTES, expected)
    if len(wrong := np.flatnonzero((sizes < 0) | (sizes > most))):
        raise InputError(
            f"{path}: a member of {sizes[wrong[0]]} bytes; expected 0 to {most[wrong[0]]}"
        )
    # Not a sum, which beyond 2^63 would be negative.
    if len(wrong := offsets[(offsets < 0) | (offsets > tar_bytes - sizes)]):
        raise InputError(f"{path}: a member at byte {wrong[0]}; the tar has {tar_bytes}")
    gaps = offsets[1:] - offsets[:-1] - sizes[:-1]
    if len(wrong := np.flatnonzero((gaps < 0) | (gaps > MAX_GAP_BYTES))):
        raise InputError(
            f"{path}: members at bytes {offsets[wrong[0]]} and {offsets[wrong[0] + 1]}; expected "
            "one behind the other"
        )


def _refuse_record(record: JobRecord) -> None:
    """ValueError for a value that no job has."""
    is_whole = type(record.num_bytes) is int and record.num_bytes >= 0
    if not is_whole or not re.fullmatch("([0-9a-f]{64})?", record.sha256):
        raise ValueError(f"a tar of {record.num_bytes!r} bytes, SHA-256 {record.sha256!r}")
    if not isinstance(record.settings, dict):
        raise ValueError("settings that are no table")
