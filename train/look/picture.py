"""Looks as pictures: RGB frame, colour-coded flow, and a panel of attention for each query.

A panel shows the picture that is read (flow or RGB), dark where the weights are low. Arrows go from
the query to the strongest positions, thicker for more weight. Each map is scaled to its own largest
weight. The price: an even map and a sharp one can look alike, so the title gives the largest weight
as a number, beside the one of an even map.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from twinstream.output import figure_text
from twinstream.shards.preview import (
    colour_wheel,
    field_speed,
    flow_to_rgb,
    save_figure,
    write_video,
)
from twinstream.train.look.maps import (
    BlockMap,
    Look,
    key_centre,
    over_features,
    query_map,
)

Picture = NDArray[np.uint8]

PANEL = 288
# Of a line of a video's titles; even, as H.264 wants it
TITLE_LINE = 16
SCALE = "light is weight: a quarter of it for none, all of it for the strongest, where arrows go"
ARROWS = 4
COLOURS = ((230, 60, 60), (30, 130, 230), (20, 160, 90), (230, 150, 20), (160, 70, 200))


def write_look(look: Look, title: str, path: Path) -> None:
    """A row for each block: frame and flow with the queries marked, then a panel for each query."""
    fastest = field_speed(look.flow)
    columns = 2 + len(look.queries)
    figure = Figure(figsize=(2.7 * columns, 3.15 * len(look.blocks) + 0.4), layout="constrained")
    axes = figure.subplots(len(look.blocks), columns, squeeze=False)
    for row, block in zip(axes, look.blocks, strict=True):
        titles = [
            f"RGB, frame {look.t}",
            f"flow, to {fastest:.1f} px",
            *(_panel_title(look, block, q) for q in look.queries),
        ]
        for axis, panel, text in zip(row, panels(look, block, fastest), titles, strict=True):
            axis.imshow(panel)
            axis.set_title(text, fontsize=8)
            axis.set_axis_off()
        # The scale of the flow, in its lower right corner.
        wheel = row[1].inset_axes((0.8, 0, 0.2, 0.2))
        wheel.imshow(colour_wheel(61))
        wheel.set_axis_off()
    figure.supxlabel(SCALE, fontsize=8)
    figure.suptitle(
        f"{figure_text(title)} · {', '.join(block.name for block in look.blocks)}", fontsize=9
    )
    save_figure(figure, path, dpi=110)


def write_looks(found: Iterator[Look], fps: float, path: Path) -> None:
    """One frame of an H.264 video for each look, with a line of titles above each row.

    Flow is scaled to each frame's own motion, which the title gives.
    """
    write_video(
        (np.vstack([_row(look, block) for block in look.blocks]) for look in found), fps, path
    )


def _row(look: Look, block: BlockMap) -> Picture:
    fastest = field_speed(look.flow)
    queries = [_panel_title(look, block, query) for query in look.queries]
    titles = [f"RGB, frame {look.t}", f"flow, to {fastest:.1f} px", *queries]
    return titled(panels(look, block, fastest), titles)


def titled(panels: Sequence[Picture], titles: Sequence[str]) -> Picture:
    """The panels side by side, each below its title of one line or more."""
    row = np.hstack(panels)
    height = TITLE_LINE * max(title.count("\n") + 1 for title in titles) + TITLE_LINE // 2
    head = np.full((height, row.shape[1], 3), 255, np.uint8)
    for number, title in enumerate(titles):
        for line, text in enumerate(title.splitlines()):
            place = number * PANEL + 4, TITLE_LINE * (line + 1)
            cv2.putText(
                head, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA
            )
    return np.vstack([head, row])


def panels(look: Look, block: BlockMap, fastest: float | None = None) -> list[Picture]:
    """(PANEL, PANEL, 3) pictures: frame, flow, and one for each query."""
    scale = fastest or field_speed(look.flow)
    frame, flow = enlarged(look.frame), enlarged(flow_to_rgb(look.flow, scale))
    # The map belongs over what its block reads, not over the query's own picture.
    under = flow if block.reads == "flow" else frame
    shape = look.frame.shape[:2]
    marked = [with_queries(picture, look.queries, shape) for picture in (frame, flow)]
    return marked + [
        attended(
            under,
            block,
            query_map(block, query, shape),
            on_panel(query, shape),
            COLOURS[number % len(COLOURS)],
        )
        for number, query in enumerate(look.queries)
    ]


def attended(
    under: Picture,
    block: BlockMap,
    weights: NDArray[np.float32],
    query: tuple[int, int],
    colour: Sequence[int],
) -> Picture:
    """The picture shaded by a map, with arrows from the query (pixels of the panel).

    Arrows go to the strongest cells, but only where the weight is more than that of an even map.
    """
    picture = shaded(under, over_features(weights / weights.max(), block))
    strongest = np.argsort(weights, axis=None)[::-1][:ARROWS]
    # Weakest first, so that the strongest arrow is drawn over the others.
    for cell in strongest[::-1]:
        row, column = np.unravel_index(int(cell), weights.shape)
        if weights[row, column] * weights.size <= 1:
            continue
        x, y = key_centre((int(row), int(column)), block, picture.shape)
        end, thickness = (
            (round(x), round(y)),
            1 + round(3 * float(weights[row, column] / weights.max())),
        )
        # A white outline: the colour alone can vanish on a picture of the same colour.
        for ink, width in (((255, 255, 255), thickness + 2), (colour, thickness)):
            cv2.arrowedLine(picture, query, end, list(ink), width, cv2.LINE_AA, tipLength=0.12)
    return dotted(picture, query, colour)


def shaded(under: Picture, light: NDArray[np.float32]) -> Picture:
    """A (PANEL, PANEL, 3) picture, a quarter as bright where the light is 0 as where it is 1."""
    wide = cv2.resize(light, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
    # Cubic interpolation can leave [0, 1]; a quarter of the light keeps the picture readable.
    levels = under * (0.25 + 0.75 * np.clip(wide, 0, 1)[..., None])
    return np.ascontiguousarray(levels.astype(np.uint8))


def with_queries(
    picture: Picture, queries: Sequence[tuple[int, int]], shape: tuple[int, ...]
) -> Picture:
    """A copy with a dot at each query."""
    result = picture.copy()
    for number, query in enumerate(queries):
        result = dotted(result, on_panel(query, shape), COLOURS[number % len(COLOURS)])
    return result


def on_panel(query: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Pixels of an (H, W) picture -> pixels of the panel."""
    # Half a pixel added and taken off: pixel centres, not corners, must coincide.
    return round((query[0] + 0.5) * PANEL / shape[1] - 0.5), round(
        (query[1] + 0.5) * PANEL / shape[0] - 0.5
    )


def enlarged(picture: Picture) -> Picture:
    """Any picture at the panel's size."""
    result = cv2.resize(picture, (PANEL, PANEL), interpolation=cv2.INTER_LINEAR)
    return result.astype(np.uint8)


def dotted(picture: Picture, query: tuple[int, int], colour: Sequence[int]) -> Picture:
    """The picture, with a dot drawn into it."""
    cv2.circle(picture, query, 8, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, query, 6, list(colour), -1, cv2.LINE_AA)
    return picture


def _panel_title(look: Look, block: BlockMap, query: tuple[int, int]) -> str:
    weights = query_map(block, query, look.frame.shape[:2])
    over = "flow" if block.reads == "flow" else "RGB"
    return (
        f"{block.name} over {over}\nstrongest {weights.max():.0%} ({1 / weights.size:.0%} if even)"
    )
