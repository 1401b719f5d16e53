"""A folder of numbered images (`img_00001.jpg`, ...) -> frames, as if it were a video.

For users who no longer have the videos. Images take the same path as decoded pictures, so size and
colours come out alike. A gap in the numbers, a first number that is neither 0 nor 1, or a file that
was cut short makes the video unusable, with a reason. The price: it cannot be seen that a folder
has lost its last images.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
from av.video.frame import VideoFrame

from twinstream.preprocess.decode.decoding import check_pixels
from twinstream.preprocess.decode.picture import Orientation, short_side_size
from twinstream.preprocess.decode.video import in_chunks
from twinstream.preprocess.decode.video_stream import OpenedVideo, VideoInfo
from twinstream.shards.format.image import has_jpeg_end
from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.rawframes.names import NO_FRAMES, number_fault, numbered_images, prefix_fault


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
        raise VideoError(Reason.DECODE_ERROR, fault)
    return [frame.name for frame in frames]


@contextmanager
def open_frames(
    path: Path,
    *,
    size: tuple[int, int] | None,
    short_side: int | None,
    chunk_frames: int,
    max_pixels: int | None = None,
) -> Iterator[OpenedVideo]:
    """All images of the folder `path` in chunks, with the arguments of `open_video`."""
    assert (size is None) != (short_side is None), (
        f"size {size} and short_side {short_side}: give exactly one"
    )
    names = frame_names(_listed(path))
    # The first image is decoded twice, so that the size is known before the iteration starts.
    first = _picture(path, names[0], max_pixels)
    source_size = first.width, first.height
    target = size or short_side_size(source_size, short_side or 0)
    check_pixels(*target, max_pixels)
    pictures = _pictures(path, names, source_size, max_pixels)
    chunks = in_chunks(pictures, target, Orientation(), chunk_frames)
    yield OpenedVideo(VideoInfo(*source_size, None, len(names)), chunks)


def _listed(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError as error:
        raise VideoError(Reason.MISSING, "no such folder") from error
    except OSError as error:
        raise VideoError(Reason.UNREADABLE, error.strerror or "cannot be read") from error


def _pictures(
    path: Path, names: Sequence[str], size: tuple[int, int], max_pixels: int | None
) -> Iterator[VideoFrame]:
    for name in names:
        picture = _picture(path, name, max_pixels)
        # Scaling it to the others' size would hide that two videos lie in one folder.
        if (picture.width, picture.height) != size:
            found = f"{picture.width}x{picture.height}"
            raise VideoError(
                Reason.DECODE_ERROR, f"{name}: {found}, the first image is {size[0]}x{size[1]}"
            )
        yield picture


def _picture(folder: Path, name: str, max_pixels: int | None) -> VideoFrame:
    """One image; VideoError where it is damaged or too large."""
    try:
        data = (folder / name).read_bytes()
        # libjpeg and FFmpeg paint over what a cut JPEG lacks and report nothing.
        if name.lower().endswith((".jpg", ".jpeg")) and not has_jpeg_end(data):
            raise VideoError(
                Reason.DECODE_ERROR, f"{name}: {len(data)} bytes without the end of a JPEG"
            )
        with av.open(io.BytesIO(data), "r") as container:
            for stream in container.streams.video[:1]:
                # Before decoding: a small file's header may claim a picture that fills memory.
                check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels)
                for picture in container.decode(stream):
                    return picture
    except (OSError, av.error.FFmpegError) as error:
        raise VideoError(
            Reason.DECODE_ERROR, f"{name}: {error.strerror or type(error).__name__}"
        ) from error
    raise VideoError(Reason.DECODE_ERROR, f"{name}: no image")
