"""Lost pictures, overwritten bytes and damaged scans end as an error before a wrong picture comes.

And none of the many ways to write a whole video does.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread

import av
import cv2
import numpy as np
import pytest
from av import logging as ffmpeg_log
from numpy.typing import NDArray

from tests.support.videos import moving_square
from twinstream.preprocess.decode.damage import captured_log
from twinstream.preprocess.decode.image_folder import open_frames
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import Reason, VideoError

X264 = {"preset": "veryfast", "x264-params": "keyint=12:bframes=0"}
PYRAMID = X264 | {"x264-params": "keyint=12:bframes=3:b-adapt=0:b-pyramid=normal"}
OPEN_GOP = X264 | {"x264-params": "keyint=12:bframes=3:open-gop=1"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12:bframes=3"}
B_FRAMES = {"bf": "2", "g": "12", "qmin": "2", "qmax": "2"}


def textured(num_frames: int) -> NDArray[np.uint8]:
    """A square over a noise that does not move, so that every packet has some bytes."""
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    return moving_square(num_frames) + noise


def encoded(
    path: Path, codec: str, options: dict[str, str], num_frames: int = 40, pix_fmt: str = "yuv420p"
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for frame in textured(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def copied(source: Path, target: Path, keeps: Callable[[int], bool]) -> Path:
    """The packets whose number is kept."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream, opaque=True)
        packets = [packet for packet in read.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            if keeps(number):
                packet.stream = copy
                written.mux(packet)
    return target


def decoded(path: Path) -> tuple[list[bytes], VideoError | None]:
    """Every picture that is given, and the error that ended it."""
    pictures: list[bytes] = []
    try:
        with open_video(path, size=(64, 48), short_side=None, chunk_frames=1) as video:
            pictures.extend(chunk.tobytes() for chunk in video)
    except VideoError as error:
        return pictures, error
    return pictures, None


def overwrite(path: Path, content: Callable[[int], bytes]) -> None:
    """Put other bytes in the middle of the largest picture but the first ones."""
    with av.open(str(path)) as container:
        packets = list(container.demux(container.streams.video[0]))
    largest = max((packet for packet in packets[12:]), key=lambda packet: packet.size)
    place, num_bytes = largest.pos + largest.size // 4, largest.size // 2
    data = bytearray(path.read_bytes())
    data[place : place + num_bytes] = content(num_bytes)
    path.write_bytes(data)


CODECS = [
    ("libx264", X264, ".mp4"),
    ("libx264", PYRAMID, ".mp4"),
    ("libx264", PYRAMID, ".ts"),
    ("libx264", OPEN_GOP, ".mkv"),
    ("libx265", X265, ".mp4"),
    ("mpeg2video", B_FRAMES, ".ts"),
    ("mpeg1video", B_FRAMES, ".mkv"),
    ("libsvtav1", {"preset": "12", "g": "12"}, ".mp4"),
]


# 11 is left out: without B pictures, nothing refers to the last picture before a key picture.
@pytest.mark.parametrize("lost", [1, 2, 3, 4, 7, 12, 13, 20, 24, 30, 37])
@pytest.mark.parametrize(("codec", "options", "suffix"), CODECS)
def test_a_lost_picture_is_an_error_before_a_wrong_one(
    tmp_path: Path, codec: str, options: dict[str, str], suffix: str, lost: int
) -> None:
    whole = encoded(tmp_path / f"a{suffix}", codec, options)
    path = copied(whole, tmp_path / f"b{suffix}", lambda number: number != lost)
    pictures, error = decoded(path)
    assert error is not None
    assert error.reason is Reason.DECODE_ERROR
    assert pictures == decoded(whole)[0][: len(pictures)]
    assert error.num_whole == len(pictures)
    assert error.detail.startswith(f"frame {len(pictures)}: ")


@pytest.mark.parametrize(
    ("codec", "options", "suffix", "pix_fmt"),
    [
        ("libx264", PYRAMID, ".mp4", "yuv420p"),
        ("libx265", X265, ".mkv", "yuv420p"),
        ("mpeg4", B_FRAMES, ".avi", "yuv420p"),
        ("mpeg2video", B_FRAMES, ".mkv", "yuv420p"),
        ("libvpx", {"b": "500k"}, ".webm", "yuv420p"),
        ("libvpx-vp9", {"b": "500k", "cpu-used": "8"}, ".webm", "yuv420p"),
        ("wmv1", {}, ".avi", "yuv420p"),
        ("wmv2", {}, ".avi", "yuv420p"),
        ("msmpeg4", {}, ".avi", "yuv420p"),
        ("flv", {}, ".flv", "yuv420p"),
        ("ffv1", {"level": "3"}, ".mkv", "yuv420p"),
        ("png", {}, ".mov", "rgb24"),
    ],
)
def test_zeros_over_a_picture_are_an_error_before_a_wrong_one(
    tmp_path: Path, codec: str, options: dict[str, str], suffix: str, pix_fmt: str
) -> None:
    path = encoded(tmp_path / f"a{suffix}", codec, options, pix_fmt=pix_fmt)
    whole, error = decoded(path)
    assert error is None
    overwrite(path, bytes)
    pictures, error = decoded(path)
    assert error is not None
    assert error.reason is Reason.DECODE_ERROR
    assert pictures == whole[: len(pictures)]


@pytest.mark.parametrize("codec", ["wmv1", "wmv2", "msmpeg4", "msmpeg4v2", "mpeg4", "flv"])
def test_noise_over_a_picture_is_an_error_before_a_wrong_one(tmp_path: Path, codec: str) -> None:
    path = encoded(tmp_path / "a.avi", codec, {"qmin": "2", "qmax": "2"})
    whole, _ = decoded(path)
    overwrite(path, np.random.default_rng(0).bytes)
    pictures, error = decoded(path)
    assert error is not None
    assert pictures == whole[: len(pictures)]


@pytest.mark.parametrize(
    ("codec", "options", "suffix"),
    [
        *CODECS,
        ("libx264", X264 | {"x264-params": "keyint=20:intra-refresh=1:bframes=2"}, ".mp4"),
        ("libx264", X264 | {"x264-params": "keyint=20:interlaced=1"}, ".ts"),
        ("libx264", X264 | {"x264-params": "slices=3:ref=6:bframes=5"}, ".mkv"),
        ("libx264", X264 | {"profile": "baseline"}, ".flv"),
        ("libx264", X264 | {"x264-params": "keyint=1"}, ".mp4"),
        ("libx265", X265 | {"x265-params": "log-level=none:keyint=12:open-gop=1"}, ".ts"),
        ("libx265", X265 | {"x265-params": "log-level=none:radl=2:open-gop=0"}, ".mkv"),
        ("libx265", X265 | {"x265-params": "log-level=none:temporal-layers=3"}, ".mp4"),
        ("mpeg4", B_FRAMES | {"flags": "+qpel+mv4"}, ".avi"),
        ("mpeg2video", B_FRAMES | {"flags": "+ildct+ilme"}, ".mkv"),
        ("libvpx-vp9", {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}, ".webm"),
        ("libvpx", {"lag-in-frames": "16", "auto-alt-ref": "1"}, ".webm"),
        ("libsvtav1", {"preset": "12"}, ".mp4"),
        ("wmv2", {}, ".wmv"),
        ("msmpeg4v2", {}, ".avi"),
        ("mjpeg", {"strict": "-1"}, ".avi"),
    ],
)
def test_a_whole_video_is_not_refused(
    tmp_path: Path, codec: str, options: dict[str, str], suffix: str
) -> None:
    path = encoded(tmp_path / f"a{suffix}", codec, options)
    pictures, error = decoded(path)
    assert error is None
    assert len(pictures) == 40


def test_pictures_at_uneven_times_are_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=PYRAMID)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, picture in enumerate(textured(40)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number * 2 + (number % 3 == 0), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pictures, error = decoded(path)
    assert (error, len(pictures)) == (None, 40)


@pytest.mark.parametrize("num_kept", [26, 27, 28, 29])
def test_a_copy_that_ends_in_decoding_order_is_not_refused(tmp_path: Path, num_kept: int) -> None:
    whole = encoded(tmp_path / "a.mkv", "libx264", PYRAMID)
    path = copied(whole, tmp_path / "b.mkv", lambda number: number < num_kept)
    pictures, error = decoded(path)
    assert (error, len(pictures)) == (None, num_kept)


def write_jpegs(folder: Path, damage: Callable[[bytearray], None]) -> Path:
    """Three JPEGs, the second one damaged."""
    folder.mkdir()
    for number, frame in enumerate(textured(3), 1):
        data = bytearray(cv2.imencode(".jpg", frame)[1].tobytes())
        if number == 2:
            damage(data)
        (folder / f"img_{number:05}.jpg").write_bytes(data)
    return folder


def test_a_jpeg_with_a_damaged_scan_is_an_error(tmp_path: Path) -> None:
    def overwrite(data: bytearray) -> None:
        begin = data.index(b"\xff\xda") + 60
        data[begin : begin + 200] = bytes(200)

    folder = write_jpegs(tmp_path / "v", overwrite)
    with (
        pytest.raises(VideoError, match=r"img_00002\.jpg: damaged: ") as raised,
        open_frames(folder, size=(64, 48), short_side=None, chunk_frames=1) as video,
    ):
        list(video)
    assert raised.value.num_whole == 1


@pytest.mark.parametrize("level", [None, ffmpeg_log.VERBOSE])
def test_the_log_level_is_left_as_it_was_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], level: int | None
) -> None:
    whole = encoded(tmp_path / "a.mp4", "libx264", PYRAMID)
    path = copied(whole, tmp_path / "b.mp4", lambda number: number != 8)
    before = ffmpeg_log.get_level(), ffmpeg_log.get_skip_repeated()
    ffmpeg_log.set_level(level)
    try:
        assert decoded(path)[1] is not None
        assert (ffmpeg_log.get_level(), ffmpeg_log.get_skip_repeated()) == (level, before[1])
    finally:
        ffmpeg_log.set_level(before[0])
    if level is None:
        assert capfd.readouterr() == ("", "")


def test_the_log_level_is_as_before_when_captures_in_two_threads_overlap() -> None:
    level, entered, left = ffmpeg_log.get_level(), Event(), Event()

    def capture() -> None:
        with captured_log():
            entered.set()
            left.wait(10)

    thread = Thread(target=capture)
    with captured_log():
        thread.start()
        assert entered.wait(10)
    # The other thread still listens.
    assert ffmpeg_log.get_level() == ffmpeg_log.INFO
    left.set()
    thread.join()
    assert ffmpeg_log.get_level() == level
