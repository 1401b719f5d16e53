"""Video file -> all frames, upright, resized, uint8 RGB, in chunks of bounded memory."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from twinstream.preprocess.decode.decoding import (
    check_pixels,
    contents_of,
    decoded_pictures,
    error_text,
)
from twinstream.preprocess.decode.exif import without_exif
from twinstream.preprocess.decode.opening import open_container, video_stream
from twinstream.preprocess.decode.picture import (
    Orientation,
    picture_orientation,
    scaled,
    short_side_size,
    turned_size,
)
from twinstream.preprocess.decode.video_stream import OpenedVideo, VideoInfo
from twinstream.shards.format.image import MAX_SIDE
from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.storage.location import Location, local_copy

MAX_FPS = 10_000
CHUNK_BYTES = 2**28


@contextmanager
def open_video(
    path: Location,
    *,
    size: tuple[int, int] | None,
    short_side: int | None,
    chunk_frames: int,
    max_pixels: int | None = None,
    up_to_damage: bool = False,
    num_threads: int = 1,
) -> Iterator[OpenedVideo]:
    """All frames of `path` in chunks of at most `chunk_frames`, each of `size` (width, height).

    With `short_side` instead, the shorter side becomes that and the aspect is kept; exactly one of
    the two is given. A video stream without pictures gives no chunk. VideoError may also come
    during the iteration: then the frames given before it are whole, but not a whole video. With
    `up_to_damage` a file whose structure is broken fails only where the damage is reached.
    """
    with _on_disk(path) as local, open_container(local) as container:
        stream, note = video_stream(container)
        notes = [note] if note else []
        coded_size = stream.codec_context.width, stream.codec_context.height
        check_pixels(*coded_size, max_pixels)
        try:
            contents = contents_of(local, container, stream)
        # A disk that cannot read it is no fault of ours.
        except OSError as error:
            raise VideoError(Reason.UNREADABLE, error.strerror or "cannot be read") from error
        # Threads of type FRAME return pictures later, and which packet gave which is lost.
        stream.thread_type, stream.thread_count = "SLICE", num_threads
        pictures = decoded_pictures(
            container, stream, contents, max_pixels, notes=notes, up_to_damage=up_to_damage
        )
        first = next(pictures, None)
        # The display matrix comes with each picture; the first one's holds for all.
        turn = _orientation(local, stream, first) if first else Orientation()
        source_size = turned_size((first.width, first.height) if first else coded_size, turn)
        target = target_size(source_size, size, short_side, max_pixels)
        everything = chain([first] if first else [], pictures)
        chunks = in_chunks(((each, turn) for each in everything), target, chunk_frames)
        yield OpenedVideo(_info(stream, source_size), chunks, notes)


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


def _orientation(path: Path, stream: VideoStream, first: VideoFrame) -> Orientation:
    """How the container says that the pictures are to be turned."""
    if stream.codec_context.codec.canonical_name != "mjpeg":
        return picture_orientation(first)
    # FFmpeg puts a JPEG's EXIF before the container's word, but it is that of a photo: players and
    # FFmpeg before 8 show a video without it.
    # The pictures have been judged: what is wrong with a packet here is no fault of theirs.
    with open_container(path) as container, suppress(av.error.FFmpegError):
        again = container.streams[stream.index]
        assert isinstance(again, VideoStream)
        for packet in container.demux(again):
            plain = av.Packet(without_exif(bytes(packet)))
            for picture in again.codec_context.decode(plain):
                return picture_orientation(picture)
    return Orientation()


def target_size(
    source: tuple[int, int],
    size: tuple[int, int] | None,
    short_side: int | None,
    max_pixels: int | None,
) -> tuple[int, int]:
    """(width, height) to store a picture of `source` size in; VideoError where that is too large.

    `size` itself, or with `short_side` the source scaled to that shorter side.
    """
    assert (size is None) != (short_side is None), (
        f"size {size} and short_side {short_side}: give exactly one"
    )
    width, height = target = size or short_side_size(source, short_side or 0)
    check_pixels(width, height, max_pixels)
    if max(target) > MAX_SIDE:
        raise VideoError(
            Reason.TOO_LARGE, f"{width}x{height} is more than a JPEG holds, {MAX_SIDE} a side"
        )
    return target


def in_chunks(
    pictures: Iterable[tuple[VideoFrame, Orientation]], size: tuple[int, int], chunk_frames: int
) -> Iterator[NDArray[np.uint8]]:
    """(t, H, W, 3) for `size` = (W, H), every picture scaled to it whatever its own size is.

    A VideoError among the pictures comes after the chunk of those before it.
    """
    scaler = VideoReformatter()
    # At least two, because flow is between two; a size is 0 where there are no pictures.
    chunk_frames = min(chunk_frames, max(2, CHUNK_BYTES // max(1, 3 * size[0] * size[1])))
    chunk = np.empty((chunk_frames, size[1], size[0], 3), np.uint8)
    num_given, filled = 0, 0
    fault: VideoError | None = None
    try:
        for picture, turn in pictures:
            try:
                chunk[filled] = scaled(scaler, picture, size, turn)
            except av.error.FFmpegError as error:
                source = f"{picture.width}x{picture.height} in {picture.format.name}"
                wanted = f"{size[0]}x{size[1]} in RGB"
                detail = f"{source} cannot be turned into {wanted}: {error_text(error)}"
                raise VideoError(Reason.DECODE_ERROR, detail, num_given + filled) from error
            filled += 1
            if filled == chunk_frames:
                yield chunk
                num_given += filled
                # A new array: the caller may still hold the one that was given out.
                chunk, filled = np.empty_like(chunk), 0
    except VideoError as error:
        fault = error
    if filled:
        yield chunk[:filled]
    if fault is not None:
        raise fault


def _info(stream: VideoStream, size: tuple[int, int]) -> VideoInfo:
    """Size, frame rate and frame count of the header; None for what is not known."""
    # FFmpeg's guess is the container's clock, such as 90000, when it knows no rate.
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return VideoInfo(*size, rate if 0 < rate <= MAX_FPS else None, stream.frames or None)
