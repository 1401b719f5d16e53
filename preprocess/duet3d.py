"""duet3d: toy videos whose class needs colour and the order of two motions, ceilings known.

As duet, but the motion m is told by order alone: a blob steps one way and, later, back. m is the
way of the first steps, one of 4; right-left and left-right hold the same steps. The label is duet's
TABLE[a][m].

A video is 12 pairs of frames. In each pair the blob stands at a new random place, and takes a step
within the pair or none. So every second frame shows its colour and no motion, and every second flow
field motion and no colour: a clip of 12 frames and fields, stride 2, has all there is to know.

                                  knows                             best possible
    rgb, any frames of a clip     a                                 25 %
    flow, a clip                  m                                 25 %
    two-stream, trained apart     a + m, as in duet                 50 % expected
    2-D: a frame and a stack of   a, and the line of m (right-left  50 %, of all snippets of a video
    5 fields, together            or up-down)                       too; 33/76 of one at random
    a clip, both together         a and m                           100 %

Rests keep the two motions out of one stack of 5 fields, and stand before, between and behind them,
so that whatever a stack shows of the first steps another one shows of the last. Where P3D's pools
have halved time three times, the first motion is in one step of time and the second in the other.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinstream.preprocess.duet import (
    DIRECTIONS,
    Blob,
    colour_of,
    draw_frame,
    draw_scene,
    write_pairs,
)

# Of each pair of frames: a step along the direction of m, one against it, or none
STEPS = (0, 0, 1, 1, 0, 0, 0, 0, -1, -1, 0, 0)
CLIP_LENGTH, CLIP_STRIDE = len(STEPS), 2
CEILINGS = {"rgb": 0.25, "flow": 0.25, "two-stream": 0.5, "2-D": 0.5, "CMA": 1.0}
# Of one 2-D snippet with a random start, a part of which shows a rest alone
SNIPPET_CEILING = 33 / 76


def draw_video(rng: np.random.Generator, colour: int, motion: int, size: int) -> NDArray[np.uint8]:
    """(24, size, size, 3) RGB; everything but colour and direction is drawn from `rng`."""
    velocity = DIRECTIONS[motion] * rng.uniform(1.5, 3.5)
    radius = rng.uniform(0.14, 0.2) * size
    places = rng.uniform(0, size, (len(STEPS), 2))
    scene = draw_scene(rng, size)
    pairs = [
        Blob(colour_of(colour), place, step * velocity, radius)
        for place, step in zip(places, STEPS, strict=True)
    ]
    return np.stack([draw_frame(blob, t, scene) for blob in pairs for t in range(CLIP_STRIDE)])


def write_duet3d(root: Path, *, videos_per_pair: Mapping[str, int], size: int, seed: int) -> None:
    """Draw `videos_per_pair[SPLIT]` videos of each pair of colour and direction."""
    write_pairs(
        root,
        lambda rng, colour, motion: draw_video(rng, colour, motion, size),
        videos_per_pair=videos_per_pair,
        seed=seed,
    )
