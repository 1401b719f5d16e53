"""The index beside a shard: a Parquet file, one row a sample with its members' offsets and sizes.

It is written after its shard. The metadata of the file holds all that a resumed run must know: the
hash of the tar, the settings, and the row of every video of the job. So an index that exists means
that the job is done, and no other list of finished jobs is needed.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import VideoRow
from twinstream.shards.storage.location import Location

METADATA_KEY = b"twinstream"
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

    A job without a usable video has no tar: sha256 is empty and num_bytes is 0.
    """

    format: int
    sha256: str
    num_bytes: int
    settings: dict[str, Any]
    videos: tuple[VideoRow, ...]


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
    metadata = {METADATA_KEY: json.dumps(asdict(record), sort_keys=True, separators=(",", ":"))}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    # Parquet's metadata has no clock in it, and the one JSON spelling keeps the bytes equal.
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def read_index(path: Location) -> list[SampleIndex]:
    """Every row of an index; InputError when the file is not one."""
    table = parse_table(path, _bytes(path)).combine_chunks()
    plain = [
        table.column(name).to_pylist() for name in ("key", "label", "num_frames", "width", "height")
    ]
    arrays = [_split_list(table.column(name)) for name in ("offsets", "sizes")]
    return [SampleIndex(*row) for row in zip(*plain, *arrays, strict=True)]


@dataclass(frozen=True)
class IndexFile:
    """An index as a file: its own length and hash, its number of samples, and its job's record."""

    num_bytes: int
    sha256: str
    num_samples: int
    record: JobRecord


def read_index_file(path: Location) -> IndexFile:
    """What a resumed run needs of an index, in one read; InputError when it is not ours."""
    # Rows stay unparsed: the metadata says all, and a run may have thousands of shards.
    data = _bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        fields = json.loads(file.schema_arrow.metadata[METADATA_KEY])
        fields["videos"] = tuple(VideoRow(**row) for row in fields["videos"])
        record = JobRecord(**fields)
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a shard index of twinstream ({_first_line(error)})"
        ) from error
    return IndexFile(len(data), hashlib.sha256(data).hexdigest(), file.metadata.num_rows, record)


def _split_list(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """A list column as one NumPy view a row, without making a Python number of each entry."""
    return [row.values.to_numpy() for row in column]


def _bytes(path: Location) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: this index is gone; `twinstream shards verify` lists what is"
        ) from error


def parse_table(path: Location, data: bytes) -> pa.Table:
    """Every column of the index at `path` that has these bytes; InputError when it is none."""
    try:
        # Without the threads of pyarrow's datasets, which now and then abort a process that ends.
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable index ({_first_line(error)})") from error
    absent = set(SCHEMA.names) - set(table.column_names)
    if absent:
        raise InputError(f"{path}: index without the columns {sorted(absent)}")
    return table


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
