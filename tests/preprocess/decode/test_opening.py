"""Which files are videos: a closed list of formats, read from the file alone, and the stream of
several that is taken.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import av.logging
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream

from tests.support.videos import moving_square, write_video
from twinstream.preprocess.decode.opening import VIDEO_FORMATS
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError

LINES = "some words of a text\n" * 80
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nreal.ts\n"
CONCAT = "ffconcat version 1.0\nfile real.mp4\nfile real.mp4\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:01,000 --> 00:00:02,000\nyou\n"


def outcome(path: Path) -> str:
    """`7 frames of 64x48`, or the error."""
    try:
        with open_video(path, size=(32, 32), short_side=None, chunk_frames=16) as video:
            num_frames = sum(map(len, video))
            return f"{num_frames} frames of {video.info.width}x{video.info.height}"
    except VideoError as error:
        return str(error)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("about.nfo", LINES, "Tele-typewriter (tty)"),
        ("file_id.diz", LINES, "Tele-typewriter (tty)"),
        ("key.asc", LINES, "Tele-typewriter (tty)"),
        ("art.ans", LINES, "Tele-typewriter (tty)"),
        ("list.m3u8", HLS, "Apple HTTP Live Streaming (hls)"),
        ("list.ts", HLS, "Apple HTTP Live Streaming (hls)"),
        ("over.m3u8", HLS + "#EXT-X-ENDLIST\n", "Apple HTTP Live Streaming (hls)"),
        ("list.ffconcat", CONCAT, "Virtual concatenation script (concat)"),
        ("list.mp4", CONCAT, "Virtual concatenation script (concat)"),
        ("call.sdp", SDP, "SDP (sdp)"),
        ("words.srt", SUBTITLES, "SubRip subtitle (srt)"),
        ("words.mp4", SUBTITLES, "SubRip subtitle (srt)"),
        ("words.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n", "WebVTT subtitle (webvtt)"),
        ("tags.txt", ";FFMETADATA1\ntitle=x\n", "FFmpeg metadata in text (ffmetadata)"),
    ],
)
def test_a_text_is_no_video_and_the_files_that_it_names_are_not_opened(
    tmp_path: Path, name: str, content: str, found: str
) -> None:
    for real in ("real.mp4", "real.ts"):
        write_video(tmp_path / real, moving_square(8), codec="libx264")
    (tmp_path / name).write_text(content)
    # Twice, because PyAV says once what FFmpeg says twice.
    assert [outcome(tmp_path / name) for _ in range(2)] == [
        f"no_video_stream: {found}, not a video"
    ] * 2


def test_nothing_of_the_log_is_changed_by_a_look_at_it(tmp_path: Path) -> None:
    (tmp_path / "about.nfo").write_text(LINES)
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    outcome(tmp_path / "about.nfo")
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before


@pytest.mark.parametrize(
    ("suffix", "found"),
    [
        (".jpg", "piped jpeg sequence (jpeg_pipe)"),
        (".png", "piped png sequence (png_pipe)"),
        (".bmp", "piped bmp sequence (bmp_pipe)"),
        (".webp", "piped webp sequence (webp_pipe)"),
    ],
)
def test_an_image_is_no_video_whatever_its_name(tmp_path: Path, suffix: str, found: str) -> None:
    for name in (f"a{suffix}", "a.mp4"):
        image = cv2.imencode(suffix, moving_square(1)[0])[1].tobytes()
        (tmp_path / name).write_bytes(image)
        assert outcome(tmp_path / name) == f"no_video_stream: {found}, not a video"


def test_a_name_that_stands_for_a_series_of_images_opens_none_of_them(tmp_path: Path) -> None:
    image = cv2.imencode(".jpg", moving_square(1)[0])[1].tobytes()
    for name in ("img%d.jpg", "img1.jpg", "img2.jpg"):
        (tmp_path / name).write_bytes(image)
    found = "image2 sequence (image2)"
    assert outcome(tmp_path / "img%d.jpg") == f"no_video_stream: {found}, not a video"


def as_zip(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def as_tar(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(("pack", "found"), [(as_zip, "ZIP archive"), (as_tar, "tar archive")])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "libx264"), ("a.h264", "libx264"), ("a.mpg", "mpeg2video"), ("a.mp4", "mpeg4")],
)
def test_a_video_in_an_archive_is_no_video(
    tmp_path: Path, name: str, codec: str, pack: Callable[[str, bytes], bytes], found: str
) -> None:
    content = write_video(tmp_path / name, moving_square(8), codec=codec).read_bytes()
    (tmp_path / "packed.mpg").write_bytes(pack(name, content))
    assert outcome(tmp_path / "packed.mpg") == f"no_video_stream: {found}, not a video"


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a.3gp", "mpeg4", "yuv420p"),
        ("a.mkv", "libx265", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.vob", "mpeg2video", "yuv420p"),
        ("a.mxf", "mpeg2video", "yuv420p"),
        ("a.nut", "mpeg4", "yuv420p"),
        ("a.ivf", "libvpx", "yuv420p"),
        ("a.h264", "libx264", "yuv420p"),
        ("a.hevc", "libx265", "yuv420p"),
        ("a.m2v", "mpeg2video", "yuv420p"),
        ("a.mjpeg", "mjpeg", "yuvj420p"),
        ("a.y4m", "wrapped_avframe", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.apng", "apng", "rgb24"),
    ],
)
def test_every_format_of_moving_pictures_is_a_video(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    path = write_video(tmp_path / name, moving_square(8), codec=codec, pix_fmt=pix_fmt)
    assert outcome(path) == "8 frames of 64x48"


def test_raw_mjpeg_is_a_video_also_where_its_pictures_are_large(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), np.uint8)
    path = write_video(tmp_path / "a.mjpeg", noise, codec="mjpeg", pix_fmt="yuvj420p")
    assert path.stat().st_size > 8 * 4096
    assert outcome(path) == "8 frames of 160x120"


def test_every_listed_format_is_one_that_is_read() -> None:
    names = VIDEO_FORMATS.split(",")
    assert len(set(names)) == len(names)
    assert [name for name in names if not av.ContainerFormat(name, "r").is_input] == []


def write_streams(
    path: Path, streams: list[tuple[int, int, Disposition]], codec: str = "mpeg4"
) -> Path:
    """A file of 6 frames in each of several streams, (width, height, disposition)."""
    with av.open(str(path), "w") as container:
        opened = []
        for width, height, disposition in streams:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = disposition
            opened.append(stream)
        for stream in 6 * opened:
            picture = np.zeros((stream.height, stream.width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in opened:
            container.mux(stream.encode(None))
    return path


NONE, DEFAULT = Disposition(0), Disposition.default


@pytest.mark.parametrize(
    ("name", "streams", "taken", "note"),
    [
        ("a.mkv", [(32, 32, NONE), (64, 48, DEFAULT)], (64, 48), "video stream 2 of 2: 64x48"),
        ("a.mkv", [(64, 48, NONE), (32, 32, DEFAULT)], (32, 32), "video stream 2 of 2: 32x32"),
        ("a.mkv", [(32, 32, DEFAULT), (64, 48, DEFAULT)], (64, 48), "video stream 2 of 2: 64x48"),
        ("a.mkv", [(64, 48, NONE), (64, 48, NONE)], (64, 48), "video stream 1 of 2: 64x48"),
        ("a.mkv", [(64, 48, NONE)], (64, 48), None),
        ("a.mp4", [(32, 32, NONE), (64, 48, DEFAULT)], (64, 48), "video stream 2 of 2: 64x48"),
        ("a.mp4", [(64, 48, NONE), (32, 32, DEFAULT)], (32, 32), "video stream 2 of 2: 32x32"),
        # These two know no default.
        ("a.avi", [(32, 32, NONE), (64, 48, NONE)], (64, 48), "video stream 2 of 2: 64x48"),
        ("a.ts", [(64, 48, NONE), (32, 32, DEFAULT)], (64, 48), "video stream 1 of 2: 64x48"),
    ],
)
def test_of_several_streams_the_default_one_is_taken_then_the_largest_then_the_first(
    tmp_path: Path,
    name: str,
    streams: list[tuple[int, int, Disposition]],
    taken: tuple[int, int],
    note: str | None,
) -> None:
    path = write_streams(tmp_path / name, streams)
    with open_video(path, size=(16, 16), short_side=None, chunk_frames=4) as video:
        assert (video.info.width, video.info.height) == taken
        assert sum(map(len, video)) == 6
        assert video.notes == ([note] if note else [])


def test_samples_in_another_file_are_not_fetched(tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mov", moving_square(8), codec="libx264")
    path = tmp_path / "a.mov"
    path.write_bytes(with_samples_elsewhere(other.read_bytes(), "vol:other.mov"))
    assert outcome(path).startswith("decode_error: ")


def with_samples_elsewhere(movie: bytes, path: str) -> bytes:
    """The movie with an alias of another file in the place of `samples are in this file`."""
    at = movie.index(b"dref") - 4
    size = int.from_bytes(movie[at : at + 4], "big")
    # Of 150 bytes at least, or FFmpeg does not look at it.
    alias = bytes(10) + b"\x03" + b"vol".ljust(27, b"\0") + bytes(12)
    alias += b"\x09" + b"other.mov".ljust(63, b"\0") + bytes(16) + b"\0\x01\0\x01" + bytes(16)
    name = path.encode() + bytes(len(path) % 2)
    alias += b"\0\x02" + len(name).to_bytes(2, "big") + name + b"\xff\xff\0\0"
    entry = (12 + len(alias)).to_bytes(4, "big") + b"alis" + bytes(4) + alias
    reference = (16 + len(entry)).to_bytes(4, "big") + b"dref" + bytes(4) + b"\0\0\0\1" + entry
    content = movie[:at] + reference + movie[at + size :]
    for holder in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        begin = content.index(holder) - 4
        grown = int.from_bytes(content[begin : begin + 4], "big") + len(reference) - size
        content = content[:begin] + grown.to_bytes(4, "big") + content[begin + 4 :]
    return content
