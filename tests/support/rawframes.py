"""Folders of frames and flow as other tools write them, and their import."""

from pathlib import Path

import numpy as np

from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.format.manifest import read_manifest
from twinstream.shards.format.video_table import VideoRow
from twinstream.shards.rawframes.importer import foreign_codec, import_rawframes
from twinstream.shards.rawframes.videos import FoundVideos, found_videos
from twinstream.shards.write.copying import Copier, stored_samples

OURS = foreign_codec(20.0, 128, 127)
SIZE = (16, 24)


def draw_video(
    folder: Path, num_frames: int = 4, *, base: int = 0, num_flow: int | None = None
) -> None:
    """Frame t has red 20 t, flow field t has dx level 128 + 10 t; numbered from `base`."""
    folder.mkdir(parents=True)
    for t in range(num_frames):
        frame = np.full((*SIZE, 3), (20 * t, 0, 0), np.uint8)
        (folder / f"img_{base + t:05d}.jpg").write_bytes(encode_jpeg(frame, 95))
    for t in range(num_frames - 1 if num_flow is None else num_flow):
        for axis, level in (("x", 128 + 10 * t), ("y", 128)):
            jpeg = encode_jpeg(np.full(SIZE, level, np.uint8), 95)
            (folder / f"flow_{axis}_{base + t:05d}.jpg").write_bytes(jpeg)


def bring_in(
    root: Path, out: Path, found: FoundVideos | None = None, **options: object
) -> list[VideoRow]:
    """Import with our codec; returns every row."""
    found = found or found_videos(root, None)
    return list(
        import_rawframes(
            root, out, found.videos, found.classes, OURS, **{"videos_per_shard": 16} | options
        )
    )


def stored(dataset: Path) -> dict[str, list[bytes]]:
    """The images of every sample as they are stored, by key."""
    samples = stored_samples(dataset, read_manifest(dataset))
    return {sample.index.key: list(Copier().members(sample))[1:] for sample in samples}
