"""Holes in the order of pictures, from orders written by hand."""

import pytest

from twinstream.preprocess.decode.continuity import (
    CodedPicture,
    DisplayOrder,
    MpegReader,
    whole_order,
)


def hole_in(*pictures: str) -> int | None:
    """Pictures in decoding order: `8`, a start `S0`, an entry `E8`, one after two lost `E8-2`."""
    order = DisplayOrder()
    for text in pictures:
        number, _, lost = text.lstrip("SE").partition("-")
        is_start, is_entry = text[0] == "S", text[0] == "E"
        order.add(CodedPicture(int(number), is_start, is_entry, int(lost or 0)))
    order.finish()
    return order.hole


EVEN = [str(number) for number in range(2, 40, 2)]


@pytest.mark.parametrize(
    ("pictures", "hole"),
    [
        ("S0 8 4 2 6 16 12 10 14 24 20 18 22", None),
        # 6, shown after 0, 2 and 4, is lost.
        ("S0 8 4 2 16 12 10 14 24 20 18 22", 3),
        ("S0 8 4 2 6 16 12 10 14 S0 8 4 6", 10),
        # The last pictures of a stream that was cut in decoding order.
        ("S0 8 4 2 6 16 12 10", None),
        # Pictures that step unevenly, as in a stream whose orders are times.
        ("S0 4 2 7 9 12 13 15 18 19", None),
        # Every second picture is a field of twice the step: too few to tell.
        ("S0 4 8", None),
    ],
)
def test_a_hole_is_found_where_pictures_step_evenly(pictures: str, hole: int | None) -> None:
    assert hole_in(*pictures.split()) == hole


@pytest.mark.parametrize(
    ("pictures", "hole"),
    [
        # One picture before an entry is lost, of an open group.
        ([*EVEN, "E46", "42", "44", "48", "50"], 20),
        # Another stream was joined on there: far away, behind, or with other references.
        ([*EVEN, "E146", "142", "144", "148", "150"], None),
        ([*EVEN, "E6", "2", "4", "8", "10"], None),
        ([*EVEN, "E46-9", "42", "44", "48", "50"], None),
    ],
)
def test_another_stream_joined_at_an_entry_is_no_hole(
    pictures: list[str], hole: int | None
) -> None:
    assert hole_in("S0", *pictures) == hole


@pytest.mark.parametrize(
    ("low_bits", "previous", "whole"),
    [(1, 30, 33), (14, 33, 30), (0, 0, 0), (15, 0, -1), (8, 0, -8), (7, 0, 7)],
)
def test_an_order_of_four_bits_is_the_nearest_to_the_one_before(
    low_bits: int, previous: int, whole: int
) -> None:
    assert whole_order(low_bits, 4, previous) == whole


def mpeg_picture(kind: int, order: int, *, group: bool = False) -> bytes:
    head = b"\0\0\1\xb8\0\x08\0\0" if group else b""
    return head + b"\0\0\1\0" + (order << 6 | kind << 3).to_bytes(2, "big") + b"\0\0"


def test_an_mpeg_picture_between_anchors_that_are_not_there_tells_of_a_loss() -> None:
    reader = MpegReader()
    # I2 B0 B1 P5 B3 B4 [P8] B6: the last lies behind the anchors 2 and 5.
    packets = [mpeg_picture(1, 2, group=True), mpeg_picture(3, 0), mpeg_picture(3, 1)]
    packets += [mpeg_picture(2, 5), mpeg_picture(3, 3), mpeg_picture(3, 4), mpeg_picture(3, 6)]
    pictures = [reader.read(packet) for packet in packets]
    assert [picture and picture.num_lost for picture in pictures] == [0, 0, 0, 0, 0, 0, 1]
