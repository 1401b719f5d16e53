"""duet: toy videos whose class needs both appearance and motion, with known best accuracies.

A blob of random silhouette moves over a gray texture. Its colour a is one of 4, its direction m one
of 4, the label is TABLE[a][m]. Each colour and each direction leaves 4 classes possible, equally
likely, so the best possible accuracy is 25 % from colour and 25 % from motion. A branch that has
learned this gives the 4 the same score, and the sum of two such branches leaves 2 that are equally
likely: 50 %. Only a model that relates both reaches 100 %.

The 50 % is an expectation, for branches that were each trained alone. Which of 2 classes a run
prefers is random in each of the 16 pairs, so a run can be some points off. Scores made for their
sum could tell 15 of the 16 pairs. Two shortcuts are closed: the four colours have the same luma, so
gray frames, and hence flow, do not contain them; and the picture is a torus, so the position of the
blob does not depend on its direction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from twinstream.progress import Progress

Array = NDArray[np.float64]

TABLE = ((0, 1, 3, 2), (2, 3, 4, 5), (4, 5, 7, 6), (6, 7, 0, 1))
CEILINGS = {"rgb": 0.25, "flow": 0.25, "two-stream": 0.5, "CMA": 1.0}
NUM_CLASSES = 8

LUMA = np.array([0.299, 0.587, 0.114])
HUES = np.array([[1.0, 0.35, 0.35], [0.3, 1.0, 0.35], [0.4, 0.5, 1.0], [1.0, 0.8, 0.1]])
# The same luma, hues between those
OTHER_HUES = np.array([[1.0, 0.35, 0.7], [0.3, 1.0, 0.8], [0.65, 0.4, 1.0], [1.0, 0.6, 0.1]])
DIRECTIONS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
MEAN_LUMA = 100.0
FPS = 25


@dataclass(frozen=True)
class Blob:
    """A silhouette: RGB, centre at time 0 and velocity in pixels, (x, y)."""

    colour: NDArray[np.float64]
    centre: NDArray[np.float64]
    velocity: NDArray[np.float64]
    radius: float


@dataclass(frozen=True)
class Scene:
    """What stays the same in a video: the picture's texture, the blob's silhouette and texture."""

    positions: Array
    """(size, size, 2) pixels, (x, y)"""
    background: Array
    """(size, size) gray"""
    ripple: Callable[[Array], Array]
    """Radius by angle, about 1"""
    skin: Callable[[Array], Array]


def draw_video(
    rng: np.random.Generator,
    colour: int,
    motion: int,
    size: int,
    num_frames: int,
    hues: Array = HUES,
) -> NDArray[np.uint8]:
    """(T, size, size, 3) RGB; everything but colour and direction is drawn from `rng`."""
    blob = Blob(
        colour_of(colour, hues),
        rng.uniform(0, size, 2),
        DIRECTIONS[motion] * rng.uniform(1.5, 3.5),
        rng.uniform(0.14, 0.2) * size,
    )
    scene = draw_scene(rng, size)
    return np.stack([draw_frame(blob, t, scene) for t in range(num_frames)])


def write_duet(
    root: Path,
    *,
    videos_per_pair: Mapping[str, int],
    size: int,
    num_frames: int,
    seed: int,
    hues: Array = HUES,
) -> None:
    """Draw `videos_per_pair[SPLIT]` videos of each pair of colour and direction; hues (4, 3)."""
    write_pairs(
        root,
        lambda rng, colour, motion: draw_video(rng, colour, motion, size, num_frames, hues),
        videos_per_pair=videos_per_pair,
        seed=seed,
    )


def write_pairs(
    root: Path,
    draw: Callable[[np.random.Generator, int, int], NDArray[np.uint8]],
    *,
    videos_per_pair: Mapping[str, int],
    seed: int,
) -> None:
    """Write root/SPLIT/CLASS/aA_mM_NNN.mp4: `draw(rng, colour, motion)`, its class by TABLE."""
    with Progress("draw", 16 * sum(videos_per_pair.values()), "video") as progress:
        for split_index, (split, count) in enumerate(videos_per_pair.items()):
            for colour, motion, number in np.ndindex(4, 4, count):
                # Each video has its own seed, so a larger count leaves the earlier ones unchanged.
                rng = np.random.default_rng([seed, split_index, colour, motion, number])
                folder = root / split / f"class{TABLE[colour][motion]}"
                folder.mkdir(parents=True, exist_ok=True)
                name = f"a{colour}_m{motion}_{number:03d}.mp4"
                write_mp4(folder / name, draw(rng, colour, motion))
                progress.advance()


def write_mp4(path: Path, frames: NDArray[np.uint8]) -> None:
    """(T, H, W, 3) RGB -> an MPEG-4 video of high quality at 25 frames/s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(FPS))
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        # The finest quantizers: compression must neither shift colours nor smooth the texture.
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 2
        stream.bit_rate = 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def colour_of(colour: int, hues: Array = HUES) -> NDArray[np.float64]:
    """(3,) RGB of that hue at the common luma."""
    rgb: Array = hues[colour] * MEAN_LUMA / (hues[colour] @ LUMA)
    return rgb


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """A scene of random textures and a random silhouette."""
    ripple = _ripple(rng)
    skin, ground = _texture(rng, size), _texture(rng, size)
    positions = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float64)
    return Scene(positions, MEAN_LUMA + 45 * ground(positions), ripple, skin)


def draw_frame(blob: Blob, t: int, scene: Scene) -> NDArray[np.uint8]:
    """(size, size, 3) RGB: the blob at time t, on a torus."""
    size = len(scene.positions)
    # Wrapped to -size/2 .. size/2: what leaves the picture on one side enters on the other.
    offset = (scene.positions - blob.centre - t * blob.velocity + size / 2) % size - size / 2
    distance = np.hypot(offset[..., 0], offset[..., 1])
    edge = blob.radius * scene.ripple(np.arctan2(offset[..., 1], offset[..., 0]))
    # Edges are one pixel soft; hard ones would move in steps, and flow would see steps.
    inside = np.clip(edge - distance + 0.5, 0, 1)[..., None]
    shade = 1 + 0.25 * scene.skin(offset)[..., None]
    picture = (1 - inside) * scene.background[..., None] + inside * blob.colour * shade
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _ripple(rng: np.random.Generator) -> Callable[[Array], Array]:
    """A silhouette: radius by angle, about 1."""
    strength, phase = rng.uniform(-0.18, 0.18, 3), rng.uniform(0, 2 * np.pi, 3)
    order = np.arange(2, 5)
    return lambda angle: 1 + np.cos(angle[..., None] * order + phase) @ strength


def _texture(rng: np.random.Generator, size: int) -> Callable[[Array], Array]:
    """Smooth noise within about [-1, 1] that wraps around: waves of whole numbers of periods."""
    waves = rng.integers(-9, 10, (12, 2)) * 2 * np.pi / size
    phase = rng.uniform(0, 2 * np.pi, 12)
    return lambda positions: np.sin(positions @ waves.T + phase).sum(-1) / 4
