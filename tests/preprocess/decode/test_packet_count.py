"""The count of pictures that were promised, that are not to be seen, and that came."""

import pytest

from twinstream.preprocess.decode.coded_pictures import CodedPicture
from twinstream.preprocess.decode.packet_count import (
    PacketCount,
    is_header,
    is_silent,
    promised_packets,
)

TOP, BOTTOM = CodedPicture("top", 7), CodedPicture("bottom", 7)
FRAME, LEADING = CodedPicture(), CodedPicture(is_access=False, is_leading=True)
MIDDLE = CodedPicture(is_access=False)


@pytest.mark.parametrize(
    ("packets", "expected", "frames", "promised", "shortfall"),
    [
        (40, 40, 40, 40, None),
        (40, 40, 40, 0, None),
        (0, 0, 0, 0, None),
        (39, 39, 39, 40, "cut off or damaged: 39 of 40 coded pictures are there"),
        (0, 0, 0, 40, "cut off or damaged: 0 of 40 coded pictures are there"),
        (40, 40, 39, 40, "damaged: 39 frames from 40 coded pictures"),
        (372, 371, 371, 372, None),
        (372, 371, 370, 372, "damaged: 370 frames from 371 coded pictures"),
        (80, 40, 40, 0, None),
        (80, 40, 39, 0, "damaged: 39 frames from 40 coded pictures"),
        (40, 40, 41, 40, None),
    ],
)
def test_a_shortfall_is_any_picture_that_is_absent_without_a_reason(
    packets: int, expected: int, frames: int, promised: int, shortfall: str | None
) -> None:
    count = PacketCount("h264", packets, expected, 0, frames)
    assert count.shortfall(promised) == shortfall


@pytest.mark.parametrize(
    ("lists", "expected", "leading"),
    [
        ([[FRAME], [FRAME]], 2, 0),
        ([[TOP, BOTTOM]], 1, 0),  # both fields in a packet
        ([[TOP], [BOTTOM], [BOTTOM], [TOP]], 2, 0),  # one field a packet
        ([[TOP], [CodedPicture("bottom", 8)]], 2, 0),  # the second field of each is missing
        ([[TOP], [TOP]], 2, 0),
        ([[TOP], [FRAME], [BOTTOM]], 3, 0),
        ([[FRAME], [LEADING], [LEADING], [MIDDLE]], 2, 2),
        ([None, None], 2, 0),  # what cannot be told is a frame
        ([[FRAME], []], 1, 0),  # a packet of parameter sets alone
    ],
)
def test_two_fields_are_a_frame_and_leading_pictures_are_none(
    lists: list[list[CodedPicture] | None], expected: int, leading: int
) -> None:
    count = PacketCount("h264")
    for pictures in lists:
        assert count.begin(b"packet", pictures, is_discarded=False)
    assert (count.num_packets, count.num_expected, count.num_leading) == (
        len(lists),
        expected,
        leading,
    )


def test_the_packet_begun_last_is_leading_or_not() -> None:
    count = PacketCount("h264")
    seen = []
    for picture in (FRAME, LEADING, MIDDLE):
        count.begin(b"packet", [picture], is_discarded=False)
        seen.append(count.is_leading)
    assert seen == [False, True, False]


@pytest.mark.parametrize(
    ("lists", "discarded", "accepted"),
    [
        ([[MIDDLE]], [False], [False]),
        ([[], [MIDDLE]], [False, False], [True, False]),
        ([[FRAME], [MIDDLE]], [False, False], [True, True]),
        ([[MIDDLE], [FRAME]], [True, False], [True, True]),  # an edit list hides the first
        ([[MIDDLE], [MIDDLE]], [True, False], [True, False]),
        ([[FRAME], [MIDDLE]], [True, False], [True, True]),
    ],
)
def test_decoding_cannot_begin_in_the_middle(
    lists: list[list[CodedPicture] | None], discarded: list[bool], accepted: list[bool]
) -> None:
    count = PacketCount("h264")
    begun = [
        count.begin(b"packet", pictures, is_discarded=each)
        for pictures, each in zip(lists, discarded, strict=True)
    ]
    assert begun == accepted


def test_after_a_restart_the_next_picture_must_be_an_access_point_again() -> None:
    count = PacketCount("h264")
    assert count.begin(b"packet", [FRAME], is_discarded=False)
    count.restart()
    assert not count.begin(b"packet", [MIDDLE], is_discarded=False)


@pytest.mark.parametrize(
    ("codec", "content", "discarded", "num_frames", "expected"),
    [
        ("prores", bytes(500), False, 1, 1),
        ("prores", bytes(500), False, 0, 1),
        ("prores", bytes(500), True, 0, 0),
        ("mpeg4", bytes(6), False, 0, 0),
        ("mpeg4", bytes(6), True, 0, 0),
        ("mpeg4", bytes(6), False, 1, 1),
        ("mpeg4", bytes(17), False, 0, 1),
    ],
)
def test_a_packet_is_a_frame_but_for_a_reason_known_by_name(
    codec: str, content: bytes, discarded: bool, num_frames: int, expected: int
) -> None:
    count = PacketCount(codec)
    count.begin(content, None, is_discarded=discarded)
    count.end(content, num_frames)
    assert count.num_expected == expected


@pytest.mark.parametrize(
    ("codec", "content", "silent"),
    [
        ("vp8", b"\x10" + bytes(50), False),
        ("vp8", b"\x00" + bytes(50), True),
        ("vp8", b"", False),
        ("theora", b"\x80theora", True),
        ("theora", b"\x40", False),
        ("theora", b"", False),
    ],
)
def test_silent_packets_are_hidden_pictures_and_headers(
    codec: str, content: bytes, silent: bool
) -> None:
    assert is_silent(codec, content) == silent


def test_the_comment_of_a_joined_ogg_file_is_not_decoded() -> None:
    assert is_header("theora", b"\x81theora")
    assert not is_header("theora", b"\x80theora")
    assert not is_header("h264", b"\x81")


@pytest.mark.parametrize(
    ("format_name", "in_header", "at_open", "indexed", "promised"),
    [
        ("avi", 180, 180, 180, 180),
        ("avi", 62, 60, 60, 60),
        ("avi", 180, 0, 140, 0),  # no index: the chunks are counted
        ("mov,mp4,m4a,3gp,3g2,mj2", 40, 40, 40, 40),
        ("mov,mp4,m4a,3gp,3g2,mj2", 0, 2, 280, 280),  # fragments, indexed while they are read
        ("mov,mp4,m4a,3gp,3g2,mj2", 40, 0, 0, 40),
        ("mpegts", 0, 0, 0, 0),
    ],
)
def test_ffmpeg_promises_what_it_has_indexed(
    format_name: str, in_header: int, at_open: int, indexed: int, promised: int
) -> None:
    assert promised_packets(format_name, in_header, at_open, indexed) == promised
