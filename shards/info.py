"""Describes a dataset in a few lines for a person, from the manifest and videos.parquet alone."""

from collections import Counter

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.manifest import ShardEntry, read_manifest
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, VideoRow, read_videos, summary
from twinstream.shards.read.virtual_splits import stored_splits
from twinstream.shards.storage.location import Location, dataset_file


def describe(dataset: Location) -> str:
    """Splits, classes, hours, bytes, flow statistics, settings and skipped videos."""
    manifest = read_manifest(dataset)
    rows = read_videos(dataset_file(dataset, VIDEOS_NAME), manifest.classes)
    written = [row for row in rows if row.status == Status.WRITTEN]
    lines = [
        f"{dataset}: format {manifest.format}, {len(manifest.classes)} classes, {summary(rows)}"
    ]
    lines += [
        _split_line(split, shards, [row for row in written if row.split == split])
        for split, shards in manifest.splits.items()
    ]
    lines += [
        f"  {split}"
        if isinstance(split, InputError)
        else f"  {name}: {len(split.keys)} of these, listed by {split.source}"
        for name, split in stored_splits(dataset).items()
    ]
    lines += _left_out(rows)
    lines.append(f"  classes: {first_few(manifest.classes)}")
    codec = manifest.flow_codec
    lines.append(f"  flow: pixels = (byte - {codec.zero}) * {codec.bound:g} / {codec.levels}")
    lines += [f"  {name} = {value}" for name, value in sorted(manifest.settings.items())]
    return "\n".join(lines)


def listed(
    dataset: Location, split: str | None = None, class_name: str | None = None
) -> list[VideoRow]:
    """The samples of a split, one of the shards or a stored list, and of a class; all when None.

    InputError for a split or a class that the dataset lacks.
    """
    manifest, stored = read_manifest(dataset), stored_splits(dataset)
    rows = [
        row
        for row in read_videos(dataset_file(dataset, VIDEOS_NAME))
        if row.status == Status.WRITTEN
    ]
    if class_name is not None and class_name not in manifest.classes:
        raise InputError(
            f"--class {class_name}: {dataset} has {first_few(manifest.classes)} and no such class"
        )
    rows = [row for row in rows if class_name in (None, row.class_name)]
    if split is None or split in manifest.splits:
        return [row for row in rows if split in (None, row.split)]
    if split not in stored:
        names = first_few([*manifest.splits, *stored])
        raise InputError(f"--split {split}: {dataset} has {names} and no such split")
    found = stored[split]
    if isinstance(found, InputError):
        raise found
    keys = {*found.keys}
    return [row for row in rows if row.key in keys]


def _left_out(rows: list[VideoRow]) -> list[str]:
    """A line for each reason why videos are in no shard, with the first of these videos."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.status != Status.WRITTEN:
            reason = f"{row.status}, {row.reason}" if row.status == Status.SKIPPED else row.status
            reasons.setdefault(reason, []).append(row.key)
    return [
        f"  {reason}: {len(keys)}, such as {first_few(keys)}"
        for reason, keys in sorted(reasons.items())
    ]


def _split_line(split: str, shards: tuple[ShardEntry, ...], rows: list[VideoRow]) -> str:
    frames = sum(row.num_frames or 0 for row in rows)
    megabytes = sum(entry.tar.num_bytes for entry in shards) / 1e6
    counts = Counter(row.label for row in rows).values()
    plural = "" if len(shards) == 1 else "s"
    return (
        f"  {split}: {len(rows)} samples of {len(counts)} classes in {len(shards)} shard{plural}, "
        f"{frames} frames, "
        f"{_hours(rows)}, {megabytes:.1f} MB, {_motion(rows)}, "
        f"{min(counts, default=0)} to {max(counts, default=0)} samples a class"
    )


def _hours(rows: list[VideoRow]) -> str:
    # Imported videos have no frame rate; their number is printed, so that the sum does not mislead.
    hours = sum((row.num_frames or 0) / row.fps for row in rows if row.fps) / 3600
    unknown = sum(1 for row in rows if not row.fps)
    return f"{hours:.2f} h" + (f" without {unknown} of unknown frame rate" if unknown else "")


def _motion(rows: list[VideoRow]) -> str:
    """Means over flow fields, of those videos where the values are known."""
    speed = _mean([(row.mean_flow, row.num_frames) for row in rows])
    saturated = _mean([(row.saturated, row.num_frames) for row in rows])
    text = "mean |flow| " + ("unknown" if speed is None else f"{speed:.2f} px")
    return text + (
        ", share beyond the bound unknown"
        if saturated is None
        else f", {saturated:.2%} beyond the bound"
    )


def _mean(values: list[tuple[float | None, int | None]]) -> float | None:
    # Weighted by flow fields, N - 1 of N frames, so that long videos count as they are.
    weighed = [(value, (num_frames or 1) - 1) for value, num_frames in values if value is not None]
    fields = sum(weight for _, weight in weighed)
    return sum(value * weight for value, weight in weighed) / fields if fields else None
