"""Maps of clips: where a query in space and time looks, as a strip of frames or as a video.

A query is a pixel of one frame of the clip; its weights are over all positions of space and time,
so the frames are dark or light together: the light of a frame is relative to the largest weight of
the whole clip. Keys are coarse in time too. In res4 of P3D, 12 frames are 2 steps, of 8 and of 4;
frames of one step show the same weights over what moves on below them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.output import figure_text
from twinstream.shards.preview import flow_to_rgb, full_colour, save_figure, write_video
from twinstream.train.look.maps import BlockMap, Seen, over_features
from twinstream.train.look.picture import (
    COLOURS,
    Picture,
    dotted,
    enlarged,
    on_panel,
    shaded,
    titled,
)


def query_frames(seen: Seen, times: Sequence[int | None], frames: Sequence[int]) -> list[int]:
    """For each query the number of its frame in the clip, whose frames are `frames` of the video.

    `times` has its frame of the video; where that is None or absent, the one from which on the
    query's place moves fastest. InputError for a frame that the clip does not have.
    """
    speed = np.linalg.norm(seen.flow, axis=-1)
    found = []
    for number, (x, y) in enumerate(seen.queries):
        t = times[number] if number < len(times) else None
        if t is not None and t not in frames:
            raise InputError(
                f"--query X,Y,{t}: the clip has frames {', '.join(map(str, frames))}; --frame "
                "names its first"
            )
        found.append(int(speed[:, y, x].argmax()) if t is None else frames.index(t))
    return found


def step_of(frame: int, num_frames: int, num_steps: int) -> int:
    """The time step that a frame of the clip was pooled into, halved time and again, rounding up.

    12 frames, 2 steps: frames 0 to 7 are 0, 8 to 11 are 1.
    """
    length = 1
    while -(-num_frames // length) > num_steps:
        length *= 2
    return frame // length


def clip_map(
    block: BlockMap, query: tuple[int, int], frame: int, seen: Seen
) -> NDArray[np.float32]:
    """(kt, kh, kw) weights of the query at (x, y) pixels of that frame of the clip."""
    # In res5 of P3D the features have no time: a step for the whole clip.
    of_query = block.weights if block.weights.ndim == 6 else block.weights[None, :, :, None]
    steps, rows, columns = of_query.shape[:3]
    num_frames, height, width = seen.frames.shape[:3]
    weights: NDArray[np.float32] = of_query[
        step_of(frame, num_frames, steps), query[1] * rows // height, query[0] * columns // width
    ]
    return weights


def query_panels(seen: Seen, block: BlockMap, number: int, at: int) -> list[Picture]:
    """A picture for each frame of the clip: what the block reads, shaded by a query's weights.

    `number` is that of the query, `at` the frame that it is at, in which it is marked.
    """
    query, shape = seen.queries[number], seen.frames.shape[1:3]
    weights = clip_map(block, query, at, seen)
    under = flow_pictures(seen) if block.reads == "flow" else list(seen.frames)
    found = []
    for n, picture in enumerate(under):
        step = weights[step_of(n, len(under), len(weights))]
        panel = shaded(enlarged(picture), over_features(step / weights.max(), block))
        if n == at:
            panel = dotted(panel, on_panel(query, shape), COLOURS[number % len(COLOURS)])
        found.append(panel)
    return found


def flow_pictures(seen: Seen) -> list[Picture]:
    """The clip's fields in colours, relative to its own motion."""
    return list(flow_to_rgb(seen.flow, full_colour(seen.flow)))


def write_strip(
    seen: Seen, frames: Sequence[int], title: str, path: Path, *, first: int, stride: int
) -> None:
    """Rows of the clip's frames: RGB, flow, and one for each block and query.

    `frames` are those of the queries, counted in the clip, which begins at frame `first`.
    """
    fastest = full_colour(seen.flow)
    rows: list[tuple[str, Sequence[Picture]]] = [
        ("RGB", list(seen.frames)),
        (f"flow, to {fastest:.1f} px", flow_pictures(seen)),
    ]
    for block in seen.blocks:
        for number, at in enumerate(frames):
            name = _query_title(seen, block, number, at, first + at * stride)
            rows.append((name, query_panels(seen, block, number, at)))
    count = len(seen.frames)
    figure = Figure(figsize=(1.1 * count + 1.8, 1.35 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA))
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=6)
    for n, axis in enumerate(axes[0]):
        axis.set_title(f"frame {first + n * stride}", fontsize=7)
    figure.suptitle(figure_text(title), fontsize=9)
    save_figure(figure, path, dpi=110)


def write_clip(
    seen: Seen, frames: Sequence[int], fps: float, path: Path, *, first: int, stride: int
) -> None:
    """The clip as H.264: frame, flow and a panel for each query, a row for each block.

    `frames`, `first` and `stride` as in `write_strip`.
    """
    write_video(_pictures(seen, frames, first, stride), fps, path)


def _pictures(seen: Seen, frames: Sequence[int], first: int, stride: int) -> Iterator[Picture]:
    flow, fastest = flow_pictures(seen), full_colour(seen.flow)
    rows = [
        [
            (
                _query_title(seen, block, number, at, first + at * stride),
                query_panels(seen, block, number, at),
            )
            for number, at in enumerate(frames)
        ]
        for block in seen.blocks
    ]
    for n, frame in enumerate(seen.frames):
        titles = [f"RGB, frame {first + n * stride}", f"flow, to {fastest:.1f} px"]
        both = [enlarged(frame), enlarged(flow[n])]
        yield np.vstack(
            [
                titled(
                    [*both, *(pictures[n] for _, pictures in row)],
                    [*titles, *(title for title, _ in row)],
                )
                for row in rows
            ]
        )


def _query_title(seen: Seen, block: BlockMap, number: int, at: int, frame: int) -> str:
    """Of the query's panels: `at` is its frame in the clip, `frame` the same one of the video."""
    x, y = seen.queries[number]
    weights = clip_map(block, (x, y), at, seen)
    over = "flow" if block.reads == "flow" else "RGB"
    # As in `--query`: pixels of the stored frame.
    asked = f"{x + seen.corner[0]},{y + seen.corner[1]} of frame {frame}"
    return (
        f"{block.name} over {over}\nfrom {asked}, strongest\n"
        f"{weights.max():.1%} ({1 / weights.size:.1%} if even)"
    )
