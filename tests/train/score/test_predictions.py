"""predictions.parquet: what goes in comes out, and other files are refused in a line."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twinstream.errors import InputError
from twinstream.train.score.predictions import (
    FIELDS,
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
