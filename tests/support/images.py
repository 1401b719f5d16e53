"""Image files for tests, drawn while the tests run."""

import struct

import cv2
import numpy as np
from numpy.typing import NDArray


def jpeg_with_exif(picture: NDArray[np.uint8], orientation: int, order: str = "II") -> bytes:
    """(H, W, 3) RGB as a JPEG whose EXIF says how it was held; `order` is II or MM."""
    jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
    pack = {"II": "<", "MM": ">"}[order]
    tiff = order.encode() + struct.pack(f"{pack}HI", 42, 8)
    tiff += struct.pack(f"{pack}HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
