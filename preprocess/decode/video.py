"""Video file -> all frames, upright, resized, uint8 RGB, in chunks of bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from twinstream.preprocess.decode.decoding import (
    check_pixels,
    decoded_pictures,
    error_text,
    num_blocks_of,
)
from twinstream.preprocess.decode.picture import (
    Orientation,
    picture_orientation,
    scaled,
    short_side_size,
    turned_size,
)
from twinstream.preprocess.decode.video_stream import OpenedVideo, VideoInfo
from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.storage.location import Location, local_copy

PYAV_MAJOR = int(av.__version__.split(".")[0])
MAX_FPS = 10_000


@contextmanager
def open_video(
    path: Location,
    *,
    size: tuple[int, int] | None,
    short_side: int | None,
    chunk_frames: int,
    max_pixels: int | None = None,
    num_threads: int = 1,
) -> Iterator[OpenedVideo]:
    """All frames of `path` in chunks of at most `chunk_frames`, each of `size` (width, height).

    With `short_side` instead, the shorter side becomes that and the aspect is kept; exactly one of
    the two is given. A video stream without pictures gives no chunk. VideoError may also come
    during the iteration: then the frames given before it are not a whole video.
    """
    assert (size is None) != (short_side is None), (
        f"size {size} and short_side {short_side}: give exactly one"
    )
    with _on_disk(path) as local, _open_container(local) as container:
        stream = _video_stream(container)
        coded_size = stream.codec_context.width, stream.codec_context.height
        check_pixels(*coded_size, max_pixels)
        num_blocks = num_blocks_of(local, container, stream)
        # Threads of type FRAME return pictures later, and which packet gave which is lost.
        stream.thread_type, stream.thread_count = "SLICE", num_threads
        pictures = decoded_pictures(container, stream, num_blocks, max_pixels)
        first = next(pictures, None)
        # The display matrix comes with each picture; the first one's holds for all.
        turn = picture_orientation(first) if first else Orientation()
        source_size = turned_size((first.width, first.height) if first else coded_size, turn)
        target = size or short_side_size(source_size, short_side or 0)
        check_pixels(*target, max_pixels)
        everything = chain([first] if first else [], pictures)
        yield OpenedVideo(
            _info(stream, source_size), in_chunks(everything, target, turn, chunk_frames)
        )


@contextmanager
def _on_disk(path: Location) -> Iterator[Path]:
    """The path itself, or a temporary local copy of a video in an object store."""
    try:
        # The checks and FFmpeg seek, so they need a file on a disk. Only the copying is in the try:
        # an error inside the caller's block must not count as a missing file.
        copy = ExitStack()
        local = copy.enter_context(local_copy(path))
    except FileNotFoundError as error:
        raise VideoError(Reason.MISSING, "no such file") from error
    with copy:
        yield local


def _open_container(path: Path) -> InputContainer:
    """The file as opened by FFmpeg; VideoError where it cannot be."""
    try:
        # Without `file:` FFmpeg reads a name such as `a:b.mp4` as a protocol.
        return _av_open(f"file:{path}")
    except av.error.FileNotFoundError as error:
        raise VideoError(Reason.MISSING, "no such file") from error
    except av.error.FFmpegError as error:
        raise VideoError(Reason.UNREADABLE, error_text(error)) from error


def _av_open(name: str) -> InputContainer:
    """The opened container, also where its tags are not UTF-8."""
    # PyAV before 19 refuses a video whose tags are in Latin-1, unless asked to replace them.
    if PYAV_MAJOR < 19:
        return av.open(name, "r", metadata_errors="replace")
    return av.open(name, "r")


def _video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover picture attached to music is none."""
    for stream in container.streams.video:
        # The cover of a music file is a video stream of one picture.
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoError(Reason.UNREADABLE, "no decoder for its video stream")
            return stream
    raise VideoError(Reason.NO_VIDEO_STREAM, _streams_text(container))


def in_chunks(
    pictures: Iterator[VideoFrame], size: tuple[int, int], turn: Orientation, chunk_frames: int
) -> Iterator[NDArray[np.uint8]]:
    """(t, H, W, 3) for `size` = (W, H), every picture scaled to it whatever its own size is."""
    scaler = VideoReformatter()
    chunk = np.empty((chunk_frames, size[1], size[0], 3), np.uint8)
    filled = 0
    for picture in pictures:
        try:
            chunk[filled] = scaled(scaler, picture, size, turn)
        except av.error.FFmpegError as error:
            detail = f"{picture.format.name} cannot be turned into RGB: {error_text(error)}"
            raise VideoError(Reason.DECODE_ERROR, detail) from error
        filled += 1
        if filled == chunk_frames:
            yield chunk
            # A new array: the caller may still hold the one that was given out.
            chunk, filled = np.empty_like(chunk), 0
    if filled:
        yield chunk[:filled]


def _info(stream: VideoStream, size: tuple[int, int]) -> VideoInfo:
    """Size, frame rate and frame count of the header; None for what is not known."""
    # FFmpeg's guess is the container's clock, such as 90000, when it knows no rate.
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return VideoInfo(*size, rate if 0 < rate <= MAX_FPS else None, stream.frames or None)


def _streams_text(container: InputContainer) -> str:
    """`only audio, attached picture`."""
    kinds = [
        "attached picture" if stream.type == "video" else stream.type
        for stream in container.streams
    ]
    return f"only {', '.join(kinds)}" if kinds else "no streams at all"
