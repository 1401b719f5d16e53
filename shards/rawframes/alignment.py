"""Pairs frames with flow fields in a folder that another tool wrote, by file names alone.

    denseflow    img 0 1 2 3   flow 0 1 2
        flow t leads from image t to image t + 1, as here
    dense_flow   img 1 2 3     flow 1 2 3
        the tool drops the first frame of a video, so flow t leads from image t - 1 to image t;
        flow 1 starts at the dropped frame and is left out

Equal counts do not show which end is missing, so dense_flow is never guessed. Gaps are never
closed, because a gap would shift every later pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.rawframes.names import (
    NO_FRAMES,
    ImageName,
    number_fault,
    numbered_images,
    prefix_fault,
)


class Layout(StrEnum):
    """The tool that wrote a folder; `auto` pairs as denseflow and refuses all else."""

    AUTO = "auto"
    DENSEFLOW = "denseflow"
    DENSE_FLOW = "dense_flow"


@dataclass(frozen=True)
class Aligned:
    """File names in order of time: N frames and N - 1 of each flow component.

    Flow t is the motion from frame t to frame t + 1.
    """

    index_base: int
    frames: tuple[str, ...]
    flow_x: tuple[str, ...]
    flow_y: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Every file in the order of a sample's images."""
        return [
            *self.frames,
            *(name for pair in zip(self.flow_x, self.flow_y, strict=True) for name in pair),
        ]


def align(names: Iterable[str], layout: Layout, index_base: int | None) -> Aligned:
    """The file names of a folder, paired; with `index_base` None numbers begin at 0 or 1.

    VideoError `misaligned` when they do not fit, `unreadable` without frames, `decode_error` for
    images that are no JPEGs.
    """
    images = numbered_images(names)
    frames, flow_x, flow_y = images["rgb"], images["x"], images["y"]
    # Shards hold JPEGs only, and a new encoding would lose the exact bytes of the import.
    for image in (*frames, *flow_x, *flow_y):
        if image.name.lower().endswith(".png"):
            raise VideoError(Reason.DECODE_ERROR, f"{image.name}: import takes JPEGs only")
    if not frames:
        raise VideoError(Reason.UNREADABLE, NO_FRAMES)
    x_numbers, y_numbers = ({image.number for image in flow} for flow in (flow_x, flow_y))
    if x_numbers != y_numbers:
        lone = min(x_numbers ^ y_numbers)
        there, absent = ("x", "y") if lone in x_numbers else ("y", "x")
        raise VideoError(Reason.MISALIGNED, f"flow_{there} {lone} without flow_{absent} {lone}")
    if not flow_x:
        raise VideoError(Reason.MISALIGNED, "no numbered flow such as flow_x_00001.jpg")
    for sequence in (frames, flow_x, flow_y):
        _refuse_disorder(sequence, index_base)
    base = frames[0].number
    # Two bases would fit two pairings one frame apart; a wrong one shifts every flow field.
    if flow_x[0].number != base:
        raise VideoError(
            Reason.MISALIGNED,
            f"images are numbered from {base}, flow from {flow_x[0].number}; expected one base",
        )
    skipped = _leading_flow(len(frames), len(flow_x), layout)
    ordered = [tuple(image.name for image in sequence) for sequence in (frames, flow_x, flow_y)]
    return Aligned(base, ordered[0], ordered[1][skipped:], ordered[2][skipped:])


def _refuse_disorder(images: Sequence[ImageName], index_base: int | None) -> None:
    first = (0, 1) if index_base is None else (index_base,)
    fault = prefix_fault(images) or number_fault(images, first)
    if fault:
        raise VideoError(Reason.MISALIGNED, fault)


def _leading_flow(num_frames: int, num_flow: int, layout: Layout) -> int:
    """How many flow fields at the start have no frame to start from."""
    if num_frames < 2:
        raise VideoError(Reason.TOO_SHORT, f"{num_frames} frame, expected at least 2")
    if layout == Layout.DENSE_FLOW and num_flow == num_frames:
        return 1
    if layout != Layout.DENSE_FLOW and num_flow == num_frames - 1:
        return 0
    # As many flow fields as frames is what dense_flow writes, so name the option that fits.
    expected = num_frames if layout == Layout.DENSE_FLOW else num_frames - 1
    hint = (
        "; are they dense_flow's (--layout dense_flow)?"
        if layout == Layout.AUTO and num_flow == num_frames
        else ""
    )
    raise VideoError(
        Reason.MISALIGNED,
        f"{num_flow} flow fields for {num_frames} frames, expected {expected}{hint}",
    )
