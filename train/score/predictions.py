"""predictions.parquet: the scores of every video by every branch.

A row is a video and a branch: key, label, branch, scores (C,) float32, the mean over the video's
views. The metadata of the file names network, stage, split and classes, so that tables and figures
need nothing else. Single views are not kept: every number of the paper follows from these means,
because a weighted sum of two branches is linear.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
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
    """kind, depth, attention_at, stage, split, segments, crops, classes, dataset_kind; in newer
    files also run, weights_sha256, dataset, dataset_sha256, finished, progress, epochs, trained_on,
    flip, family, and clip_length and clip_stride, which are None of a network on single frames
    """


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
    """What `write_predictions` wrote.

    InputError for a damaged file, one of another program, or one from which no accuracy follows.
    """
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
    branches = np.array(rows["branch"], dtype=object)
    keys, labels = np.array(rows["key"], dtype=object), np.array(rows["label"])
    scores: BranchScores = {}
    about = json.loads(metadata[METADATA])
    # Every branch has the same videos in the same order, so the rows of the first one name them.
    first = branches == branches[:1]
    for name in dict.fromkeys(rows["branch"]):
        kept = branches == name
        same = (np.array_equal(values[kept], values[first]) for values in (keys, labels))
        if not all(same):
            raise InputError(f"{path}: {name} is scored on other videos than {branches[0]}")
        scores[name] = _matrix(path, rows["scores"], kept, about.get("classes"))
    found = Predictions(tuple(keys[first]), labels[first].astype(np.int64), scores, about)
    _refuse_faults(path, found)
    return found


def read_about(path: Path) -> dict[str, Any] | None:
    """What the predictions in `path` are of, without them; None for an absent or damaged file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        about: dict[str, Any] = json.loads(metadata[METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return about


def refuse_no_numbers(scores: BranchScores, keys: Sequence[str], where: str | Path) -> None:
    """InputError for scores that are NaN or infinite: no accuracy follows from them."""
    for name, values in scores.items():
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise InputError(
                f"{where}: {name} scores of {len(wrong)} of {len(values)} videos are no numbers "
                f"(first {keys[wrong[0]]}); its training has diverged, train again"
            )


def _matrix(
    path: Path, rows: list[list[float]], kept: NDArray[np.bool_], classes: list[str] | None
) -> NDArray[np.float32]:
    """(V, C) of the rows that are kept; InputError where C is not the number of classes."""
    chosen = [row for row, keep in zip(rows, kept, strict=True) if keep]
    wanted = len(classes or chosen[0])
    odd = next((len(row) for row in chosen if len(row) != wanted), None)
    if odd is not None:
        raise InputError(f"{path}: {odd} scores of a video, for {wanted} classes")
    return np.array(chosen, dtype=np.float32)


def _refuse_faults(path: Path, found: Predictions) -> None:
    """InputError for predictions of which no accuracy follows, or a wrong one."""
    if not found.keys:
        raise InputError(f"{path}: holds no predictions; run `twinstream test` again")
    key, count = Counter(found.keys).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {key} is scored {count} times; every video counts once")
    refuse_no_numbers(found.scores, found.keys, path)
    lowest, highest = found.labels.min(), found.labels.max()
    for values in found.scores.values():
        if lowest < 0 or highest >= values.shape[1]:
            raise InputError(
                f"{path}: labels from {lowest} to {highest}, for {values.shape[1]} classes"
            )
