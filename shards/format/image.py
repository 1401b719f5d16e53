"""JPEG bytes <-> arrays. Colour images are RGB outside of this file, although OpenCV uses BGR.

The encoder is OpenCV's libjpeg-turbo: every OpenCV wheel contains it, and it gives the same bytes
for the same pixels and quality, so shards are reproducible.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError

END_OF_IMAGE = b"\xff\xd9"
TAIL_BYTES = 1024
# JPEG_MAX_DIMENSION of libjpeg, in pixels; the format itself ends at 65,535.
MAX_SIDE = 65_500


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


def decode_rgb(data: bytes | memoryview) -> NDArray[np.uint8]:
    """JPEG bytes -> (H, W, 3) RGB uint8; InputError when they are no image."""
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def decode_gray(data: bytes | memoryview) -> NDArray[np.uint8]:
    """JPEG bytes of one channel -> (H, W) uint8; InputError when they are no image."""
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def decode_unchanged(data: bytes | memoryview) -> NDArray[np.uint8]:
    """JPEG bytes -> (H, W) or (H, W, 3) BGR as stored; InputError when they are no image."""
    return _decode(data, cv2.IMREAD_UNCHANGED)


def _decode(data: bytes | memoryview, flags: int) -> NDArray[np.uint8]:
    # imdecode returns None for bytes that are no image, but raises cv2.error for no bytes at all.
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, flags) if buffer.size else None
    if image is None:
        raise InputError(f"{buffer.size} bytes do not decode as a JPEG")
    return image.astype(np.uint8, copy=False)
