"""Which frame goes with which flow field in a folder of images that another tool wrote; pure, over
file names.

    denseflow    img 0 1 2 3   flow 0 1 2
        flow t leads from image t to image t + 1, as here
    dense_flow   img 1 2 3     flow 1 2 3
        the video's first frame was dropped, so flow t leads from image t - 1 to image t: flow 1
        starts at a frame that is gone and is left out

Equal counts alone do not tell which end is missing, so dense_flow is never guessed. Gaps are never
closed: a hole would shift every later pair.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from twinstream.shards.rawframes import parse_image_name
from twinstream.shards.videos import Reason, VideoError


class Layout(StrEnum):
    """Tool that wrote a folder; `auto` takes what can be told from the names, which is denseflow's
    pairing.
    """

    AUTO = "auto"
    DENSEFLOW = "denseflow"
    DENSE_FLOW = "dense_flow"


@dataclass(frozen=True)
class Aligned:
    """File names in time: N frames, and N - 1 of each component, flow t leading from frame t to t +
    1.
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
    """A folder's file names, lined up; VideoError `misaligned` when they do not fit. None finds
    the base: 0 or 1.
    """
    numbered = _numbered(names)
    frames, flow_x, flow_y = numbered["rgb"], numbered["x"], numbered["y"]
    if flow_x.keys() != flow_y.keys():
        lone = min(flow_x.keys() ^ flow_y.keys())
        there, absent = ("x", "y") if lone in flow_x else ("y", "x")
        raise VideoError(Reason.MISALIGNED, f"flow_{there} {lone} without flow_{absent} {lone}")
    base = _base(frames, index_base, "img")
    if _base(flow_x, index_base, "flow") != base:
        raise VideoError(
            Reason.MISALIGNED,
            f"images are numbered from {base}, flow from {min(flow_x)}; expected one base",
        )
    skipped = _leading_flow(len(frames), len(flow_x), layout)
    ordered = [
        tuple(files[number] for number in sorted(files)) for files in (frames, flow_x, flow_y)
    ]
    return Aligned(base, ordered[0], ordered[1][skipped:], ordered[2][skipped:])


def _numbered(names: Iterable[str]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {"rgb": {}, "x": {}, "y": {}}
    for name in sorted(names):
        parsed = parse_image_name(name)
        if parsed is None:
            if name.lower().endswith((".jpg", ".jpeg", ".png")):
                raise VideoError(
                    Reason.MISALIGNED,
                    f"{name}: not a name of this layout, such as img_00000.jpg, flow_x_00000.jpg",
                )
            continue
        kind, number = parsed
        if number in found[kind]:
            raise VideoError(Reason.MISALIGNED, f"{found[kind][number]} and {name} have one number")
        found[kind][number] = name
    return found


def _base(files: dict[int, str], index_base: int | None, what: str) -> int:
    """The number of the first file: 0 or 1, with no gap behind it."""
    if not files:
        raise VideoError(Reason.MISALIGNED, f"no {what}_NNNNN.jpg")
    first = min(files)
    if first not in ((0, 1) if index_base is None else (index_base,)):
        expected = "0 or 1" if index_base is None else str(index_base)
        raise VideoError(Reason.MISALIGNED, f"{what} numbers begin at {first}, expected {expected}")
    gap = next((number for number in range(first, first + len(files)) if number not in files), None)
    if gap is not None:
        raise VideoError(
            Reason.MISALIGNED, f"{what} {gap} is missing, the numbers go on to {max(files)}"
        )
    return first


def _leading_flow(num_frames: int, num_flow: int, layout: Layout) -> int:
    """How many flow fields at the start have no frame to start from."""
    if num_frames < 2:
        raise VideoError(Reason.TOO_SHORT, f"{num_frames} frame, expected at least 2")
    if layout == Layout.DENSE_FLOW and num_flow == num_frames:
        return 1
    if layout != Layout.DENSE_FLOW and num_flow == num_frames - 1:
        return 0
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
