"""One crop, scale and flip for both modalities, so that frame and flow stay aligned (paper, section 4.4).

Bytes in, bytes out: what becomes of them on the device is train/normalise.py's. Flow is in codec levels,
zero motion at 128. Mirroring negates dx, the even channels, and leaves dy alone; in levels q -> 256 - q,
and level 0, which only JPEG noise makes, -> 255. Resizing a crop changes how far things move: we count
motion in pixels of what the network sees, so `flow_scale` carries out / width and out / height for the
device to multiply by. H and W are the stored size, out is the side of the network's square input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

Bytes = NDArray[np.uint8]

TSN_SCALES = (1.0, 0.875, 0.75, 0.66)
# TSN's 13 places for a crop, (row, column) in quarters of the free room: corners, centre, sides, between.
PLACES = [(row, column) for row in range(5) for column in range(5) if row % 2 == column % 2]
NEGATED_LEVEL: Bytes = np.array([255, *range(255, 0, -1)], dtype=np.uint8)


@dataclass(frozen=True)
class View:
    """A crop in stored pixels, rows [top, top + height), columns [left, left + width), mirrored if flip."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def random_view(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scales: Sequence[float] = TSN_SCALES,
    flip: bool = True,
) -> View:
    """TSN's scale jitter: both sides of the crop are min(height, width) times neighbouring scales.

    At 256 x 256: sides 256, 224, 192 or 168, at most one step apart; one of 13 places; half are mirrored.
    """
    sides = [max(1, int(min(height, width) * scale)) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_height, crop_width = pairs[rng.integers(len(pairs))]
    row, column = PLACES[rng.integers(len(PLACES))]
    top, left = (height - crop_height) * row // 4, (width - crop_width) * column // 4
    return View(top, left, crop_height, crop_width, flip and bool(rng.integers(2)))


def test_views(height: int, width: int, crop: int, crops: Literal[1, 5, 10]) -> list[View]:
    """The square crops scored at test. 1: the centre. 5: four corners, then the centre. 10: and mirrored.

    A crop larger than the stored frame is the user's fault: InputError.
    """
    if crop > min(height, width):
        raise InputError(f"a crop of {crop} pixels does not fit into stored frames of {height} x {width} (H x W)")
    bottom, right = height - crop, width - crop
    centre = (bottom // 2, right // 2)
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    places = [centre] if crops == 1 else [*corners, centre]
    flips = (False, True) if crops == 10 else (False,)
    return [View(top, left, crop, crop, flip) for flip in flips for top, left in places]


def apply_view(frames: Bytes, flow: Bytes, view: View, out: int) -> tuple[Bytes, Bytes, NDArray[np.float32]]:
    """Both modalities through one view.

    (K, H, W, 3), (K, L, H, W, 2) -> rgb (K, 3, out, out), flow (K, 2L, out, out), channels dx0 dy0 dx1 ...,
    and flow_scale (2,) float32: out / width for dx, out / height for dy.
    """
    return view_frames(frames, view, out), view_flow(flow, view, out), flow_scale(view, out)


def view_frames(frames: Bytes, view: View, out: int) -> Bytes:
    """(K, H, W, 3) -> (K, 3, out, out)."""
    return _cut(frames, view, out)


def view_flow(flow: Bytes, view: View, out: int) -> Bytes:
    """(K, L, H, W, 2) -> (K, 2L, out, out); a mirrored view has dx negated."""
    segments, stack_length = flow.shape[:2]
    fields = _cut(flow.reshape(-1, *flow.shape[2:]), view, out)
    if view.flip:
        fields[:, 0] = NEGATED_LEVEL[fields[:, 0]]
    return fields.reshape(segments, 2 * stack_length, out, out)


def flow_scale(view: View, out: int) -> NDArray[np.float32]:
    """(2,) float32: pixels of the network's input for each stored pixel, along x and y."""
    return np.array([out / view.width, out / view.height], dtype=np.float32)


def _cut(images: Bytes, view: View, out: int) -> Bytes:
    """(N, H, W, C) -> (N, C, out, out): cut, resized bilinearly with pixel centres aligned, mirrored."""
    assert view.top + view.height <= images.shape[1], "the view reaches below the frame"
    assert view.left + view.width <= images.shape[2], "the view reaches beyond the frame"
    rows, columns = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
    result = np.empty((len(images), images.shape[3], out, out), dtype=np.uint8)
    for target, image in zip(result, images, strict=True):
        resized = cv2.resize(image[rows, columns], (out, out), interpolation=cv2.INTER_LINEAR)
        # Mirrored after resizing: then a flip is exact, whatever the resizing rounds.
        target[...] = (resized[:, ::-1] if view.flip else resized).transpose(2, 0, 1)
    return result
