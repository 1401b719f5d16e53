"""Pictures whose motion is known exactly."""

import numpy as np

from twinstream.preprocess.flow.engine import Gray


def textured(dx: float = 0.0, dy: float = 0.0, *, height: int = 48, width: int = 64) -> Gray:
    """A scene of a few smooth waves, moved by (dx, dy) pixels; exact at any subpixel amount."""
    y, x = np.mgrid[:height, :width]
    x, y = x - dx, y - dy
    waves = (
        np.sin(x / 2.1 + y / 5.3)
        + np.sin(y / 2.3 - x / 6.1)
        + np.sin((x + y) / 3.7)
        + np.cos(x / 4.3 - y / 3.1)
    )
    scene: Gray = np.round(127.5 + 30 * waves).astype(np.uint8)
    return scene
