"""Cut, joined and interlaced files: what can be shown is shown, what is lacking is an error."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from tests.support.videos import moving_square, write_video
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError

X264 = ("libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=12"})
CLOSED = ("libx264", {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"})
INTERLACED = ("libx264", {"x264-params": "interlaced=1:scenecut=0:keyint=24:min-keyint=24"})
REFRESH = ("libx264", {"x264-params": "intra-refresh=1:bframes=0:keyint=12"})
GROUPS = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
X265 = ("libx265", {"x265-params": f"log-level=0:open-gop=1:{GROUPS}"})
MPEG4, MPEG2 = ("mpeg4", {"bf": "2"}), ("mpeg2video", {"bf": "2"})
MPEG1 = ("mpeg1video", {"bf": "2"})
Coder = tuple[str, dict[str, str]]


def encoded(path: Path, coder: Coder, num_frames: int = 48) -> Path:
    """A moving square in groups of 12 pictures."""
    codec, options = coder
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for frame in moving_square(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def copied(source: Path, path: Path, *, from_packet: int | None = None) -> Path:
    """The packets from a number on, or from the second key picture on, in another container."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        for packet in packets[keys[1] if from_packet is None else from_packet :]:
            packet.stream = stream
            new.mux(packet)
    return path


def joined(path: Path, *pieces: Path) -> Path:
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return path


def result(path: Path, *, up_to_damage: bool = False) -> tuple[int, list[str], VideoError | None]:
    """(frames, notes, error) of a video."""
    num_frames, notes = 0, []
    try:
        with open_video(
            path, size=(32, 24), short_side=None, chunk_frames=4, up_to_damage=up_to_damage
        ) as video:
            for chunk in video:
                num_frames += len(chunk)
            notes = list(video.notes)
    except VideoError as error:
        return num_frames, [], error
    return num_frames, notes, None


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
@pytest.mark.parametrize(
    ("coder", "num_shown", "num_leading"),
    [
        (X264, 36, 3),
        (CLOSED, 36, 0),
        (INTERLACED, 24, 0),
        (X265, 36, 3),
        (MPEG4, 36, 2),
        (MPEG2, 36, 2),
        (MPEG1, 36, 2),
    ],
)
def test_of_a_video_cut_at_a_key_picture_only_leading_pictures_are_left_out(
    tmp_path: Path, coder: Coder, num_shown: int, num_leading: int, suffix: str
) -> None:
    whole = encoded(tmp_path / "whole.ts", coder)
    assert result(whole) == (48, [], None)
    num_frames, notes, error = result(copied(whole, tmp_path / f"cut{suffix}"))
    assert (num_frames, error) == (num_shown, None)
    text = f"{num_leading} leading pictures refer to what was cut off: left out"
    assert notes == ([text] if num_leading else [])


def test_of_a_gradual_refresh_the_pictures_until_it_is_done_are_left_out(tmp_path: Path) -> None:
    whole = encoded(tmp_path / "whole.ts", REFRESH)
    num_frames, notes, error = result(copied(whole, tmp_path / "cut.mkv"))
    assert error is None
    assert 20 < num_frames < 36
    assert notes == [f"{36 - num_frames} leading pictures refer to what was cut off: left out"]


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_joined_piece_with_a_gradual_refresh_lacks_its_leading_pictures_alone(
    tmp_path: Path, suffix: str
) -> None:
    whole = encoded(tmp_path / f"whole{suffix}", REFRESH)
    piece = copied(whole, tmp_path / f"piece{suffix}")
    num_frames, notes, error = result(piece)
    assert error is None
    assert result(joined(tmp_path / f"both{suffix}", whole, piece)) == (
        48 + num_frames,
        notes,
        None,
    )


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize("coder", [X264, CLOSED, INTERLACED, X265, MPEG4, MPEG2])
def test_a_video_cut_between_key_pictures_is_an_error(
    tmp_path: Path, coder: Coder, suffix: str
) -> None:
    whole = encoded(tmp_path / "whole.ts", coder)
    _, _, error = result(copied(whole, tmp_path / f"cut{suffix}", from_packet=5))
    assert error is not None
    assert (error.detail, error.num_whole) == (
        "frame 0: decoding cannot begin in the middle of a stream",
        0,
    )


@pytest.mark.parametrize("coder", [X264, CLOSED, INTERLACED, X265, MPEG4, MPEG2, MPEG1])
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_two_joined_files_give_the_frames_of_both(
    tmp_path: Path, coder: Coder, suffix: str
) -> None:
    whole = encoded(tmp_path / "whole.ts", coder)
    first = copied(whole, tmp_path / f"first{suffix}", from_packet=0)
    assert result(joined(tmp_path / f"both{suffix}", first, first)) == (96, [], None)


@pytest.mark.parametrize(
    ("coder", "num_leading"), [(X264, 3), (CLOSED, 0), (X265, 3), (MPEG4, 2), (MPEG2, 2)]
)
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_joined_piece_that_was_cut_lacks_its_leading_pictures_alone(
    tmp_path: Path, coder: Coder, num_leading: int, suffix: str
) -> None:
    whole = encoded(tmp_path / "whole.ts", coder)
    first = copied(whole, tmp_path / f"first{suffix}", from_packet=0)
    piece = copied(whole, tmp_path / f"piece{suffix}")
    num_frames, notes, error = result(joined(tmp_path / f"both{suffix}", first, piece))
    assert (num_frames, error) == (84, None)
    text = f"{num_leading} leading pictures refer to what was cut off: left out"
    assert notes == ([text] if num_leading else [])


@pytest.mark.parametrize("coder", [X264, CLOSED, X265, MPEG4, MPEG2])
def test_pieces_of_one_transport_stream_that_follow_each_other_are_whole(
    tmp_path: Path, coder: Coder
) -> None:
    whole = encoded(tmp_path / "whole.ts", coder)
    options = {"segment_time": "0.4"}
    with (
        av.open(str(whole)) as old,
        av.open(str(tmp_path / "%d.ts"), "w", "segment", options=options) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    pieces = sorted(tmp_path.glob("[0-9].ts"))
    assert len(pieces) > 2
    assert result(joined(tmp_path / "all.ts", *pieces)) == (48, [], None)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".flv"])
def test_where_only_the_first_of_joined_files_is_read_a_note_says_so(
    tmp_path: Path, suffix: str
) -> None:
    first = encoded(tmp_path / f"first{suffix}", CLOSED)
    second = encoded(tmp_path / f"second{suffix}", CLOSED, 24)
    size = first.stat().st_size
    note = f"another file follows at byte {size} and is not read"
    assert result(joined(tmp_path / f"both{suffix}", first, second)) == (48, [note], None)


def test_joined_avi_files_give_the_frames_of_both_or_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    first = write_video(tmp_path / "first.avi", noise[:20])
    second = write_video(tmp_path / "second.avi", noise)
    path = joined(tmp_path / "both.avi", first, second)
    assert result(path) == (50, [], None)
    path.write_bytes(path.read_bytes()[: -second.stat().st_size // 2])
    assert result(path)[2] is not None


def fragmented(path: Path, num_frames: int, flags: str) -> Path:
    """An MP4 in fragments of some 7 pictures, or one a group."""
    with av.open(
        str(path), "w", options={"movflags": flags, "frag_duration": "300000"}
    ) as container:
        stream = container.add_stream("libx264", rate=25, options=CLOSED[1])
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving_square(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe"])
@pytest.mark.parametrize("second", ["cmaf+empty_moov", "frag_keyframe+empty_moov"])
def test_what_lies_behind_joined_fragments_is_not_blamed_on_the_first(
    tmp_path: Path, flags: str, second: str
) -> None:
    first = fragmented(tmp_path / "first.mp4", 48, flags)
    more = fragmented(tmp_path / "more.mp4", 24, second)
    note = f"another file follows at byte {first.stat().st_size} and is not read"
    assert result(joined(tmp_path / "both.mp4", first, more)) == (48, [note], None)


def test_two_joined_mxf_files_give_the_frames_of_both(tmp_path: Path) -> None:
    first = encoded(tmp_path / "first.mxf", MPEG2)
    assert result(joined(tmp_path / "both.mxf", first, first)) == (96, [], None)


@pytest.mark.parametrize("coder", [CLOSED, MPEG2])
def test_a_transport_stream_without_one_of_its_packets_is_an_error(
    tmp_path: Path, coder: Coder
) -> None:
    content = encoded(tmp_path / "whole.ts", coder).read_bytes()
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    videos = [
        number for number, packet in enumerate(packets) if packet[1] & 0x1F == 1 and not packet[2]
    ]
    # What follows the last one is not missed.
    for number in videos[1:-1:7]:
        (tmp_path / "lost.ts").write_bytes(b"".join(packets[:number] + packets[number + 1 :]))
        _, _, error = result(tmp_path / "lost.ts")
        assert error is not None
        assert "transport packets are missing" in error.detail


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi", ".flv", ".mp4"])
def test_frames_before_a_cut_at_the_end_are_kept_and_known_to_be_whole(
    tmp_path: Path, suffix: str
) -> None:
    path = write_video(
        tmp_path / f"cut{suffix}",
        moving_square(48),
        codec="mpeg4" if suffix == ".avi" else "libx264",
        muxer_options={"movflags": "faststart"} if suffix == ".mp4" else None,
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 8 // 10])
    num_frames, _, error = result(path, up_to_damage=True)
    assert error is not None
    assert error.num_whole == num_frames
    assert 20 <= num_frames < 48
