"""Holes in the order of pictures, from orders written by hand."""

import pytest

from twinstream.preprocess.decode.coded_pictures import CodedPicture
from twinstream.preprocess.decode.continuity import DisplayOrder


def hole_in(*pictures: str) -> int | None:
    """Pictures in decoding order: `8`, a start `S0`, an entry `E8`, one after two lost `E8-2`."""
    order = DisplayOrder()
    for text in pictures:
        number, _, lost = text.lstrip("SE").partition("-")
        is_start, is_entry = text[0] == "S", text[0] == "E"
        picture = CodedPicture(order=int(number), is_start=is_start, is_entry=is_entry)
        order.add(picture._replace(num_lost=int(lost or 0)))
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
