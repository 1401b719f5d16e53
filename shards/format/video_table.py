"""videos.parquet: one row for every video of the catalog, in a shard or not.

No video is lost silently: one that is in no shard has a status, a reason and a detail. Rows are
sorted by key and hold no absolute path, time or host, because the manifest holds the file's hash.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twinstream.errors import InputError
from twinstream.output import csv_text
from twinstream.shards.format import tables
from twinstream.shards.format.columns import NAME, TEXT, Records, slices, values
from twinstream.shards.storage.location import NOT_PLAIN, Location

VIDEOS_NAME = "videos.parquet"


class Status(StrEnum):
    """The result for a video: in a shard, left out for a reason, or not on disk.

    `usable` is `written` where videos are checked and no shard is made.
    """

    WRITTEN = "written"
    USABLE = "usable"
    SKIPPED = "skipped"
    MISSING = "missing"


class Reason(StrEnum):
    """Why a video cannot be used."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    NO_VIDEO_STREAM = "no_video_stream"
    TOO_LARGE = "too_large"
    DECODE_ERROR = "decode_error"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    MISALIGNED = "misaligned"


class VideoError(Exception):
    """A video that cannot be used; `detail` is one line, the same on every machine.

    `num_whole` is the number of frames before the damage, all known to be whole; None where the
    place of the damage is not known.
    """

    def __init__(self, reason: Reason, detail: str, num_whole: int | None = None) -> None:
        # All go to Exception, or the error could not be pickled on its way from a worker.
        super().__init__(reason, detail, num_whole)
        self.reason = reason
        self.detail = detail
        self.num_whole = num_whole

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class LabelledVideo(Protocol):
    """What is known about a video before it is opened; `path` is relative to the root."""

    @property
    def key(self) -> str:
        """The sample's key."""

    @property
    def path(self) -> str:
        """Of the file or folder."""

    @property
    def class_name(self) -> str:
        """The name of its label."""

    @property
    def label(self) -> int:
        """A position in the dataset's classes."""

    @property
    def split(self) -> str:
        """The folder of its shard."""


@dataclass(frozen=True)
class VideoRow:
    """One video: path below the root; frames, fps, width, height of the source; None where unknown.

    An fps of 0 stands for an unknown one in KEY.json, and is None here. mean_flow is the mean of
    |(dx, dy)| in pixels; saturated the fraction of pixels beyond the codec's bound.
    """

    key: str
    path: str
    class_name: str
    label: int
    split: str
    status: str
    reason: str | None = None
    detail: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    shard: str | None = None
    mean_flow: float | None = None
    saturated: float | None = None

    def __post_init__(self) -> None:
        # Here, so that no writer can put a 0 into the table, where a mean would count it.
        if self.fps == 0:
            object.__setattr__(self, "fps", None)


def video_row(
    video: LabelledVideo, status: Status, reason: Reason | None = None, /, **known: Any
) -> VideoRow:
    """The row of a video; `known` are further columns, by the names of VideoRow."""
    named = (video.key, video.path, video.class_name, video.label, video.split)
    return VideoRow(*named, status.value, None if reason is None else reason.value, **known)


# Columns by what must hold of each of their values.
PATHS = frozenset({"key", "path", "split", "shard"})
NUMBERS = frozenset({"label", "num_frames", "fps", "width", "height", "mean_flow", "saturated"})
MAY_BE_NULL = frozenset({"reason", "detail", "shard"}) | NUMBERS - {"label"}
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("class_name", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("shard", pa.string()),
        ("mean_flow", pa.float64()),
        ("saturated", pa.float64()),
    ]
)
# The same in memory, where a name that comes again and again is a number.
CODED = pa.schema(
    [
        (field.name, TEXT if field.name in ("key", "path") else NAME)
        if field.type == pa.string()
        else field
        for field in SCHEMA
    ]
)
# What is known of a video before it is opened.
KNOWN = pa.schema([CODED.field(name) for name in ("key", "path", "class_name", "label", "split")])
# Of Parquet: so many rows are written, and read, at a time: some 50 MB while they are.
GROUP_ROWS = 2**17


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows with a value for each column and no other, in this order; TypeError for others."""
    named = {*SCHEMA.names}
    if any(row.keys() != named for row in rows):
        raise TypeError(f"a row's columns are not {', '.join(SCHEMA.names)}")
    table = pa.Table.from_struct_array(pa.array(rows, pa.struct([*SCHEMA])))
    # An unknown frame rate, as in VideoRow.
    known = pc.if_else(pc.equal(table["fps"], 0), None, table["fps"])
    return table.set_column(SCHEMA.get_field_index("fps"), "fps", known)


def videos_bytes(rows: Iterable[VideoRow]) -> bytes:
    """The whole Parquet file, rows sorted by key; the same rows give the same bytes."""
    buffer = io.BytesIO()
    table = table_of([vars(row) for row in sorted(rows, key=lambda row: row.key)])
    write_groups(buffer, (table[group] for group in slices(table.num_rows, GROUP_ROWS)))
    return buffer.getvalue()


def write_groups(file: io.RawIOBase | io.BytesIO, groups: Iterable[pa.Table]) -> None:
    """The Parquet file of these rows, sorted by key; GROUP_ROWS in each group but the last."""
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for group in groups:
            writer.write_table(group.cast(SCHEMA))


class StoredRows(Collection[VideoRow]):
    """The rows of a videos.parquet, read a group at a time whenever they are looked at."""

    def __init__(self, path: Location) -> None:
        self._path = path

    def __len__(self) -> int:
        return sum(table.num_rows for table in self.tables(["status"]))

    def __iter__(self) -> Iterator[VideoRow]:
        for table in self.tables():
            yield from Records(table, VideoRow)

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)

    def tables(self, names: list[str] | None = None) -> Iterator[pa.Table]:
        """Each group of rows as columns, all or some; at least one, which may be empty.

        InputError when the file is not one, and for a value that no video has.
        """
        what, begin = "table of videos", 0
        try:
            with self._path.open("rb") as file:
                for table in tables.parse_groups(
                    self._path, file, SCHEMA, what, names=names, may_be_null=MAY_BE_NULL
                ):
                    refuse_values(str(self._path), table, begin)
                    begin += table.num_rows
                    yield table
        except OSError as error:
            raise InputError(f"{self._path}: unreadable {what} ({error.strerror})") from error

    def counts(self) -> Counter[tuple[str, str | None]]:
        """How many rows there are of each status and reason."""
        found: Counter[tuple[str, str | None]] = Counter()
        for table in self.tables(["status", "reason"]):
            grouped = table.group_by(table.column_names, use_threads=False)
            counted = grouped.aggregate([([], "count_all")])
            for status, reason, count in zip(*map(values, counted.columns), strict=True):
                found[status, reason] += count
        return found


def counts_of(rows: Iterable[VideoRow]) -> Counter[tuple[str, str | None]]:
    """How many rows there are of each status and reason."""
    if isinstance(rows, StoredRows):
        return rows.counts()
    return Counter((row.status, row.reason) for row in rows)


def videos_csv(rows: Iterable[VideoRow]) -> bytes:
    """The same as comma-separated text with a line of names; an unknown value is an empty cell.

    Text is as `csv_text` has it.
    """
    ordered = sorted(rows, key=lambda row: row.key)
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {
            name: csv_text(value) if isinstance(value, str) else value
            for name, value in asdict(row).items()
        }
        for row in ordered
    )
    return text.getvalue().encode()


def read_videos(path: Location, classes: Sequence[str] | None = None) -> list[VideoRow]:
    """Every row of a videos.parquet; InputError as for `read_columns`, and for a row whose class
    is another than that of its label in `classes`.
    """
    table = read_columns(path)
    if classes is not None:
        refuse_other_classes(path, table, classes)
    return [*Records(table, VideoRow)]


def refuse_other_classes(path: Location, table: pa.Table, classes: Sequence[str]) -> None:
    """InputError for a row whose class is another than that of its label in `classes`."""
    labels = pc.min_element_wise(table["label"], len(classes))
    named = pa.array([*classes, "no class"], pa.string()).take(labels)
    if (row := tables.first_row(pc.not_equal(named, table["class_name"]))) is not None:
        raise InputError(
            f"{path}: {table['key'][row]}: label {table['label'][row]} is "
            f"{table['class_name'][row]}, not {named[row]}"
        )


def read_columns(path: Location, names: list[str] | None = None) -> pa.Table:
    """A videos.parquet as columns, all or some; InputError as for `StoredRows.tables`."""
    return pa.concat_tables(StoredRows(path).tables(names))


def refuse_values(where: str, table: pa.Table, begin: int = 0) -> None:
    """InputError, which begins with `where`, for a value that no video has."""
    known = {*table.column_names}
    for name in PATHS & known:
        tables.require_usable_texts(where, table[name])
    wrong = {
        name: pc.or_kleene(pc.less(table[name], 0), pc.invert(pc.is_finite(table[name])))
        for name in NUMBERS & known
    }
    if "class_name" in known:
        wrong["class_name"] = pc.match_substring_regex(table["class_name"], NOT_PLAIN)
    if "status" in known:
        wrong["status"] = pc.invert(pc.is_in(table["status"], pa.array([*Status], pa.string())))
        is_written = pc.equal(table["status"], Status.WRITTEN.value)
        for name in {"shard", "num_frames"} & known:
            # What a reader needs of a sample: where it is, and how long.
            wrong[f"{name} "] = pc.and_(is_written, pc.is_null(table[name]))
    for name, mask in wrong.items():
        if (row := tables.first_row(mask)) is not None:
            value = table[name.strip()][row].as_py()
            raise InputError(
                f"{where}: row {begin + row}: {name.strip()} {value!r}, which no video has"
            )


def summary(rows: Iterable[VideoRow], good: Status = Status.WRITTEN) -> str:
    """`58 written · 2 skipped: too_short 1, unreadable 1 · 3 missing`; zero parts left out.

    `good` is the status of a video that is not left out.
    """
    statuses: Counter[str] = Counter()
    reasons: Counter[str | None] = Counter()
    for (status, reason), count in counts_of(rows).items():
        statuses[status] += count
        if status == Status.SKIPPED:
            reasons[reason] += count
    parts = [f"{statuses[good]} {good}"]
    if reasons:
        counts = ", ".join(
            f"{reason} {count}" for reason, count in sorted(reasons.items(), key=str)
        )
        parts.append(f"{statuses[Status.SKIPPED]} skipped: {counts}")
    if statuses[Status.MISSING]:
        parts.append(f"{statuses[Status.MISSING]} missing")
    return " · ".join(parts)
