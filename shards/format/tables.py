"""A Parquet file of a dataset -> its columns, by name and type; a dataset is someone else's input.

What the metadata says of rows and bytes is looked at before a column takes memory. A few bytes can
stand for one long text in a million rows, so texts are looked at before they are written out where
they could be too much; the price is to read large tables of them in twice the time.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twinstream.errors import InputError, beginning
from twinstream.shards.storage.location import (
    MAX_PATH,
    NOT_USABLE,
    Location,
    require_usable_path,
)

# Of an index as a file and in memory: 40 million members. Of videos.parquet: 10 million videos.
MAX_BYTES = 2**31
# What is written here packs less than 21 times (Snappy); below the floor nothing is too much.
MAX_PACKED, FLOOR_BYTES = 32, 2**26
VALUE_BYTES = 8


def parse_table(
    path: Location, data: bytes, schema: pa.Schema, what: str, *, num_rows: int | None = None
) -> pa.Table:
    """Every column of `schema` in these bytes; InputError as for `parse_groups`."""
    return pa.concat_tables(parse_groups(path, io.BytesIO(data), schema, what, num_rows=num_rows))


def parse_groups(
    path: Location,
    data: BinaryIO,
    schema: pa.Schema,
    what: str,
    *,
    names: Sequence[str] | None = None,
    may_be_null: Collection[str] = (),
    num_rows: int | None = None,
) -> Iterator[pa.Table]:
    """The columns `names` (else all) of `schema`, in that order, a group of rows at a time.

    InputError for another type, a null, a column that is absent or there twice, not `num_rows`
    rows, and for a file that is none.
    """
    names = schema.names if names is None else names
    # Looked at first, so that a fault costs no memory.
    with _readable(path, what):
        texts = [name for name in names if schema.field(name).type == pa.string()]
        # Nothing is read ahead: a thread of pyarrow that lets go of the bytes while the process
        # ends aborts it.
        file = pq.ParquetFile(data, pre_buffer=False)
        _refuse_other_columns(path, file.schema_arrow, schema, names, what)
        columns = _columns(path, file.metadata, num_rows)
        _refuse_large(path, [one for name in names for one in columns[name]])
        in_full = (one for name in texts for one in columns[name])
        # As much as they can be at most, if the longest text stands in every row.
        if sum(one.num_values * one.total_uncompressed_size for one in in_full) > FLOOR_BYTES:
            file = pq.ParquetFile(data, pre_buffer=False, read_dictionary=texts)
        wanted = pa.schema([schema.field(name) for name in names])
    for group in range(file.num_row_groups):
        with _readable(path, what):
            # Without the threads of pyarrow's datasets, which now and then abort a process that
            # ends.
            rows = file.read_row_group(group, columns=names, use_threads=False)
            table = _in_full(path, rows, wanted)
            table.validate(full=True)
        for name in names:
            if name not in may_be_null and table[name].null_count:
                raise InputError(f"{path}: {table[name].null_count} rows without a {name}")
        yield table
    if not file.num_row_groups:
        yield wanted.empty_table()


@contextmanager
def _readable(path: Location, what: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable {what} ({first_line(error)})") from error


def require_usable_texts(where: str, column: pa.ChunkedArray) -> None:
    """InputError for a text of the column that is no path below a folder, such as a key."""
    if (row := first_row(pc.match_substring_regex(column, NOT_USABLE))) is not None:
        require_usable_path(column[row].as_py(), where)
    if (row := first_row(pc.greater(pc.utf8_length(column), MAX_PATH))) is not None:
        text = column[row].as_py()
        raise InputError(
            f"{where}: {beginning(text)}: {len(text)} letters; expected {MAX_PATH} at most"
        )


def first_row(mask: pa.ChunkedArray) -> int | None:
    """The first row where a mask holds."""
    row: int = pc.index(mask, True).as_py()
    return None if row < 0 else row


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that some libraries add."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _refuse_other_columns(
    path: Location, found: pa.Schema, schema: pa.Schema, names: Sequence[str], what: str
) -> None:
    absent = sorted({*names} - {*found.names})
    if absent:
        raise InputError(f"{path}: {what} without the columns {absent}")
    for name in names:
        if found.names.count(name) > 1:
            raise InputError(f"{path}: {what} with {found.names.count(name)} columns {name}")
        if found.field(name).type != schema.field(name).type:
            raise InputError(
                f"{path}: column {name} is {found.field(name).type}, expected "
                f"{schema.field(name).type}"
            )


def _columns(
    path: Location, about: pq.FileMetaData, num_rows: int | None
) -> dict[str, list[pq.ColumnChunkMetaData]]:
    """What the file says of its columns, by name; InputError for another number of rows."""
    if num_rows is not None and about.num_rows != num_rows:
        raise InputError(f"{path}: {about.num_rows} rows, dataset.json says {num_rows}")
    columns = defaultdict(list)
    for group in map(about.row_group, range(about.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            columns[column.path_in_schema.partition(".")[0]].append(column)
    return columns


def _refuse_large(path: Location, columns: Sequence[pq.ColumnChunkMetaData]) -> None:
    unpacked = sum(one.total_uncompressed_size for one in columns)
    packed = sum(one.total_compressed_size for one in columns)
    num_bytes = max(unpacked, sum(VALUE_BYTES * one.num_values for one in columns))
    if num_bytes > MAX_BYTES or unpacked > max(FLOOR_BYTES, MAX_PACKED * packed):
        raise InputError(
            f"{path}: columns of {num_bytes} bytes in {packed}; expected {MAX_BYTES} at most, "
            f"packed {MAX_PACKED} times at most"
        )


def _in_full(path: Location, group: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The rows with texts written out; InputError where these would be too much."""
    group = group.select(wanted.names)
    if group.schema == wanted:
        return group
    for name, column in zip(wanted.names, group.columns, strict=True):
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            num_bytes = pc.sum(lengths.take(chunk.indices)).as_py() or 0
            if num_bytes > MAX_BYTES:
                raise InputError(
                    f"{path}: column {name} holds {num_bytes} bytes; expected {MAX_BYTES} at most"
                )
    return group.cast(wanted)
