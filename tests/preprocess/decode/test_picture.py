"""Picture geometry: right-angled display matrices, short sides."""

import struct

import numpy as np
import pytest

from twinstream.preprocess.decode.picture import (
    Orientation,
    orientation,
    quarter_turns,
    short_side_size,
    turned_size,
    upright,
)

ONE = 1 << 16
STORED = [["a", "b", "c"], ["d", "e", "f"]]


@pytest.mark.parametrize(
    ("m0", "m1", "m3", "m4", "shown"),
    [
        (1, 0, 0, 1, ["abc", "def"]),
        (0, 1, -1, 0, ["da", "eb", "fc"]),  # quarter turn clockwise
        (-1, 0, 0, -1, ["fed", "cba"]),
        (0, -1, 1, 0, ["cf", "be", "ad"]),  # quarter turn counter-clockwise
        (-1, 0, 0, 1, ["cba", "fed"]),  # mirror, as front cameras write it
        (1, 0, 0, -1, ["def", "abc"]),
        (0, 1, 1, 0, ["ad", "be", "cf"]),
        (0, -1, -1, 0, ["fc", "eb", "da"]),
    ],
)
def test_a_display_matrix_moves_pixels_where_its_equations_say(
    m0: int, m1: int, m3: int, m4: int, shown: list[str]
) -> None:
    matrix = struct.pack("=9i", *(value * ONE for value in (m0, m1, 0, m3, m4, 0, 0, 0, 1)))
    stored = np.array([[[ord(letter)] * 3 for letter in row] for row in STORED], np.uint8)
    picture = upright(stored, orientation(matrix))
    assert ["".join(chr(pixel[0]) for pixel in row) for row in picture] == shown


def test_no_matrix_and_a_broken_one_leave_the_picture_as_it_is() -> None:
    assert orientation(b"") == orientation(bytes(12)) == orientation(bytes(36)) == Orientation()


@pytest.mark.parametrize(
    ("degrees", "shown"),
    [
        (0, ["abc", "def"]),
        (90, ["cf", "be", "ad"]),
        (-90, ["da", "eb", "fc"]),
        (180, ["fed", "cba"]),
        (-180, ["fed", "cba"]),
        (91, ["cf", "be", "ad"]),
    ],
)
def test_an_angle_turns_counter_clockwise(degrees: int, shown: list[str]) -> None:
    stored = np.array([[[ord(letter)] * 3 for letter in row] for row in STORED], np.uint8)
    picture = upright(stored, quarter_turns(degrees))
    assert ["".join(chr(pixel[0]) for pixel in row) for row in picture] == shown


@pytest.mark.parametrize(
    ("size", "short_side", "target"),
    [
        ((320, 240), 256, (341, 256)),  # 341.33
        ((240, 320), 256, (256, 341)),
        ((1920, 1080), 256, (455, 256)),  # 455.11
        ((256, 256), 256, (256, 256)),
        ((3, 2), 3, (5, 3)),  # 4.5 is rounded up
        ((64, 48), 96, (128, 96)),
        ((0, 0), 256, (0, 0)),
    ],
)
def test_the_short_side_is_exact_and_the_other_is_the_nearest_integer(
    size: tuple[int, int], short_side: int, target: tuple[int, int]
) -> None:
    assert short_side_size(size, short_side) == target


def test_a_quarter_turn_swaps_the_size() -> None:
    assert turned_size((4, 3), Orientation(True, False, True)) == (3, 4)
    assert turned_size((4, 3), Orientation(False, True, True)) == (4, 3)
