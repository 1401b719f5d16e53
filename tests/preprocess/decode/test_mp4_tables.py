"""The tables of an MP4: whichever says more is believed, and a contradiction hides nothing."""

import struct
from pathlib import Path

import av
import pytest

from tests.support.videos import moving_square, write_video
from twinstream.preprocess.decode.mp4_tables import boxes, inner, mp4_track
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError

NUM_FRAMES = 40


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An H.264 video with B pictures: one chunk, one duration, an edit list."""
    path = tmp_path_factory.mktemp("mp4") / "a.mp4"
    write_video(path, moving_square(NUM_FRAMES), codec="libx264")
    return path.read_bytes()


def changed(content: bytes, table: bytes, offset: int, number: int) -> bytes:
    """A number of a table replaced; `offset` is counted from the table's version."""
    at = content.index(table) + 4 + offset
    return content[:at] + struct.pack(">I", number) + content[at + 4 :]


def outcome(path: Path, content: bytes) -> tuple[int, str]:
    path.write_bytes(content)
    num_frames = 0
    try:
        with open_video(path, size=(32, 24), short_side=None, chunk_frames=4) as video:
            num_frames = sum(map(len, video))
    except VideoError as error:
        return num_frames, error.detail
    return num_frames, ""


@pytest.mark.parametrize(
    ("table", "offset", "number", "detail"),
    [
        (b"stsz", 8, 10, "10 of 40 coded pictures are there"),
        (b"stsz", 8, 50, "40 of 50 coded pictures are there"),
        (b"stts", 8, 50, "40 of 50 coded pictures are there"),
        (b"stts", 4, 0, "0 of 40 coded pictures are there"),
        (b"stsc", 12, 10, "10 of 40 coded pictures are there"),
        (b"stco", 4, 0, "0 of 40 coded pictures are there"),
        (b"stco", 8, 1 << 30, "bytes after the file"),
        (b"stss", 8, 50, "40 of 50 coded pictures are there"),
        (b"ctts", 8, 100, "coded pictures are there"),
        (b"mdhd", 16, 40 * 512 * 2, "40 of 80 coded pictures are there"),  # twice the duration
        (b"stts", 12, 5120, "of 40 coded pictures are there"),  # the edit list hides the rest
        (b"elst", 8, 800, "of 40 coded pictures are there"),  # half of what tkhd says
        (b"elst", 12, 10240, "of 40 coded pictures are there"),  # more than there is
    ],
)
def test_a_table_that_contradicts_the_others_is_an_error(
    tmp_path: Path, content: bytes, table: bytes, offset: int, number: int, detail: str
) -> None:
    assert detail in outcome(tmp_path / "a.mp4", changed(content, table, offset, number))[1]


@pytest.mark.parametrize(
    ("table", "offset", "number"),
    [
        (b"stsc", 12, 70),  # the last chunk is said to be as full as the others
        (b"mdhd", 16, 0),
        (b"mdhd", 16, 0xFFFFFFFF),
        (b"mdhd", 16, 40 * 512 + 512),
        (b"stss", 4, 1),
        (b"ctts", 4, 3),
    ],
)
def test_what_hides_no_picture_is_no_error(
    tmp_path: Path, content: bytes, table: bytes, offset: int, number: int
) -> None:
    path = tmp_path / "a.mp4"
    assert outcome(path, changed(content, table, offset, number)) == (NUM_FRAMES, "")


@pytest.mark.parametrize("num_kept", range(20, 34))
def test_a_copy_that_ends_in_decoding_order_lasts_until_its_last_picture(
    tmp_path: Path, num_kept: int
) -> None:
    whole, cut = tmp_path / "a.mp4", tmp_path / "b.mp4"
    options = {"x264-params": "bframes=7:b-adapt=0:b-pyramid=normal:scenecut=0"}
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_square(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(whole)) as old, av.open(str(cut), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][:num_kept]:
            packet.stream = copy
            new.mux(packet)
    assert outcome(cut, cut.read_bytes()) == (num_kept, "")


def test_chunks_may_not_overlap(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", moving_square(60), codec="mjpeg", pix_fmt="yuvj420p", sound=True
    )
    content = path.read_bytes()
    at = content.index(b"stco") + 8
    assert struct.unpack(">I", content[at : at + 4])[0] > 1
    first = content[at + 4 : at + 8]
    path.write_bytes(content[: at + 8] + first + content[at + 12 :])
    assert "two chunks of pictures hold byte" in outcome(path, path.read_bytes())[1]


def test_boxes_end_where_one_is_cut() -> None:
    content = b"\0\0\0\x0cfreeabcd" + b"\0\0\0\x20mdat"
    assert list(boxes(content, 0, len(content))) == [(b"free", 8, 12)]
    assert list(inner(content, 0, len(content), b"free")) == [(8, 12)]


def test_an_empty_header_has_no_track() -> None:
    assert mp4_track(b"", 1) is None
