"""A decoded picture -> upright uint8 RGB of the wanted size.

Scaling and colour conversion are one pass of libswscale. It uses the stream's own colour matrix and
range, and flags whose result does not depend on the CPU. Its bilinear filter widens when it
shrinks, so it does not alias. The stored picture is scaled first and turned afterwards, because
turning is a view of an array and costs nothing. The sample aspect ratio is ignored.
"""

import struct
from typing import NamedTuple, cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

# SWS_BILINEAR, SWS_ACCURATE_RND, SWS_BITEXACT of libswscale; PyAV before 18 has no names for the
# last two.
SCALER_FLAGS = 0x2 | 0x40000 | 0x80000


class Orientation(NamedTuple):
    """How a stored picture becomes upright: transpose, then flip."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False


def orientation(matrix: bytes) -> Orientation:
    """The eight right-angled cases of a display matrix (nine int32).

    x' = m0 x + m3 y, y' = m1 x + m4 y. Quarter turn clockwise: x' = -y, y' = x -> transposed, then
    flipped in x. No matrix (b"") -> as it is.
    """
    if len(matrix) < 36:
        return Orientation()
    m = struct.unpack("=9i", matrix[:36])
    if abs(m[1]) > abs(m[0]):
        return Orientation(True, flip_x=m[3] < 0, flip_y=m[1] < 0)
    return Orientation(False, flip_x=m[0] < 0, flip_y=m[4] < 0)


def quarter_turns(degrees: float) -> Orientation:
    """The case nearest to an angle, counter-clockwise: 90 -> transposed, then flipped in y."""
    return (
        Orientation(),
        Orientation(True, False, True),
        Orientation(False, True, True),
        Orientation(True, True, False),
    )[round(degrees / 90) % 4]


def picture_orientation(picture: VideoFrame) -> Orientation:
    """The orientation that the stream gives the picture."""
    try:
        side_data = cast(SideDataContainer, picture.side_data)
    except ValueError:
        # PyAV lists none where there is a kind that it has no name for, such as the view of a
        # stereoscopic video. It still tells the angle, but no mirror.
        return quarter_turns(picture.rotation)
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    return orientation(bytes(matrix) if matrix is not None else b"")


def turned_size(size: tuple[int, int], turn: Orientation) -> tuple[int, int]:
    """(width, height) after turning; the same function gives the size before it."""
    return (size[1], size[0]) if turn.transposed else size


def short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(width, height) scaled to that shorter side, aspect kept: 320x240 to 256 -> 341x256."""
    shorter = max(1, min(size))
    # Whole numbers, half rounds up; round() would take the even neighbour.
    width, height = ((2 * side * short_side + shorter) // (2 * shorter) for side in size)
    return width, height


def scaled(
    scaler: VideoReformatter, picture: VideoFrame, size: tuple[int, int], turn: Orientation
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright, size = (W, H), of a picture of any size and format.

    A view of FFmpeg's memory: copy it.
    """
    width, height = turned_size(size, turn)
    stored = scaler.reformat(
        picture, width=width, height=height, format="rgb24", interpolation=SCALER_FLAGS, threads=1
    )
    plane = stored.planes[0]
    # libswscale pads each row for alignment, so a row is longer than 3 * width bytes.
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
        :height, : 3 * width
    ]
    return upright(rows.reshape(height, width, 3), turn)


def upright(picture: NDArray[np.uint8], turn: Orientation) -> NDArray[np.uint8]:
    """(H, W, 3) as stored -> as it is meant to be seen."""
    if turn.transposed:
        picture = picture.transpose(1, 0, 2)
    if turn.flip_x:
        picture = picture[:, ::-1]
    return picture[::-1] if turn.flip_y else picture
