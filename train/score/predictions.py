"""predictions.parquet: the scores of every video by every branch.

A row is a video and a branch: key, label, branch, scores (C,) float32, the mean over the video's
views. The metadata of the file names network, stage, split and classes, so that tables and figures
need nothing else. Single views are not kept: every number of the paper follows from these means,
because a weighted sum of two branches is linear.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.storage.atomic import atomic_file

BranchScores = dict[str, NDArray[np.float32]]

FILE_NAME = "predictions{suffix}.parquet"

METADATA = b"twinstream"
FIELDS = [
    ("key", pa.string()),
    ("label", pa.int32()),
    ("branch", pa.string()),
    ("scores", pa.list_(pa.float32())),
]


@dataclass(frozen=True)
class Predictions:
    """V videos and each branch's (V, C) scores of them."""

    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: BranchScores
    about: Mapping[str, Any]
    """kind, depth, stage, split, segments, crops, flip, classes, dataset_kind"""


def predictions_file(run: Path, suffix: str) -> Path:
    """The file in a run: no suffix for the last stage, -STAGE for another one, * for all."""
    return run / FILE_NAME.format(suffix=suffix)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Replace `path` by these predictions, branch after branch."""
    rows = [
        {"key": key, "label": int(label), "branch": branch, "scores": row.tolist()}
        for branch, values in predictions.scores.items()
        for key, label, row in zip(predictions.keys, predictions.labels, values, strict=True)
    ]
    schema = pa.schema(FIELDS, metadata={METADATA: json.dumps(dict(predictions.about))})
    # Whole or not at all: a report must not read half a file of a test that was stopped.
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def read_predictions(path: Path) -> Predictions:
    """What `write_predictions` wrote; InputError for a damaged file or one of another program."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})"
        ) from error
    metadata = table.schema.metadata or {}
    if METADATA not in metadata:
        raise InputError(
            f"{path}: does not say what it holds predictions of; run `twinstream test` again"
        )
    rows = table.to_pydict()
    branches = np.array(rows["branch"])
    # Every branch has the same videos in the same order, so the rows of the first one name them.
    first = branches == branches[:1]
    scores = {
        str(name): _matrix(rows["scores"], branches == name)
        for name in dict.fromkeys(rows["branch"])
    }
    keys = tuple(key for key, kept in zip(rows["key"], first, strict=True) if kept)
    return Predictions(
        keys,
        np.array(rows["label"])[first].astype(np.int64),
        scores,
        json.loads(metadata[METADATA]),
    )


def _matrix(rows: list[list[float]], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.array([row for row, keep in zip(rows, kept, strict=True) if keep], dtype=np.float32)
