"""Photos stand as their EXIF says: against OpenCV, which turns them too."""

import struct

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.images import jpeg_with_exif
from twinstream.preprocess.decode.exif import exif_orientation, without_exif
from twinstream.preprocess.decode.picture import Orientation, upright


def photo() -> NDArray[np.uint8]:
    """48x32, its corners of four colours."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("value", range(10))
def test_all_eight_orientations_are_those_of_opencv(value: int, order: str) -> None:
    jpeg = jpeg_with_exif(photo(), value, order)
    buffer = np.frombuffer(jpeg, np.uint8)
    stored = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    expected = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(upright(stored, exif_orientation(jpeg)), expected)


def test_a_value_may_be_long_and_stand_behind_other_entries() -> None:
    jpeg = jpeg_with_exif(photo(), 6, "MM")
    tiff = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 2)
    tiff += struct.pack(">HHII", 0x0100, 4, 1, 48) + struct.pack(">HHII", 0x0112, 4, 1, 6)
    block = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    for before in (b"", b"\xff\xe0\0\x06AVI1", b"\xff"):
        longer = without_exif(jpeg)
        longer = longer[:2] + before + segment + longer[2:]
        assert exif_orientation(longer) == Orientation(True, True, False)


def test_a_jpeg_without_exif_is_itself() -> None:
    plain = cv2.imencode(".jpg", photo())[1].tobytes()
    assert without_exif(plain) == plain
    assert without_exif(jpeg_with_exif(photo()[..., ::-1], 6, "II")) == plain
    assert exif_orientation(plain) == Orientation()


def test_no_bytes_whatever_are_more_than_an_orientation() -> None:
    """A cut or damaged block, and bytes that are no JPEG."""
    jpeg = jpeg_with_exif(photo(), 6, "II")
    rng = np.random.default_rng(0)
    for length in range(80):
        assert isinstance(exif_orientation(jpeg[:length]), Orientation)
        assert len(without_exif(jpeg[:length])) <= length
    for _ in range(500):
        damaged = bytearray(jpeg)
        for place in rng.integers(2, 60, 3):
            damaged[place] = rng.integers(256)
        assert isinstance(exif_orientation(bytes(damaged)), Orientation)
        assert len(without_exif(bytes(damaged))) <= len(jpeg)
    assert exif_orientation(b"\x89PNG\r\n\x1a\n" + bytes(100)) == Orientation()
