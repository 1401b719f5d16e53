"""One crop, scale and flip for both modalities, so that frame and flow stay aligned.

From section 4.4 of the paper. Bytes in, bytes out; normalise.py makes floats of them on the device.
Flow is in codec levels, zero motion is 128. Mirroring negates dx, the even channels, and not dy; in
levels q -> 256 - q, and level 0, which only JPEG noise makes, -> 255. Motion counts in stored
pixels, as in the paper and TSN, or with `scale_motion` in pixels of the network's input:
`flow_scale` is what the device multiplies it by.
H and W are the stored size, out is the side of the network's square input. Each image is written
straight into its batch, because a copy costs as much as resizing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.train.choices import TSN_SCALES, NumCrops

Bytes = NDArray[np.uint8]

# TSN's 13 positions of a crop, (row, column) in quarters of the free room: corners, centre, sides,
# and between them.
CROP_POSITIONS = [(row, column) for row in range(5) for column in range(5) if row % 2 == column % 2]


@dataclass(frozen=True)
class View:
    """A crop: rows [top, top + height), columns [left, left + width) of stored pixels."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    """Whether it is mirrored"""


def random_view(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scales: Sequence[float] = TSN_SCALES,
    flip: bool = True,
) -> View:
    """TSN's scale jitter: both sides of the crop are min(height, width) times neighbouring scales.

    At 256 x 256: sides 256, 224, 192 or 168, at most one step apart; one of 13 positions; half are
    mirrored.
    """
    sides = [max(1, int(min(height, width) * scale)) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_height, crop_width = pairs[rng.integers(len(pairs))]
    row, column = CROP_POSITIONS[rng.integers(len(CROP_POSITIONS))]
    top, left = (height - crop_height) * row // 4, (width - crop_width) * column // 4
    return View(top, left, crop_height, crop_width, flip and bool(rng.integers(2)))


def crops_to_score(crops: NumCrops, flip: bool | None, train_flip: bool) -> NumCrops:
    """The crops of a test where ten of them are 5 views and their mirrors: 10, False -> 5.

    Mirrored as training was when `flip` is None. InputError for mirrors of fewer than ten crops.
    """
    if flip and crops != 10:
        raise InputError(
            f"test.flip: true, but of {crops} crops none is a mirror; give --crops 10 or --no-flip"
        )
    return 5 if crops == 10 and not (train_flip if flip is None else flip) else crops


def test_views(height: int, width: int, crop: int, crops: NumCrops) -> list[View]:
    """The square crops scored at test, 1, 5 or 10 of them.

    1: the centre. 5: four corners, then the centre. 10: these, then all of them mirrored.
    InputError for a crop larger than the stored frame.
    """
    if crop > min(height, width):
        raise InputError(
            f"a crop of {crop} pixels does not fit into stored frames of {height} x {width} (H x W)"
        )
    bottom, right = height - crop, width - crop
    centre = (bottom // 2, right // 2)
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    positions = [centre] if crops == 1 else [*corners, centre]
    flips = (False, True) if crops == 10 else (False,)
    return [View(top, left, crop, crop, flip) for flip in flips for top, left in positions]


def apply_views(
    frames: Iterable[Bytes],
    stacks: Iterable[Iterable[Bytes]],
    views: Sequence[View],
    rgb: Bytes,
    flow: Bytes,
    *,
    scale_motion: bool,
) -> NDArray[np.float32]:
    """Write V views of K * T frames and K stacks into `rgb` and `flow`; returns flow_scale (2,).

    `rgb` is (V, K * T, 3, out, out), `flow` (V, K, 2L, out, out). Frames are (H, W, 3), each stack
    has 2L fields (H, W), dx0 dy0 dx1 ... Images may be decoded while they are asked for: each goes
    through all views at once, while it is in the cache. flow_scale is the same for all views.
    """
    # Strict: a row that is not written would keep what the memory held before.
    for targets, frame in zip(rgb.swapaxes(0, 1), frames, strict=True):
        for target, view in zip(targets, views, strict=True):
            view_frame(frame, view, target)
    for channels, fields in zip(flow.transpose(1, 2, 0, 3, 4), stacks, strict=True):
        for channel, (targets, field) in enumerate(zip(channels, fields, strict=True)):
            for target, view in zip(targets, views, strict=True):
                view_field(field, view, target, is_dx=channel % 2 == 0)
    return flow_scale(views[0], rgb.shape[-1], scale_motion)


def view_frame(frame: Bytes, view: View, target: Bytes) -> None:
    """(H, W, 3) -> into (3, out, out)."""
    cv2.split(_cut(frame, view, np.empty((*target.shape[1:], 3), np.uint8)), [*target])


def view_field(field: Bytes, view: View, target: Bytes, *, is_dx: bool) -> None:
    """(H, W) levels of dx or dy -> into (out, out); a mirrored view has dx negated."""
    _cut(field, view, target)
    if view.flip and is_dx:
        negate_levels(target)


def negate_levels(levels: Bytes) -> None:
    """Overwrite the levels: q -> 256 - q, and 0 -> 255, the largest byte."""
    # convertScaleAbs saturates, so 256 becomes 255; numpy's bytes would wrap around to 0.
    cv2.convertScaleAbs(levels, dst=levels, alpha=-1, beta=256)


def flow_scale(view: View, out: int, scale_motion: bool) -> NDArray[np.float32]:
    """(2,) float32 for dx and dy: 1, or pixels of the network's input for each stored pixel.

    A view of 168 x 192 (H x W) to 224: (1, 1), or with `scale_motion` (224 / 192, 224 / 168).
    """
    sides = (out / view.width, out / view.height) if scale_motion else (1, 1)
    return np.array(sides, dtype=np.float32)


def _cut(image: Bytes, view: View, target: Bytes) -> Bytes:
    """Cut (H, W) or (H, W, C), resize bilinearly with aligned pixel centres, mirror it."""
    assert view.top + view.height <= image.shape[0], "the view reaches below the frame"
    assert view.left + view.width <= image.shape[1], "the view reaches beyond the frame"
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    cv2.resize(part, target.shape[:2], dst=target, interpolation=cv2.INTER_LINEAR)
    if view.flip:
        # Mirrored after resizing: then a flip is exact, whatever the resizing rounds.
        cv2.flip(target, 1, dst=target)
    return target
