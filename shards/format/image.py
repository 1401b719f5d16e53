"""JPEG bytes <-> arrays. Colour images are RGB outside of this file, although OpenCV uses BGR.

The encoder is OpenCV's libjpeg-turbo: every OpenCV wheel contains it, and it gives the same bytes
for the same pixels and quality, so shards are reproducible. A decoder takes memory for the size
that a header claims, so the header is read before it: a few bytes can claim gigabytes. Pixels are
as stored: an orientation in EXIF data, which would turn them against their flow, is not applied.
"""

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError

END_OF_IMAGE = b"\xff\xd9"
TAIL_BYTES = 1024
# JPEG_MAX_DIMENSION of libjpeg, in pixels; the format itself ends at 65,535.
MAX_SIDE = 65_500
# No frame of a video has as many.
MAX_PIXELS = 2**26
# A progressive image has about ten. Of a few bytes one can pass over all blocks of the image.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"
# Huffman codes take a bit at least, and a block of 8 x 8 pixels a code: 512 pixels a byte at most.
MAX_PIXELS_PER_BYTE = 1024
Size = tuple[int, int]
_SIDES = struct.Struct(">HH").unpack_from
# Markers of a frame's header: C4, C8 and CC among them mean something else.
_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _BARE = frozenset({0xD8, 0xD9, 0xDA}), frozenset({0x00, 0x01, *range(0xD0, 0xD8)})


def has_jpeg_end(data: bytes) -> bool:
    """Whether the mark that ends a JPEG is there: decoders fill the rest of a cut one."""
    # Not only the last two bytes: some tools write more behind the mark.
    return END_OF_IMAGE in data[-TAIL_BYTES:]


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """(H, W, 3) RGB or (H, W) uint8 -> JPEG bytes."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, f"JPEG encoder refused an image of shape {image.shape}"
    return encoded.tobytes()


def decode_rgb(data: bytes | memoryview, size: Size | None = None) -> NDArray[np.uint8]:
    """JPEG bytes -> (H, W, 3) RGB uint8; InputError when they are no image, or not of `size`."""
    return _decode(data, size, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_gray(data: bytes | memoryview, size: Size | None = None) -> NDArray[np.uint8]:
    """JPEG bytes of one channel -> (H, W) uint8; InputError as for `decode_rgb`."""
    return _decode(data, size, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_unchanged(data: bytes | memoryview, size: Size | None = None) -> NDArray[np.uint8]:
    """JPEG bytes -> (H, W) or (H, W, 3) BGR as stored; InputError as for `decode_rgb`."""
    return _decode(data, size, cv2.IMREAD_UNCHANGED)


def jpeg_size(data: bytes | memoryview) -> Size | None:
    """(H, W) as the frame's header says, without decoding; None where there is no such header."""
    at, end = 2, len(data) - 9
    if data[:3] != b"\xff\xd8\xff":
        return None
    while at <= end:
        marker = data[at + 1]
        # What stands between segments is skipped as libjpeg does it.
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in _FRAME:
            height, width = _SIDES(data, at + 5)
            return height, width
        elif marker in _SCAN:
            return None
        else:
            at += 2 + (0 if marker in _BARE else data[at + 2] << 8 | data[at + 3])
    return None


def _decode(data: bytes | memoryview, size: Size | None, flags: int) -> NDArray[np.uint8]:
    found = jpeg_size(data)
    if found is None:
        raise InputError(f"{len(data)} bytes do not decode as a JPEG")
    height, width = found
    if size is not None and found != size:
        raise InputError(f"its JPEG is {height} by {width}, expected {size[0]} by {size[1]}")
    if height * width > min(MAX_PIXELS, MAX_PIXELS_PER_BYTE * len(data)):
        raise InputError(f"{len(data)} bytes cannot hold a JPEG of {height} by {width}")
    if (scans := bytes(data).count(START_OF_SCAN)) > MAX_SCANS:
        raise InputError(f"its JPEG has {scans} scans, expected {MAX_SCANS} at most")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    # Of some damaged headers it raises in place of returning None.
    except cv2.error as error:
        raise InputError(f"{len(data)} bytes do not decode as a JPEG") from error
    if image is None:
        raise InputError(f"{len(data)} bytes do not decode as a JPEG")
    return image.astype(np.uint8, copy=False)
