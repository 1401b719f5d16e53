"""predictions.parquet: what goes in comes out, and other files are refused in a line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twinstream.errors import InputError
from twinstream.train.score.predictions import (
    FIELDS,
    MAX_CLASSES,
    METADATA,
    Predictions,
    read_predictions,
    write_predictions,
)


def test_predictions_survive_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = {
        "rgb": rng.normal(size=(3, 4)).astype(np.float32),
        "flow": rng.normal(size=(3, 4)).astype(np.float32),
    }
    given = Predictions(
        ("a", "b", "c"),
        np.array([3, 0, 1]),
        scores,
        {"kind": "cma", "classes": ["é", "b", "c", "d"]},
    )
    write_predictions(tmp_path / "p.parquet", given)
    found = read_predictions(tmp_path / "p.parquet")
    assert (found.keys, found.labels.tolist(), found.about) == (given.keys, [3, 0, 1], given.about)
    assert list(found.scores) == ["rgb", "flow"]
    assert all(np.array_equal(found.scores[name], scores[name]) for name in scores)


def test_one_branch_is_enough(tmp_path: Path) -> None:
    given = Predictions(("a",), np.array([0]), {"flow": np.ones((1, 2), np.float32)}, {})
    write_predictions(tmp_path / "p.parquet", given)
    assert list(read_predictions(tmp_path / "p.parquet").scores) == ["flow"]


def test_a_file_that_is_no_parquet_or_not_ours_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read as parquet"):
        read_predictions(tmp_path / "p.parquet")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match=r"q\.parquet: does not say what it holds predictions of"):
        read_predictions(tmp_path / "q.parquet")


@pytest.mark.parametrize(
    ("keys", "labels", "scores", "message"),
    [
        ("", [], [], "holds no predictions"),
        ("aba", [0, 1, 0], np.ones((3, 2)), "a is scored 2 times"),
        ("ab", [0, 2], np.ones((2, 2)), "labels from 0 to 2, for 2 classes"),
        ("ab", [-1, 0], np.ones((2, 2)), "labels from -1 to 0, for 2 classes"),
        ("ab", [0, 1], np.ones((2, 3)), "3 scores of a video, for 2 classes"),
        ("abc", [0, 1, 1], [[0, 1], [np.nan, 0], [0, 0]], r"rgb scores of 1 of 3 .*\(first b\)"),
        ("ab", [0, 1], [[np.inf, 1], [-np.inf, 0]], r"rgb scores of 2 of 2 .*\(first a\)"),
    ],
)
def test_predictions_from_which_no_accuracy_follows_are_one_line(
    tmp_path: Path, keys: str, labels: list[int], scores: list[list[float]], message: str
) -> None:
    given = Predictions(
        tuple(keys),
        np.array(labels, np.int64),
        {"rgb": np.array(scores, np.float32)},
        {"classes": ["a", "b"]},
    )
    write_predictions(tmp_path / "p.parquet", given)
    with pytest.raises(InputError, match=rf"p\.parquet: {message}") as told:
        read_predictions(tmp_path / "p.parquet")
    assert "\n" not in str(told.value)


def test_branches_on_other_videos_are_one_line(tmp_path: Path) -> None:
    rows = [
        {"key": key, "label": 0, "branch": branch, "scores": [1.0, 0.0]}
        for key, branch in (("a", "rgb"), ("b", "rgb"), ("a", "flow"))
    ]
    schema = pa.schema(FIELDS, metadata={METADATA: "{}"})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: flow is scored on other videos than rgb"):
        read_predictions(tmp_path / "p.parquet")


SCHEMA = pa.schema(FIELDS, metadata={METADATA: "{}"})
ROW = {"key": "a", "label": 0, "branch": "rgb", "scores": [1.0, 0.0]}


def forged(about: object = None, **columns: pa.Array) -> pa.Table:
    """A table of one row with other columns, or with what it says of itself."""
    table = pa.Table.from_pylist([ROW], schema=SCHEMA)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    if about is not None:
        table = table.replace_schema_metadata({METADATA: json.dumps(about)})
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (forged().drop_columns(["label"]), "0 columns label, expected 1"),
        (forged().append_column("key", pa.array(["a"])), "2 columns key, expected 1"),
        (forged(label=pa.array(["0"])), "column label of string with 0 nulls, expected int32"),
        (forged(label=pa.array([0.0])), "column label of double"),
        (forged(label=pa.nulls(1, pa.int32())), "column label of int32 with 1 nulls"),
        (forged(key=pa.nulls(1, pa.string())), "column key of string with 1 nulls"),
        (forged(scores=pa.nulls(1, SCHEMA.field("scores").type)), "column scores of list"),
        (forged(scores=pa.array([[1.0, None]], SCHEMA.field("scores").type)), "rgb scores of 1 of"),
        (forged(branch=pa.array(["x" * 9])), "scores of 'xxxxxxxxx', expected rgb or flow"),
        (forged([]), "Input should be"),
        (forged({"stage": "../../x"}), "stage: String should match pattern"),
        (forged({"classes": ["a", "a"]}), "classes: Value error, expected each class once"),
        (forged({"classes": 7}), "classes: Input should be a valid list, not 7"),
        (
            forged({"classes": list(map(str, range(MAX_CLASSES + 1)))}),
            "classes: List should have at most 10000 items",
        ),
        (forged({"depth": "18"}), "depth: Input should be a valid integer, not '18'"),
        (forged({"weights_sha256": None}), "weights_sha256: Input should be a valid dictionary"),
        (
            forged().replace_schema_metadata({METADATA: "[" * 100_000}),
            "what it says of its predictions is no JSON",
        ),
    ],
)
def test_forged_predictions_are_one_line(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(table, path)
    with pytest.raises(InputError, match=rf"p\.parquet: (: )?{message}") as told:
        read_predictions(path)
    assert "\n" not in str(told.value)


def test_one_row_a_million_times_is_refused_before_it_is_read(tmp_path: Path) -> None:
    table = forged().take(pa.array(np.zeros(1_000_000, np.int64)))
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: 1000000 rows of 5000000 values in \d+ byt"):
        read_predictions(tmp_path / "p.parquet")
