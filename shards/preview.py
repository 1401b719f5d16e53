"""A picture or a video of samples, with which a person checks that frames and flow fit.

The colour of the flow is the direction of motion: red is to the right, green down, cyan left,
violet up, as the wheel at the right shows. Saturation is speed, and white is no motion. Each sample
is scaled to a speed that nearly all of its motion is below, which is printed beside it: to the
fastest alone, one wrong pixel would make all else white. The prices are that what is faster looks
alike, and that the colours of two samples cannot be compared. A field far faster than the sample's
others is marked, as between two shots there is no motion to show.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from twinstream.output import figure_text
from twinstream.progress import Progress
from twinstream.shards.format.classes import first_few
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames, read_meta
from twinstream.shards.read.samples import StoredSample
from twinstream.shards.storage.atomic import atomic_file

DEFAULT_FPS = 25.0
# Of the speeds in a field, and of the fields of a sample, in percent
FULL_COLOUR, FULL_FIELDS = 99.0, 95.0
# A field is of a shot change where its mean speed is so many times that of the sample's median
# field, still ones aside, and at least so many pixels
SHOT_RATIO, SHOT_PIXELS, STILL_PIXELS = 4.0, 2.0, 0.1
SHOT_COLOUR = (200, 30, 30)


def flow_to_rgb(flow: NDArray[np.floating[Any]], fastest: float) -> NDArray[np.uint8]:
    """(..., 2) pixels -> (..., 3) uint8: hue is direction, saturation is speed / `fastest`."""
    # arctan2 gives -pi to pi and a hue is 0 to 1; % 1 moves the negative half up.
    angle = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1.0
    # 1e-6: a sample without any motion would otherwise divide by zero.
    speed = np.clip(np.linalg.norm(flow, axis=-1) / max(fastest, 1e-6), 0, 1)
    colours = hsv_to_rgb(np.stack([angle, speed, np.ones_like(speed)], -1))
    levels: NDArray[np.uint8] = np.rint(colours * 255).astype(np.uint8)
    return levels


def full_colour(flow: NDArray[np.floating[Any]]) -> float:
    """The speed in pixels that has full colour, of fields (T, ..., 2) that are shown together."""
    return full_speed([field_speed(field) for field in flow])


def field_speed(field: NDArray[np.floating[Any]]) -> float:
    """A speed in pixels that nearly all of a field (..., 2) is below."""
    return float(np.percentile(np.linalg.norm(field, axis=-1), FULL_COLOUR))


def full_speed(speeds: Sequence[float]) -> float:
    """Of the speeds of fields, each by `field_speed`, the one that has full colour."""
    return float(np.percentile(speeds, FULL_FIELDS))


def shot_changes(mean_speeds: Sequence[float]) -> NDArray[np.bool_]:
    """(T,) mean speeds of a sample's fields -> which of them lie between two shots, as it seems."""
    speeds = np.asarray(mean_speeds, float)
    # Many videos repeat frames: still fields say nothing of how fast the others usually are.
    moving = speeds[speeds > STILL_PIXELS]
    usual = float(np.median(moving)) if len(moving) else 0.0
    return np.asarray(speeds > max(SHOT_RATIO * usual, SHOT_PIXELS), bool)


def _scale(dataset: ShardDataset, sample: StoredSample) -> tuple[float, NDArray[np.bool_]]:
    """The speed of full colour of all a sample's fields, and which are between two shots."""
    speeds, means = [], []
    for t in range(sample.index.num_frames - 1):
        field = dataset.flow_pixels(read_flow(sample, t, 1))[0]
        speeds.append(field_speed(field))
        means.append(float(np.linalg.norm(field, axis=-1).mean()))
    changes = shot_changes(means)
    # The others: between two shots the motion is none.
    return full_speed(
        [speed for speed, cut in zip(speeds, changes, strict=True) if not cut]
    ), changes


def colour_wheel(size: int) -> NDArray[np.uint8]:
    """(size, size, 3): the colour of the motion from the centre to each pixel, in a circle."""
    axis = np.linspace(-1, 1, size)
    motion = np.stack(np.meshgrid(axis, axis), -1)
    wheel = flow_to_rgb(motion, 1.0)
    wheel[np.linalg.norm(motion, axis=-1) > 1] = 255
    return wheel


def preview_times(num_frames: int, columns: int) -> list[int]:
    """Frames to show, evenly spread: 25 frames in 4 columns -> 0, 8, 15, 23."""
    # The last frame has no flow.
    last = num_frames - 2
    return sorted({round(t) for t in np.linspace(0, last, min(columns, last + 1))})


def write_preview(
    dataset: ShardDataset, samples: Sequence[StoredSample], path: Path, columns: int = 6
) -> None:
    """Contact sheet of the samples as PNG: two rows a sample."""
    figure = Figure(figsize=(2.0 * columns + 1.2, 4.3 * len(samples)), layout="constrained")
    axes = figure.subplots(2 * len(samples), columns + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    with Progress("preview", len(samples), "sample") as progress:
        for number, sample in enumerate(samples):
            _draw(axes[2 * number : 2 * number + 2], dataset, sample, columns)
            progress.advance(note=sample.index.key)
    save_figure(figure, path, dpi=100)


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write the figure whole or not at all, in the format that the suffix names."""
    with atomic_file(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix[1:] or None)


def write_preview_video(dataset: ShardDataset, samples: Sequence[StoredSample], path: Path) -> None:
    """The samples one after another as H.264, each frame beside its flow.

    Size and frame rate are those of the first sample; an unknown rate becomes DEFAULT_FPS.
    """
    height, width = samples[0].index.height, samples[0].index.width
    num_pictures = sum(sample.index.num_frames - 1 for sample in samples)
    with Progress("preview", num_pictures, "frame") as progress:

        def pictures() -> Iterator[NDArray[np.uint8]]:
            for sample in samples:
                for picture in side_by_side(dataset, sample, height, width):
                    yield picture
                    progress.advance(note=sample.index.key)

        write_video(pictures(), read_meta(samples[0]).fps, path)


def write_video(pictures: Iterator[NDArray[np.uint8]], fps: float, path: Path) -> None:
    """(H, W, 3) RGB pictures of one even size as H.264; fps 0 is unknown and becomes DEFAULT_FPS.

    PyAV is imported only here, because reading a dataset does not need it.
    """
    import av

    first = next(pictures)
    # By name, as PyAV hides the errors of a Python file.
    with (
        atomic_file(path) as file,
        av.open(str(file.name), "w", format=path.suffix[1:]) as container,
    ):
        # H.264 takes a fraction; 30000/1001 (29.97) is the finest that cameras use.
        rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        for picture in chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def side_by_side(
    dataset: ShardDataset, sample: StoredSample, height: int, width: int
) -> Iterator[NDArray[np.uint8]]:
    """Each frame beside its flow, (height, 2 width, 3) uint8, white where there is no image.

    A sample is read twice, because colours are scaled to its motion. A bar above a flow says that
    it is of a shot change.
    """
    fastest, changes = _scale(dataset, sample)
    rows, columns = min(height, sample.index.height), min(width, sample.index.width)
    for t in range(sample.index.num_frames - 1):
        # yuv420p halves both sides, so the height must be even; 2 * width always is.
        picture = np.full((height + height % 2, 2 * width, 3), 255, np.uint8)
        flow = dataset.flow_pixels(read_flow(sample, t, 1))[0]
        picture[:rows, :columns] = read_frames(sample, [t])[0, :rows, :columns]
        picture[:rows, width : width + columns] = flow_to_rgb(flow, fastest)[:rows, :columns]
        if changes[t]:
            picture[: max(2, height // 30), width:] = SHOT_COLOUR
        yield picture


def _draw(rows: NDArray[Any], dataset: ShardDataset, sample: StoredSample, columns: int) -> None:
    times = preview_times(sample.index.num_frames, columns)
    frames = read_frames(sample, times)
    flow = dataset.flow_pixels(np.concatenate([read_flow(sample, t, 1) for t in times]))
    fastest, changes = _scale(dataset, sample)
    for column, t in enumerate(times):
        rows[0, column].imshow(frames[column])
        rows[0, column].set_title(
            f"{figure_text(sample.index.key)}\nframe 0" if column == 0 else f"frame {t}",
            fontsize=7,
            loc="left",
        )
        rows[1, column].imshow(flow_to_rgb(flow[column], fastest))
        speed = np.linalg.norm(flow[column], axis=-1)
        title = f"flow {t}: " + ("shot change" if changes[t] else f"mean {speed.mean():.2f} px")
        ink = [level / 255 for level in SHOT_COLOUR] if changes[t] else "black"
        rows[1, column].set_title(title, fontsize=7, loc="left", color=ink)
    rows[1, -1].imshow(colour_wheel(101))
    rows[1, -1].set_title(f"to {fastest:.1f} px", fontsize=7)
    if changes.any():
        where = first_few([str(t + 1) for t in np.flatnonzero(changes)])
        rows[0, -1].set_title(f"shot changes\nat {where}", fontsize=7)
