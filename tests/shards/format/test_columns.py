"""Records as columns, and parts of them."""

import pickle
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from twinstream.shards.format import columns
from twinstream.shards.format.columns import (
    NAME,
    TEXT,
    Joined,
    Records,
    Some,
    TableBuilder,
    first_equal,
    joined_texts,
    order_of,
    values,
)


class Named(NamedTuple):
    """A row."""

    key: str
    split: str


SCHEMA = pa.schema([("key", TEXT), ("split", NAME)])
ROWS = [Named(f"v{number:02d}", "ab"[number % 2]) for number in (3, 1, 4, 0, 5, 9, 2, 6)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 3)


def records() -> Records[Named]:
    builder = TableBuilder(SCHEMA)
    for row in ROWS:
        builder.add(*row)
    return Records(builder.table(), Named)


def test_records_are_the_rows_that_were_added() -> None:
    found = records()
    assert list(found) == ROWS == [found[n] for n in range(len(ROWS))]
    assert found == ROWS
    assert (found[-1], list(found[2:4])) == (ROWS[-1], ROWS[2:4])
    assert [ROWS[n].key for n in found.by_key] == sorted(row.key for row in ROWS)


def test_tables_and_rows_stand_in_the_order_in_which_they_were_added() -> None:
    builder = TableBuilder(SCHEMA)
    builder.add("x", "new")
    builder.add_table(records().table)
    builder.add("y", "a")
    assert values(builder.table()["key"]) == ["x", *(row.key for row in ROWS), "y"]
    assert builder.table().num_rows == 0


def test_texts_of_many_chunks_become_one() -> None:
    texts = ["a", "", "é\u2028", "ß" * 9, "", "b"]
    whole = pa.array(texts, TEXT)
    # Parts of one, an empty one, one of nothing but empty texts.
    chunks = [whole[1:3], whole[:0], pa.array(["", ""], TEXT), whole[2:], whole[1:2]] * 9
    wanted = pa.concat_arrays(chunks)
    found = joined_texts(chunks)
    found.validate(full=True)
    assert found.equals(wanted)
    assert chunks == []
    assert joined_texts([]).to_pylist() == []


def test_some_travel_without_the_whole() -> None:
    some = Some(records(), np.array([5, 0, 0]))
    assert pickle.loads(pickle.dumps(some)) == (ROWS[5], ROWS[0], ROWS[0]) == tuple(some)
    assert len(pickle.dumps(some)) < 500


def test_some_of_some_look_at_the_whole() -> None:
    whole = records()
    part = Some(Some(whole, np.array([7, 6, 5])), np.array([2, 0]))
    assert part.whole is whole
    assert list(part) == [ROWS[5], ROWS[7]]
    keys = Some(part, np.array([1]), lambda row: row.key)
    assert list(keys) == ["v06"] == [keys[0]]


def test_parts_of_one_table_are_joined_without_a_copy_and_others_with_one() -> None:
    whole = records()
    parts = [Some(whole, np.array([2, 0])), Some(whole, np.array([1]))]
    for lists, num_rows in ((parts, len(ROWS)), ([tuple(part) for part in parts], 3)):
        joined = Joined(lists, SCHEMA)
        assert joined.table.num_rows == num_rows
        assert values(joined.rows(slice(None))["key"]) == ["v04", "v03", "v01"]
        assert joined.by_key().tolist() == [2, 1, 0]
    assert len(Joined([], SCHEMA)) == 0


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_the_first_two_equal_texts_are_found_in_blocks_of_any_size(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", block_rows)

    def found(*texts: str) -> tuple[int, int] | None:
        column = pa.chunked_array([pa.array(texts, TEXT)])
        return first_equal(column, order_of(column))

    assert found("d", "b", "c", "d", "b", "a") == (1, 4)
    assert found("a", "c", "b") is found("a") is found() is None
