"""The counts of an AVI file: the largest is the promise, but for empty chunks and one too many."""

import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import av
import pytest

from tests.support.videos import moving_square, write_video
from twinstream.preprocess.decode.avi_chunks import AviFile, avi_files
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def avi(num_in_header: int, *pictures: bytes, index: bool = True, open_dml: bool = False) -> bytes:
    """A file of one stream; the index has a name, flags, place and size for each picture."""
    header = chunk(b"avih", bytes(16) + struct.pack("<I", num_in_header) + bytes(36))
    stream = chunk(b"strh", b"vids" + bytes(28) + struct.pack("<I", num_in_header) + bytes(20))
    entries = b"".join(b"00dc" + struct.pack("<3I", 0, 0, len(each)) for each in pictures)
    content = b"".join(chunk(b"00dc", each) for each in pictures)
    if open_dml:
        places = b"".join(struct.pack("<2I", 0, len(each) | 1 << 31) for each in pictures)
        content += chunk(b"ix00", struct.pack("<2I", 0, len(pictures)) + bytes(16) + places)
    lists = chunk(b"LIST", b"hdrl" + header + chunk(b"LIST", b"strl" + stream))
    lists += chunk(b"LIST", b"movi" + content)
    return chunk(b"RIFF", b"AVI " + lists + (chunk(b"idx1", entries) if index else b""))


def promises(content: bytes) -> list[int]:
    return [each.num_promised for each in avi_files(BytesIO(content), len(content), 0)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (avi(3, b"a", b"b", b"c"), [3]),
        (avi(5, b"a", b"b", b"c"), [5]),
        (avi(4, b"a", b"b", b"c"), [3]),  # one too many
        (avi(4, b"a", b"b", b"c", index=False), [4]),
        (avi(2, b"a", b"b", b"c"), [3]),
        (avi(0, b"a", b"b", b"c"), [3]),
        (avi(5, b"a", b"b", b"c", b"", b""), [3]),  # empty ones at the end
        (avi(5, b"a", b"", b"", b"b", b"c"), [3]),
        (avi(3, b"a", b"b", b"c", index=False, open_dml=True), [3]),
        (avi(3, b"a", b"b", b"c") + avi(2, b"a", b"b"), [3, 2]),
        (avi(3, b"a", b"b", b"c")[:-60], [3]),
        (avi(1 << 30, b"a", b"b", b"c"), [3]),  # written into a pipe
        (b"RIFF", []),
        (b"", []),
    ],
)
def test_the_largest_count_is_promised(content: bytes, expected: list[int]) -> None:
    assert promises(content) == expected


def test_the_index_counts_where_chunks_cannot_be_followed() -> None:
    assert AviFile(0, num_in_header=40, num_in_index=60, num_chunks=3).num_promised == 60
    assert AviFile(0, num_in_open_dml=60, num_chunks=3).num_promised == 60


def test_the_header_of_the_file_does_not_count_a_second_video() -> None:
    two = AviFile(0, num_in_header=30, num_in_file_header=60, num_videos=2, num_chunks=30)
    assert two.num_promised == 30
    assert replace(two, num_videos=1).num_promised == 60


def test_the_shorter_of_two_videos_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    videos = moving_square(20), moving_square(8, 128, 96)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in videos]
        for stream, frames in zip(streams, videos, strict=True):
            stream.height, stream.width = frames.shape[1:3]
        for stream, frames in zip(streams, videos, strict=True):
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))
    with open_video(path, size=(32, 24), short_side=None, chunk_frames=4) as video:
        assert sum(map(len, video)) == 8


@pytest.mark.parametrize(("num_empty", "more"), [(0, 0), (2, 2), (0, 1)])
def test_empty_chunks_at_the_end_are_no_frames(tmp_path: Path, num_empty: int, more: int) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(20))
    content = path.read_bytes()
    at = content.index(b"idx1")
    size = struct.unpack("<I", content[at + 4 : at + 8])[0]
    index = content[at + 8 : at + 8 + size] + num_empty * (b"00dc" + bytes(12))
    content = content[:at] + num_empty * (b"00dc" + bytes(4)) + chunk(b"idx1", index)
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        place = content.index(name) + offset
        content = content[:place] + struct.pack("<I", 20 + more) + content[place + 4 :]
    path.write_bytes(content)
    with open_video(path, size=(32, 24), short_side=None, chunk_frames=4) as video:
        assert sum(map(len, video)) == 20


def test_a_header_of_two_more_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(20))
    content = path.read_bytes()
    place = content.index(b"strh") + 40
    path.write_bytes(content[:place] + struct.pack("<I", 22) + content[place + 4 :])
    with (
        pytest.raises(VideoError, match="20 of 22 coded pictures are there"),
        open_video(path, size=(32, 24), short_side=None, chunk_frames=4) as video,
    ):
        list(video)
