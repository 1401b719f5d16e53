"""What a dataset holds, in a few lines for a person."""

from collections import Counter
from pathlib import Path

from shards.manifest import ShardEntry, read_manifest
from shards.verify import VIDEOS_NAME
from shards.videos import Status, VideoRow, read_videos, summary


def describe(dataset: Path) -> str:
    """Splits, classes, hours, bytes, flow statistics, settings and skipped videos."""
    manifest = read_manifest(dataset)
    rows = read_videos(dataset / VIDEOS_NAME)
    written = [row for row in rows if row.status == Status.WRITTEN]
    lines = [f"{dataset}: format {manifest.format}, {len(manifest.classes)} classes, {summary(rows)}"]
    lines += [
        _split_line(split, shards, [row for row in written if row.split == split])
        for split, shards in manifest.splits.items()
    ]
    lines += [f"  {name} = {value}" for name, value in sorted(manifest.settings.items())]
    return "\n".join(lines)


def _split_line(split: str, shards: tuple[ShardEntry, ...], rows: list[VideoRow]) -> str:
    frames = sum(row.num_frames or 0 for row in rows)
    hours = sum((row.num_frames or 0) / row.fps for row in rows if row.fps) / 3600
    fields = max(sum((row.num_frames or 1) - 1 for row in rows), 1)
    speed = sum((row.mean_flow or 0) * ((row.num_frames or 1) - 1) for row in rows) / fields
    saturated = sum((row.saturated or 0) * ((row.num_frames or 1) - 1) for row in rows) / fields
    megabytes = sum(entry.tar.num_bytes for entry in shards) / 1e6
    classes = len(Counter(row.label for row in rows))
    return (
        f"  {split}: {len(rows)} samples of {classes} classes in {len(shards)} shards, {frames} frames, "
        f"{hours:.2f} h, {megabytes:.1f} MB, mean |flow| {speed:.2f} px, {saturated:.2%} beyond the bound"
    )
