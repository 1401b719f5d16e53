"""A folder of numbered images (`img_00001.jpg`, ...) -> frames, as if it were a video.

For users who no longer have the videos. Images take the same path as decoded pictures, so size and
colours come out alike; JPEGs are turned upright as their EXIF says. A gap in the numbers, a first
number that is neither 0 nor 1, or a file that was cut short makes the video unusable, with a
reason. The price: it cannot be seen that a folder has lost its last images.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import av
from av.video.frame import VideoFrame

from twinstream.preprocess.decode.damage import captured_log, logged_damage
from twinstream.preprocess.decode.decoding import check_pixels
from twinstream.preprocess.decode.exif import exif_orientation
from twinstream.preprocess.decode.opening import IMAGE_FORMATS, av_open
from twinstream.preprocess.decode.picture import Orientation, turned_size
from twinstream.preprocess.decode.video import in_chunks, target_size
from twinstream.preprocess.decode.video_stream import OpenedVideo, VideoInfo
from twinstream.shards.format.image import has_jpeg_end
from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.rawframes.names import (
    FIRST_NUMBERS,
    NO_FRAMES,
    ImageName,
    number_fault,
    numbered_images,
    prefix_fault,
)


def frame_names(names: Iterable[str]) -> list[str]:
    """The images of one video in the order of their numbers; VideoError if any is absent.

    Numbers begin at 0 or 1. img_00001.jpg, img_00002.jpg, flow_x_00001.jpg -> img_00001.jpg,
    img_00002.jpg
    """
    frames = numbered_images(names)["rgb"]
    if not frames:
        raise VideoError(Reason.UNREADABLE, NO_FRAMES)
    if fault := prefix_fault(frames):
        raise VideoError(Reason.UNREADABLE, fault)
    if fault := number_fault(frames):
        raise VideoError(Reason.DECODE_ERROR, fault, _num_before_fault(frames))
    return [frame.name for frame in frames]


def _num_before_fault(frames: Sequence[ImageName]) -> int:
    """Numbers 1 2 3 5 -> 3; 1 2 2 3 -> 1, because either of the two may be the wrong one."""
    if frames[0].number not in FIRST_NUMBERS:
        return 0
    for position, (image, following) in enumerate(pairwise(frames)):
        if following.number != image.number + 1:
            return position + (following.number != image.number)
    return len(frames)


@contextmanager
def open_frames(
    path: Path,
    *,
    size: tuple[int, int] | None,
    short_side: int | None,
    chunk_frames: int,
    max_pixels: int | None = None,
    up_to_damage: bool = False,
) -> Iterator[OpenedVideo]:
    """All images of the folder `path` in chunks, with the arguments of `open_video`."""
    found, gap = [image.name for image in numbered_images(_listed(path))["rgb"]], None
    try:
        names = frame_names(found)
    except VideoError as error:
        if not (up_to_damage and error.num_whole):
            raise
        names, gap = found[: error.num_whole], error
    # The first image is decoded twice, so that the size is known before the iteration starts.
    first, turn = _picture(path, names[0], 0, max_pixels)
    source_size = turned_size((first.width, first.height), turn)
    target = target_size(source_size, size, short_side, max_pixels)
    pictures = _pictures(path, names, source_size, max_pixels, gap)
    chunks = in_chunks(pictures, target, chunk_frames)
    yield OpenedVideo(VideoInfo(*source_size, None, len(found)), chunks)


def _listed(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError as error:
        raise VideoError(Reason.MISSING, "no such folder") from error
    except OSError as error:
        raise VideoError(Reason.UNREADABLE, error.strerror or "cannot be read") from error


def _pictures(
    path: Path,
    names: Sequence[str],
    size: tuple[int, int],
    max_pixels: int | None,
    gap: VideoError | None,
) -> Iterator[tuple[VideoFrame, Orientation]]:
    """The images, each with its orientation; in the end `gap`, where the numbers have one."""
    for position, name in enumerate(names):
        picture, turn = _picture(path, name, position, max_pixels)
        width, height = turned_size((picture.width, picture.height), turn)
        # Scaling it to the others' size would hide that two videos lie in one folder.
        if (width, height) != size:
            detail = f"{name}: {width}x{height}, the first image is {size[0]}x{size[1]}"
            raise VideoError(Reason.DECODE_ERROR, detail, position)
        yield picture, turn
    if gap is not None:
        raise gap


def _picture(
    folder: Path, name: str, position: int, max_pixels: int | None
) -> tuple[VideoFrame, Orientation]:
    """One image and how it becomes upright; VideoError where it is damaged or too large."""

    def damaged(detail: str) -> VideoError:
        return VideoError(Reason.DECODE_ERROR, f"{name}: {detail}", position)

    try:
        data = (folder / name).read_bytes()
        # libjpeg and FFmpeg paint over what a cut JPEG lacks and report nothing.
        if name.lower().endswith((".jpg", ".jpeg")) and not has_jpeg_end(data):
            raise damaged(f"{len(data)} bytes without the end of a JPEG")
        with av_open(io.BytesIO(data), IMAGE_FORMATS) as container:
            for stream in container.streams.video[:1]:
                # Before decoding: a small file's header may claim a picture that fills memory.
                check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels)
                with captured_log() as messages:
                    picture = next(container.decode(stream), None)
                if fault := logged_damage(messages, {stream.codec_context.name}):
                    raise damaged(fault)
                if picture is not None:
                    return picture, exif_orientation(data)
    # What FFmpeg says of a format that is not listed.
    except av.error.ArgumentError as error:
        raise damaged("no JPEG or PNG") from error
    except (OSError, av.error.FFmpegError) as error:
        raise damaged(error.strerror or type(error).__name__) from error
    raise damaged("no image")
