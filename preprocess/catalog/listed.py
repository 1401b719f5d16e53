"""What lists name, as columns, and where that is among the files.

A CSV of ten million videos is read a block of rows at a time. What must hold of a row is asked of a
whole block; only a block in which it does not hold of all is read row by row, which then says what
is wrong and where.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twinstream.errors import InputError
from twinstream.shards.format import columns
from twinstream.shards.format.columns import (
    NAME,
    TEXT,
    Positions,
    Records,
    TableBuilder,
    joined_texts,
    order_of,
    slices,
)
from twinstream.shards.format.listings import Cells, Listed, csv_rows, csv_video
from twinstream.shards.format.split_names import split_name
from twinstream.shards.storage.location import NOT_USABLE

LISTED = pa.schema(
    [
        *(("name", TEXT), ("class_name", NAME), ("split", NAME), ("class_number", pa.int32())),
        *(("file", NAME), ("line", pa.int32())),
    ]
)
# Of a block of rows: what they name, or None where that is not plain.
Quick = Callable[[Sequence[Cells]], "tuple[pa.Array, pa.Array, pa.Array] | None"]


def held(listed: Iterable[Listed]) -> Records[Listed]:
    """What lists name, as columns."""
    builder = TableBuilder(LISTED)
    for one in listed:
        _add(builder, one)
    return Records(builder.table(), _listed)


def csv_listed(files: Iterable[tuple[Iterable[str], str]]) -> Records[Listed]:
    """The videos of CSVs of paths, each the lines and the name of a file; InputError as for
    `csv_video`.
    """
    builder = TableBuilder(LISTED)
    for lines, file_name in files:
        rows = csv_rows(lines, file_name)
        while block := [*islice(rows, columns.BLOCK_ROWS)]:
            if (found := _plain_csv(block)) is None:
                for row in block:
                    _add(builder, csv_video(file_name, *row))
                continue
            numbers = pa.array([row[0] for row in block], pa.int32())
            no_number, file = pa.nulls(len(block), pa.int32()), pa.repeat(file_name, len(block))
            builder.add_table(
                pa.table(dict(zip(LISTED.names, (*found, no_number, file, numbers), strict=True)))
            )
    return Records(builder.table(), _listed)


def _plain_csv(block: Sequence[Cells]) -> tuple[pa.Array, pa.Array, pa.Array] | None:
    """Paths, classes and splits of rows of which each is a video; None where one may be none."""
    _, *cells = map(pa.array, zip(*block, strict=True))
    paths, labels, splits = (*cells, pa.repeat("", len(block)))[:3]
    # What would be tidied is not usable either.
    if pc.any(pc.match_substring_regex(paths, NOT_USABLE)).as_py():
        return None
    splits = splits.dictionary_encode()
    try:
        names = [split_name(name or "train", "") for name in splits.dictionary.to_pylist()]
    except InputError:
        return None
    if pc.any(pc.equal(labels, "")).as_py():
        return None
    return paths, labels.dictionary_encode(), pa.array(names, pa.string()).take(splits.indices)


def _add(builder: TableBuilder, one: Listed) -> None:
    file, _, line = one.where.rpartition(" line ")
    is_line = bool(file) and line.isdecimal()
    builder.add(
        *(one.name, one.class_name, one.split, one.class_number),
        *((file, int(line)) if is_line else (one.where, None)),
    )


def _listed(
    name: str, class_name: str, split: str, number: int | None, file: str, line: int | None
) -> Listed:
    where = file if line is None else f"{file} line {line}"
    return Listed(name, class_name, split, where, number)


def places_of(names: pa.ChunkedArray, ordered: pa.ChunkedArray) -> Positions:
    """The position of each name in texts that are sorted; -1 where it is none of them.

    In pieces of what is sorted: a table of ten million texts would be some gigabytes.
    """
    found = np.full(len(names), -1, np.int32)
    order = order_of(names)
    begin = 0
    for piece in slices(len(ordered), columns.BLOCK_ROWS) if len(ordered) else ():
        texts = ordered[piece].combine_chunks()
        last = texts[-1].as_py()
        end = bisect_right(order, last, begin, key=lambda number: names[int(number)].as_py())
        for part in slices(end - begin, columns.BLOCK_ROWS):
            numbers = order[begin:end][part]
            places = pc.index_in(names.take(pa.array(numbers)), value_set=texts)
            found[numbers] = np.asarray(pc.add(places, piece.start).fill_null(-1))
        begin = end
    return found


def sorted_texts(texts: Sequence[str]) -> Records[str]:
    """Paths as a sorted column, if they are none yet."""
    if isinstance(texts, Records):
        return texts
    return Records(pa.table([pa.array(sorted({*texts}), TEXT)], ["path"]), str)


def video_keys(paths: pa.ChunkedArray, *, is_folder: bool) -> pa.ChunkedArray:
    """The `video_key` of each usable path."""
    keys = []
    for block in slices(len(paths), columns.BLOCK_ROWS):
        stems = paths[block].combine_chunks()
        if not is_folder:
            stems = pc.replace_substring_regex(stems, r"([^/])\.[^./]*$", r"\1")
        keys.append(pc.replace_substring(stems, ".", "_"))
    return pa.chunked_array([joined_texts(keys)])


def file_stems(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """`a/b.c.mp4` -> `b.c`, as PurePosixPath has it."""
    return pc.replace_substring_regex(
        pc.replace_substring_regex(paths, "^.*/", ""), r"(.)\.[^.]+$", r"\1"
    )
