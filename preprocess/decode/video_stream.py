"""What a decoder gives to a job: an open video, its header and its frames in chunks.

Apart from the decoders, so that code that only plans or counts jobs does not import FFmpeg.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twinstream.shards.storage.location import Location


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is decoded.

    Upright size of the source in pixels, frames/s (None when unknown) and the number of frames that
    its header claims.
    """

    width: int
    height: int
    fps: float | None
    frames_in_header: int | None


@dataclass(frozen=True)
class OpenedVideo:
    """An open video; iterate once for its (t, H, W, 3) uint8 RGB chunks.

    `notes` is complete after the iteration: what belongs in the video's row though it is no fault,
    such as which of several streams was taken; each is a few words.
    """

    info: VideoInfo
    chunks: Iterator[NDArray[np.uint8]]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self.chunks


class VideoStream(Protocol):
    """An open video: its header, and an iterator of (t, H, W, 3) uint8 RGB chunks."""

    @property
    def info(self) -> VideoInfo:
        """Source width, height and fps."""

    @property
    def notes(self) -> Sequence[str]:
        """What belongs in its row though it is no fault; complete after the iteration."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame once; VideoError where the video turns out to be damaged."""


OpenVideo = Callable[[Location], AbstractContextManager[VideoStream]]
