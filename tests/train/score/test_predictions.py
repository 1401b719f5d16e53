"""predictions.parquet: what goes in comes out, and other files are refused in a line."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twinstream.errors import InputError
from twinstream.train.score.predictions import Predictions, read_predictions, write_predictions


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
