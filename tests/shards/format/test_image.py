"""The header of a JPEG is read before a decoder takes memory for what it claims."""

import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format import image
from twinstream.shards.format.image import (
    decode_gray,
    decode_rgb,
    decode_unchanged,
    encode_jpeg,
    jpeg_size,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
JPEG = encode_jpeg(PIXELS, 90)


PROGRESSIVE = cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def claiming(height: int, width: int) -> bytes:
    """The same with other sides in its frame's header."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def scanning(times: int) -> bytes:
    """A progressive JPEG with so many scans: the last one again and again."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    more = times - PROGRESSIVE.count(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * more + PROGRESSIVE[-2:]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (JPEG, (24, 32)),
        (encode_jpeg(PIXELS[:, :, 0].copy(), 50), (24, 32)),
        (PROGRESSIVE, (24, 32)),
        (claiming(30_000, 30_000), (30_000, 30_000)),
        # Segments may have fill bytes before them, and others in front, such as Exif's.
        (JPEG[:2] + b"\xff\xe1\0\x06\xff\xc0\0\0" + b"\xff" + JPEG[2:], (24, 32)),
        (JPEG[:100], None),
        (b"", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (JPEG[:2] + b"\xff\xe0\0\0" * 50, None),
    ],
)
def test_the_size_of_a_jpeg_is_read_from_its_header(
    data: bytes, size: tuple[int, int] | None
) -> None:
    assert jpeg_size(data) == jpeg_size(memoryview(data)) == size


@pytest.mark.parametrize("decode", [decode_rgb, decode_gray])
@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (claiming(30_000, 30_000), (24, 32), "^its JPEG is 30000 by 30000, expected 24 by 32$"),
        (claiming(30_000, 30_000), None, r"^\d+ bytes cannot hold a JPEG of 30000 by 30000$"),
        (claiming(9_000, 9_000) + bytes(90_000), None, r"cannot hold a JPEG of 9000 by 9000$"),
        (scanning(101), (24, 32), "^its JPEG has 101 scans, expected 100 at most$"),
        (claiming(32, 24), (24, 32), "^its JPEG is 32 by 24, expected 24 by 32$"),
        (cv2.imencode(".png", PIXELS)[1].tobytes(), None, r"^\d+ bytes do not decode as a JPEG$"),
        (JPEG[:100], (24, 32), "^100 bytes do not decode as a JPEG$"),
    ],
)
def test_what_a_header_claims_never_reaches_the_decoder(
    decode: Callable[..., object],
    data: bytes,
    size: tuple[int, int] | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image.cv2, "imdecode", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(InputError, match=message):
        decode(data, size)


def test_what_has_the_size_is_decoded_with_and_without_it() -> None:
    assert np.array_equal(decode_rgb(JPEG, (24, 32)), decode_rgb(JPEG))
    flat = encode_jpeg(np.full((2000, 2000), 128, np.uint8), 50)
    assert decode_gray(flat, (2000, 2000)).shape == (2000, 2000)
    assert decode_rgb(scanning(100)).shape == (24, 32, 3)


@pytest.mark.parametrize("decode", [decode_rgb, decode_gray, decode_unchanged])
def test_an_orientation_does_not_turn_pixels_against_their_flow(
    decode: Callable[..., NDArray[np.uint8]],
) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", len(TURNED) + 2) + TURNED
    turned = JPEG[:2] + segment + JPEG[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (32, 24, 3)
    assert np.array_equal(decode(turned, (24, 32)), decode(JPEG))
