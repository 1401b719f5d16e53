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
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from twinstream.errors import InputError, shortened
from twinstream.shards.storage.atomic import atomic_file
from twinstream.shards.storage.location import is_regular
from twinstream.train.choices import BOTH, STAGE_NAME, ModelKind

BranchScores = dict[str, NDArray[np.float32]]

FILE_NAME = "predictions{suffix}.parquet"

METADATA = b"twinstream"
MAX_VALUES_PER_BYTE, MANY_VALUES = 64, 2**24
# A confusion matrix has the square of it.
MAX_CLASSES = 10_000
FIELDS = [
    ("key", pa.string()),
    ("label", pa.int32()),
    ("branch", pa.string()),
    ("scores", pa.list_(pa.float32())),
]


def _names_once(names: list[str]) -> list[str]:
    if len({*names}) != len(names):
        raise ValueError("expected each class once")
    return names


class About(BaseModel):
    """What is checked of what a file says of its predictions; a file of before may lack any."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    kind: ModelKind = "cma"
    family: str = ""
    depth: int = 0
    clip_length: int | None = None
    clip_stride: int | None = None
    attention_at: str | list[str] = ""
    stage: Annotated[str, StringConstraints(pattern=STAGE_NAME)] = "rgb"
    classes: Annotated[
        list[str], Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_names_once)
    ] = [""]
    split: str = ""
    segments: int = Field(1, ge=1)
    crops: int = Field(1, ge=1)
    flip: bool | None = None
    scale: float = 1.0
    dataset_kind: str | None = None
    run: str | None = None
    dataset: str = ""
    dataset_sha256: str = ""
    list_sha256: str | None = None
    weights_sha256: dict[str, str] = {}
    finished: bool | None = None
    progress: str | None = None
    epochs: int | None = None
    trained_on: int | None = None
    trainable: str | None = None
    left_out: str | None = None


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
        is_regular(path)
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _refuse_more_than_bytes(path, file.metadata)
            table = file.read(columns=[name for name, _ in FIELDS], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})"
        ) from error
    metadata = table.schema.metadata or {}
    if METADATA not in metadata:
        raise InputError(
            f"{path}: does not say what it holds predictions of; run `twinstream test` again"
        )
    about = _about(path, metadata[METADATA])
    columns = _columns(path, table)
    branches = np.array(columns["branch"].to_pylist(), dtype=object)
    keys = np.array(columns["key"].to_pylist(), dtype=object)
    labels = columns["label"].to_numpy()
    values = _matrix(path, columns["scores"], about.get("classes"))
    scores: BranchScores = {}
    # Every branch has the same videos in the same order, so the rows of the first one name them.
    first = branches == branches[:1]
    for name in dict.fromkeys(branches):
        if name not in BOTH:
            raise InputError(f"{path}: scores of {shortened(name)}, expected {' or '.join(BOTH)}")
        kept = branches == name
        if not all(np.array_equal(each[kept], each[first]) for each in (keys, labels)):
            raise InputError(f"{path}: {name} is scored on other videos than {branches[0]}")
        scores[name] = values[kept]
    found = Predictions(tuple(keys[first]), labels[first].astype(np.int64), scores, about)
    _refuse_faults(path, found)
    return found


def read_about(path: Path) -> dict[str, Any] | None:
    """What the predictions in `path` are of, without them; None for an absent or damaged file."""
    try:
        is_regular(path)
        metadata = pq.read_schema(path).metadata or {}
        return _about(path, metadata[METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def refuse_no_numbers(scores: BranchScores, keys: Sequence[str], where: str | Path) -> None:
    """InputError for scores that are NaN or infinite: no accuracy follows from them."""
    for name, values in scores.items():
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise InputError(
                f"{where}: {name} scores of {len(wrong)} of {len(values)} videos are no numbers "
                f"(first {keys[wrong[0]]}); its training has diverged, train again"
            )


def _refuse_more_than_bytes(path: Path, metadata: pq.FileMetaData) -> None:
    """InputError for a few bytes that would be read as far more: one value, repeated."""
    size, groups = path.stat().st_size, range(metadata.num_row_groups)
    values = sum(
        metadata.row_group(group).column(column).num_values
        for group in groups
        for column in range(metadata.num_columns)
    )
    # A row has a key of its own; scores may be alike.
    if metadata.num_rows > size or values > MAX_VALUES_PER_BYTE * size + MANY_VALUES:
        raise InputError(f"{path}: {metadata.num_rows} rows of {values} values in {size} bytes")


def _about(path: Path, data: bytes) -> dict[str, Any]:
    """What a file says of its predictions; InputError where a value is not of its kind."""
    try:
        about = json.loads(data)
        About.model_validate(about)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {name}: {first['msg']}, not {shortened(first['input'])}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: what it says of its predictions is no JSON") from error
    return dict(about)


def _columns(path: Path, table: pa.Table) -> dict[str, pa.Array]:
    """The columns by name; InputError for one that is absent, there twice, or of another kind."""
    found = {}
    for name, kind in FIELDS:
        if table.column_names.count(name) != 1:
            raise InputError(f"{path}: {table.column_names.count(name)} columns {name}, expected 1")
        column = table.column(name)
        if column.type != kind or column.null_count:
            raise InputError(
                f"{path}: column {name} of {column.type} with {column.null_count} nulls, expected "
                f"{kind}"
            )
        # Rows of no file are one array too.
        found[name] = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    return found


def _matrix(path: Path, rows: pa.Array, classes: list[str] | None) -> NDArray[np.float32]:
    """(V, C) of lists of scores; InputError where C is not the number of classes."""
    sizes = np.diff(rows.offsets.to_numpy())
    wanted = len(classes) if classes else int(sizes[0]) if len(sizes) else 0
    if len(odd := sizes[sizes != wanted]):
        raise InputError(f"{path}: {odd[0]} scores of a video, for {wanted} classes")
    # A null among the scores becomes NaN, which is refused as such.
    values: NDArray[np.float32] = rows.flatten().to_numpy(zero_copy_only=False)
    return values.astype(np.float32).reshape(len(rows), wanted)


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
