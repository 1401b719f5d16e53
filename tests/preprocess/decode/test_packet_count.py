"""The count of pictures that were promised, that are silent, and that came."""

import pytest

from twinstream.preprocess.decode.packet_count import PacketCount, is_silent, promised_packets


@pytest.mark.parametrize(
    ("packets", "silent", "interlaced", "frames", "promised", "shortfall"),
    [
        (40, 0, 0, 40, 40, None),
        (40, 0, 0, 40, 0, None),
        (0, 0, 0, 0, 0, None),
        (39, 0, 0, 39, 40, "cut off or damaged: 39 of 40 coded pictures are there"),
        (0, 0, 0, 0, 40, "cut off or damaged: 0 of 40 coded pictures are there"),
        (40, 0, 0, 39, 40, "damaged: 39 frames from 40 coded pictures"),
        (372, 1, 0, 371, 372, None),
        (372, 1, 0, 370, 372, "damaged: 370 frames from 371 coded pictures"),
        (80, 0, 40, 40, 0, None),
        (80, 0, 40, 39, 0, "damaged: 39 frames from 80 coded pictures"),
        (40, 0, 0, 41, 40, None),
    ],
)
def test_a_shortfall_is_any_picture_that_is_absent_without_a_reason(
    packets: int, silent: int, interlaced: int, frames: int, promised: int, shortfall: str | None
) -> None:
    assert PacketCount(packets, silent, interlaced, frames).shortfall(promised) == shortfall


@pytest.mark.parametrize(
    ("codec", "content", "discarded", "num_frames", "silent"),
    [
        ("h264", bytes(500), False, 1, False),
        ("h264", bytes(500), False, 0, False),
        ("h264", bytes(500), True, 0, True),
        ("mpeg4", bytes(6), False, 0, True),
        ("mpeg4", bytes(6), False, 1, False),
        ("mpeg4", bytes(17), False, 0, False),
        ("vp8", b"\x10" + bytes(50), False, 1, False),
        ("vp8", b"\x00" + bytes(50), False, 0, True),
        ("vp8", b"", False, 0, False),
    ],
)
def test_a_packet_is_silent_only_for_a_reason_known_by_name(
    codec: str, content: bytes, discarded: bool, num_frames: int, silent: bool
) -> None:
    assert is_silent(codec, content, discarded=discarded, num_frames=num_frames) == silent


@pytest.mark.parametrize(
    ("format_name", "in_header", "index_at_open", "num_indexed", "promised"),
    [
        ("avi", 180, list(range(180)), 180, 180),
        ("avi", 41, [0, *range(2, 41)], 40, 40),  # chunk 1 is empty
        ("avi", 180, [0], 140, 180),  # cut: the index at the end is gone
        ("avi", 180, [], 0, 180),
        ("avi", 0, [], 0, 0),
        ("mov,mp4,m4a,3gp,3g2,mj2", 40, [0, 512], 40, 40),
        (
            "mov,mp4,m4a,3gp,3g2,mj2",
            0,
            [0, 512],
            280,
            280,
        ),  # fragments, indexed while they are read
        ("mov,mp4,m4a,3gp,3g2,mj2", 40, [], 0, 40),
        ("mpegts", 0, [], 0, 0),
    ],
)
def test_the_promise_is_the_better_of_header_and_index(
    format_name: str, in_header: int, index_at_open: list[int], num_indexed: int, promised: int
) -> None:
    assert promised_packets(format_name, in_header, index_at_open, num_indexed) == promised
