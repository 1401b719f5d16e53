"""Imports folders of frames and flow of another tool; the JPEGs are stored byte for byte.

Each image is decoded once, to check that it is complete and of one size and to compute the mean
motion. What the folders do not contain stays unknown: fps is 0 in KEY.json and empty in the row,
and the fraction of flow beyond the bound is empty. A video whose files do not fit together is an
error that names it, or becomes a skipped row; it is never repaired.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from twinstream.errors import InputError
from twinstream.shards.format.columns import Some
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL, dequantize
from twinstream.shards.format.image import MAX_PIXELS, decode_unchanged, has_jpeg_end
from twinstream.shards.format.index import METADATA_BYTES, PIXEL_BYTES
from twinstream.shards.format.manifest import FlowCodec, our_codec, told
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import (
    Reason,
    Status,
    StoredRows,
    VideoError,
    VideoRow,
    video_row,
)
from twinstream.shards.rawframes.alignment import Aligned, Layout, align
from twinstream.shards.rawframes.videos import VideoFolder
from twinstream.shards.storage.location import Location, read_whole
from twinstream.shards.write.dataset import DatasetBuild, write_dataset
from twinstream.shards.write.finished import Contents
from twinstream.shards.write.plan import key_hash, plan_shards
from twinstream.shards.write.writer import SampleSpool, ShardWriter, sample_spool

START_OF_IMAGE = b"\xff\xd8"
# Of a file; an image of that many cannot be stored.
MAX_IMAGE_BYTES = PIXEL_BYTES * MAX_PIXELS + METADATA_BYTES


def import_rawframes(
    root: Path,
    out: Location,
    videos: Sequence[VideoFolder],
    classes: tuple[str, ...],
    codec: FlowCodec,
    *,
    layout: Layout = Layout.AUTO,
    index_base: int | None = None,
    videos_per_shard: int,
    skip_bad: bool = False,
    progress: Callable[[str], None] = lambda key: None,
) -> StoredRows:
    """Write the dataset and return every video's row; InputError names an unusable video."""
    there = np.fromiter(((root / video.path).is_dir() for video in videos), bool, len(videos))
    present, absent = (Some[VideoFolder](videos, np.flatnonzero(part)) for part in (there, ~there))
    base = common_base(root, present, layout) if index_base is None else index_base

    def write(writer: ShardWriter, video: VideoFolder) -> VideoRow:
        try:
            return _write_video(writer, root, out, video, _files(root, video, layout, base), codec)
        except VideoError as error:
            if not skip_bad:
                raise InputError(
                    f"{root / video.path}: {error.detail}; --skip-bad leaves such videos out"
                ) from error
            return video_row(video, Status.SKIPPED, error.reason, detail=error.detail)

    # The base that was found, not the option: it decides which frame pairs with which flow field.
    settings = {f"import.{name}": value for name, value in codec.model_dump().items()}
    settings |= {
        "import.layout": str(layout),
        "import.index_base": base,
        "shards.videos_per_shard": videos_per_shard,
    }
    missing = tuple(
        video_row(video, Status.MISSING, Reason.MISSING, detail="no such folder")
        for video in absent
    )
    contents = Contents(classes, codec, settings, missing)
    plans = plan_shards(present, videos_per_shard, key_hash)
    return write_dataset(DatasetBuild(out, plans, contents), write, progress)


def foreign_codec(bound: float, zero: float, levels: float) -> FlowCodec:
    """The codec v = (q - zero) * bound / levels; with zero 128 rewritten to our 127 levels.

    denseflow's 20 px over 127.5 levels from 128 is the same line as 19.92 px over 127 levels.
    """
    try:
        # In one spelling the codecs of two datasets can be compared, and `merge` may mix them.
        if zero == ZERO_LEVEL:
            return our_codec(bound * (LEVELS_PER_SIDE / levels))
        return FlowCodec(bound=bound, zero=zero, levels=levels)
    except ValidationError as error:
        raise InputError(
            f"--bound {bound:g}, --levels {levels:g}: no codec of flow ({told(error)})"
        ) from error


def common_base(root: Path, videos: Sequence[VideoFolder], layout: Layout) -> int:
    """The number of the first image, 0 or 1, in most folders; the other folders will be refused.

    A folder that begins one later than the others has lost its first frame, which the folder alone
    does not show.
    """
    bases: Counter[int] = Counter()
    for video in videos:
        try:
            bases[align(os.listdir(root / video.path), layout, None).index_base] += 1
        except VideoError:
            continue
    if bases[0] == bases[1] > 0:
        raise InputError(
            f"{root}: as many folders are numbered from 0 as from 1; give --index-base"
        )
    return 1 if bases[1] > bases[0] else 0


def _files(root: Path, video: VideoFolder, layout: Layout, base: int) -> Aligned:
    files = align(os.listdir(root / video.path), layout, base)
    # Lists of frames and of flow differ by one, and the user may give either.
    if video.listed is not None and video.listed not in (len(files.frames), len(files.flow_x)):
        raise VideoError(
            Reason.MISALIGNED, f"{len(files.frames)} frames, its list says {video.listed}"
        )
    return files


def _write_video(
    writer: ShardWriter,
    root: Path,
    out: Location,
    video: VideoFolder,
    files: Aligned,
    codec: FlowCodec,
) -> VideoRow:
    num_frames = len(files.frames)
    with sample_spool(out) as spool:
        height, width, speed = _copy_images(spool, root / video.path, files, codec)
        known = (video.key, video.class_name, video.label, num_frames)
        writer.add(
            SampleMeta(
                *known,
                width=width,
                height=height,
                fps=0.0,
                source_width=width,
                source_height=height,
            ),
            spool,
        )
    return video_row(
        video,
        Status.WRITTEN,
        num_frames=num_frames,
        width=width,
        height=height,
        shard=writer.name,
        mean_flow=speed,
    )


def _copy_images(
    spool: SampleSpool, folder: Path, files: Aligned, codec: FlowCodec
) -> tuple[int, int, float]:
    """Copy checked files to the spool; returns height, width and the mean of |flow| in pixels."""
    height, width = _image(folder, files.frames[0], None)[1].shape[:2]
    speed = 0.0
    for name in files.frames:
        spool.add_frame(_image(folder, name, (height, width, 3))[0])
    for x_name, y_name in zip(files.flow_x, files.flow_y, strict=True):
        x_jpeg, dx = _image(folder, x_name, (height, width))
        y_jpeg, dy = _image(folder, y_name, (height, width))
        spool.add_flow(x_jpeg, y_jpeg)
        flow = dequantize(np.stack([dx, dy], -1), codec.bound, codec.zero, codec.levels)
        speed += float(np.linalg.norm(flow, axis=-1).mean())
    return height, width, speed / len(files.flow_x)


def _image(
    folder: Path, name: str, shape: tuple[int, ...] | None
) -> tuple[bytes, NDArray[np.uint8]]:
    """A file's bytes and image; VideoError if unreadable, cut short, no JPEG, of another shape."""
    try:
        jpeg = read_whole(folder / name, MAX_IMAGE_BYTES)
    except OSError as error:
        raise VideoError(Reason.UNREADABLE, f"{name}: {error.strerror}") from error
    except InputError as error:
        raise VideoError(Reason.UNREADABLE, str(error)) from error
    if not jpeg.startswith(START_OF_IMAGE):
        raise VideoError(Reason.DECODE_ERROR, f"{name}: {len(jpeg)} bytes that are no JPEG")
    if not has_jpeg_end(jpeg):
        raise VideoError(
            Reason.DECODE_ERROR, f"{name}: {len(jpeg)} bytes without the end of a JPEG"
        )
    try:
        image = decode_unchanged(jpeg)
    except InputError as error:
        raise VideoError(Reason.DECODE_ERROR, f"{name}: {error}") from error
    if shape is not None and image.shape != shape:
        raise VideoError(Reason.MISALIGNED, f"{name} is {image.shape}, expected {shape}")
    return jpeg, image
