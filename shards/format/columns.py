"""Records as columns: a sequence that holds no object for what is in it.

Ten million videos are a gigabyte as columns of Arrow, and ten as objects. So a list of videos is a
table, and a record is made of its row when it is looked at. The price is some microseconds for each
look; `take` makes many records for little more than one.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Positions = NDArray[np.signedinteger[Any]]

# Rows that are Python objects at a time.
BLOCK_ROWS = 2**16
RELEASED_CHUNKS = 16
# Names that come again and again are stored once; keys and paths may be more than 2 GiB together.
NAME = pa.dictionary(pa.int32(), pa.string())
TEXT = pa.large_string()


class Records(Sequence[T_co]):
    """The rows of a table, each as `record(**columns)`; it has one chunk a column."""

    def __init__(self, table: pa.Table, record: Callable[..., T_co]) -> None:
        self.table, self._record = table, record

    def __len__(self) -> int:
        length: int = self.table.num_rows
        return length

    @overload
    def __getitem__(self, position: int) -> T_co: ...
    @overload
    def __getitem__(self, position: slice) -> "Some[T_co]": ...
    def __getitem__(self, position: int | slice) -> "T_co | Some[T_co]":
        chosen = range(len(self))[position]
        if isinstance(chosen, range):
            return Some(self, np.array(chosen, np.int64))
        return self.take(np.array([chosen]))[0]

    def __iter__(self) -> Iterator[T_co]:
        for start in range(0, len(self), BLOCK_ROWS):
            yield from self._records(self.rows(slice(start, start + BLOCK_ROWS)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return id(self)

    @property
    def by_key(self) -> Positions:
        """Positions in the order of the column `key`."""
        return order_of(self.table["key"])

    def rows(self, positions: Positions | slice, names: list[str] | None = None) -> pa.Table:
        """The columns of some rows, all or some."""
        table = self.table if names is None else self.table.select(names)
        return table[positions] if isinstance(positions, slice) else taken(table, positions)

    def take(self, positions: Positions) -> list[T_co]:
        """The records at these positions."""
        return self._records(self.rows(positions))

    def _records(self, rows: pa.Table) -> list[T_co]:
        columns = zip(*map(values, rows.columns), strict=True)
        return [self._record(*row) for row in columns]


class Some(Sequence[T_co]):
    """The items of a sequence at some positions, in that order; `made` is applied to each look.

    It travels to another process as a tuple, without the whole.
    """

    __slots__ = ("_made", "positions", "whole")

    def __init__(
        self, whole: Sequence[Any], positions: Positions, made: Callable[[Any], T_co] | None = None
    ) -> None:
        self.whole: Sequence[Any] = whole
        self.positions, self._made = positions, made
        # Of some of some, so that there is one whole to look at.
        if isinstance(whole, Some) and whole._made is None:
            self.whole, self.positions = whole.whole, whole.positions[positions]

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, position: int) -> T_co: ...
    @overload
    def __getitem__(self, position: slice) -> "Some[T_co]": ...
    def __getitem__(self, position: int | slice) -> "T_co | Some[T_co]":
        if isinstance(position, slice):
            return Some(self.whole, self.positions[position], self._made)
        item = self.whole[int(self.positions[position])]
        return self._made(item) if self._made else item

    def __iter__(self) -> Iterator[T_co]:
        for start in range(0, len(self), BLOCK_ROWS):
            positions = self.positions[start : start + BLOCK_ROWS]
            items = (
                self.whole.take(positions)
                if isinstance(self.whole, Records)
                else [self.whole[position] for position in positions.tolist()]
            )
            yield from map(self._made, items) if self._made else items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


class TableBuilder:
    """Collects rows of a schema; those that are Python objects are never more than a block."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        self._num_waiting = 0
        self._chunks: list[list[pa.Array]] = [[] for _ in schema]

    def add(self, *row: Any) -> None:
        """One row, its values in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) >= BLOCK_ROWS:
            self._flush()

    def add_table(self, rows: pa.Table) -> None:
        """The columns of the schema's names, after all that was added before."""
        if self._rows:
            self._flush()
        self._tables.append(rows)
        self._num_waiting += rows.num_rows
        if self._num_waiting >= BLOCK_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        """All rows, one chunk a column; the builder is empty then."""
        self._flush()
        columns = []
        for number, field in enumerate(self._schema):
            # One column after the other, so that no more than one is there twice.
            chunks, self._chunks[number] = self._chunks[number], []
            columns.append(
                joined_texts(chunks)
                if field.type == TEXT
                else _whole(pa.chunked_array(chunks, field.type))
            )
            del chunks
            # The pool would keep what the blocks took, and each column would come on top of it.
            pa.default_memory_pool().release_unused()
        return pa.table(columns, schema=self._schema)

    def _flush(self) -> None:
        for table in [pa.concat_tables(self._tables)] if self._tables else []:
            for chunks, field in zip(self._chunks, self._schema, strict=True):
                chunks.append(_whole(table[field.name].cast(field.type)))
        columns = zip(*self._rows, strict=True)
        for chunks, field, column in zip(self._chunks, self._schema, columns, strict=False):
            chunks.append(pa.array(column, field.type))
        self._rows.clear()
        self._tables.clear()
        self._num_waiting = 0


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one chunk."""
    # A name has another number in each chunk's dictionary.
    chunks = column.unify_dictionaries().chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], column.type)


def joined_texts(chunks: list[pa.Array]) -> pa.Array:
    """Texts, none of them null, in one chunk; `chunks` is empty then.

    Each is let go of when it has been copied, so that texts are never there twice.
    """
    sizes = [int(bound[-1] - bound[0]) for bound in map(_offsets, chunks)]
    ends = np.cumsum([0, *sizes])
    offsets = np.zeros(sum(map(len, chunks)) + 1, np.int64)
    data = np.empty(ends[-1], np.uint8)
    begin = 0
    chunks.reverse()
    for at in ends[:-1].tolist():
        chunk = chunks.pop()
        bound = _offsets(chunk)
        offsets[begin : begin + len(bound)] = bound - bound[0] + at
        begin += len(chunk)
        if bound[-1] > bound[0]:
            texts = np.frombuffer(chunk.buffers()[2], np.uint8)[bound[0] : bound[-1]]
            data[at : at + len(texts)] = texts
            del texts
        del chunk, bound
        if not len(chunks) % RELEASED_CHUNKS:
            # The pool would keep what it got back.
            pa.default_memory_pool().release_unused()
    return pa.Array.from_buffers(
        TEXT, begin, [None, pa.py_buffer(offsets), pa.py_buffer(data)], null_count=0
    )


def _offsets(texts: pa.Array) -> NDArray[np.int64]:
    """Where each text begins, and the last ends, in the bytes of a column."""
    if not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


def taken(table: pa.Table, positions: Positions) -> pa.Table:
    """The rows at these positions, in this order."""
    return table.take(pa.array(positions))


def order_of(column: pa.ChunkedArray) -> Positions:
    """Positions in ascending order of a text column, as Python sorts it."""
    # To sort takes twelve bytes for each, and most columns of keys are sorted.
    if not pc.any(pc.less(column[1:], column[:-1])).as_py():
        return np.arange(len(column), dtype=np.int32)
    # UTF-8 sorts as its code points do.
    return np.asarray(pc.sort_indices(column)).astype(np.int32)


def first_equal(column: pa.ChunkedArray, order: Positions) -> tuple[int, int] | None:
    """Positions, the lower one first, of the first two equal texts in the order of `order_of`."""
    for block in slices(len(order), BLOCK_ROWS):
        positions = order[block.start : block.stop + 1]
        some = column.take(pa.array(positions))
        place = pc.index(pc.equal(some[1:], some[:-1]), True).as_py()
        if place >= 0:
            first, second = sorted(positions[place : place + 2].tolist())
            return first, second
    return None


def values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python values."""
    # to_pylist takes a microsecond for each value of a dictionary.
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found: list[Any] = column.to_pylist()
    return found


class Joined(Generic[T]):
    """Several lists of items as one table of their attributes, and their positions in it.

    Lists that are parts of one table are not copied; all others become one.
    """

    def __init__(self, parts: Sequence[Sequence[T]], schema: pa.Schema) -> None:
        parts = [part for part in parts if len(part)]
        wholes = {id(part.whole if isinstance(part, Some) else part) for part in parts}
        whole = parts[0].whole if parts and isinstance(parts[0], Some) else next(iter(parts), None)
        self.positions: Positions
        if len(wholes) == 1 and isinstance(whole, Records):
            self._whole: Records[Any] = whole
            self.positions = np.concatenate(
                [
                    part.positions if isinstance(part, Some) else np.arange(len(whole))
                    for part in parts
                ]
            )
        else:
            builder = TableBuilder(schema)
            for item in chain.from_iterable(parts):
                builder.add(*(getattr(item, name) for name in schema.names))
            self._whole = Records(builder.table(), tuple)
            self.positions = np.arange(len(self._whole), dtype=np.int32)
        self._names = schema.names

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def table(self) -> pa.Table:
        """What is stored of all rows of which the items are some."""
        return self._whole.table

    def rows(self, numbers: Positions | slice) -> pa.Table:
        """The columns of some items, by their numbers."""
        return self._whole.rows(self.positions[numbers], self._names)

    def by_key(self) -> Positions:
        """Numbers of the items, as they stand in the lists, in the order of their keys."""
        # Of a row that is no item there is no number.
        numbers = np.full(self.table.num_rows, -1, np.int32)
        numbers[self.positions] = np.arange(len(self.positions), dtype=np.int32)
        ordered = numbers[self._whole.by_key]
        return ordered[ordered >= 0]


def slices(length: int, size: int) -> list[slice]:
    """[0, size), [size, 2 size) ... over so many rows; an empty one where there are none."""
    return [slice(start, start + size) for start in range(0, max(length, 1), size)]
