"""The EXIF block of a JPEG: which way is up in a photo, and the JPEG without it.

A camera stores the picture as its sensor stands and writes next to it how it was held. OpenCV,
Pillow and browsers turn a photo so; FFmpeg's decoder does it for the pictures of a video as well,
whose container says itself how it is to be turned. Sources: CIPA DC-008 (EXIF) 4.6.4, TIFF 6.0.
"""

from collections.abc import Iterator

from twinstream.preprocess.decode.picture import Orientation

SHORT, LONG = 3, 4
ORIENTATION_TAG = 0x0112
APP1, START_OF_SCAN, END_OF_IMAGE = 0xE1, 0xDA, 0xD9
EXIF_HEAD = b"Exif\0\0"
# 2: mirrored; 3: upside down; 6: to be turned a quarter clockwise; 8: a quarter back.
ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}


def exif_orientation(jpeg: bytes) -> Orientation:
    """How a JPEG becomes upright; as it is where its EXIF does not say, or is no EXIF."""
    for begin, end in _exif_blocks(jpeg):
        value = _orientation_value(jpeg[begin + 4 + len(EXIF_HEAD) : end])
        return ORIENTATIONS.get(value, Orientation())
    return Orientation()


def without_exif(jpeg: bytes) -> bytes:
    """The same JPEG without its EXIF blocks."""
    plain, copied = b"", 0
    for begin, end in _exif_blocks(jpeg):
        plain, copied = plain + jpeg[copied:begin], end
    return plain + jpeg[copied:]


def _exif_blocks(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """[begin, end) of each EXIF segment, its marker included."""
    position = 2
    while jpeg[position : position + 1] == b"\xff":
        marker = jpeg[position + 1 : position + 2]
        # A marker may be preceded by any number of bytes 0xFF.
        if marker == b"\xff":
            position += 1
            continue
        if marker in (b"", bytes([START_OF_SCAN]), bytes([END_OF_IMAGE])):
            return
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == bytes([APP1]) and jpeg[position + 4 :].startswith(EXIF_HEAD):
            yield position, end
        position = end


def _orientation_value(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF block; 0 where there is none."""
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 0

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], "little" if tiff[0] == ord("I") else "big")

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == ORIENTATION_TAG:
            # A short stands at the front of the four bytes of a value.
            return number(entry + 8, {SHORT: 2, LONG: 4}.get(number(entry + 2, 2), 0))
    return 0
