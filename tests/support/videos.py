"""Real video files for tests, drawn while the tests run.

`frames` are uint8 RGB (T, H, W, 3) with even sides. The lossy default (mpeg4, fine quantizer) keeps
flat colours within a few levels; `codec="ffv1", pix_fmt="bgr0"` in an .mkv or .avi keeps every
pixel. The container follows from the file's suffix, and `rotation` needs one that carries a display
matrix (.mp4, .mov).
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

SOUND_CODECS = {".webm": "libopus", ".mp3": "mp3", ".wav": "pcm_s16le"}
SOUND_RATE = 48000
OPTIONS = {"mpeg4": {"qmin": "2", "qmax": "2"}, "libx264": {"crf": "12", "preset": "veryfast"}}


def moving_square(
    num_frames: int, width: int = 64, height: int = 48, step: int = 2
) -> npt.NDArray[np.uint8]:
    """A bright square over a dark ramp that moves right by `step` pixels a frame."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[...] = np.linspace(20, 80, width, dtype=np.uint8)[:, None]
    for index, frame in enumerate(frames):
        left = index * step % (width - 12)
        frame[height // 3 : height // 3 + 12, left : left + 12] = (220, 180, 60)
    return frames


def write_video(
    path: Path,
    frames: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]],
    *,
    fps: int = 25,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    gop_size: int = 12,
    sound: bool = False,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Encode `frames` to `path`; a player turns them by `rotation` degrees counter-clockwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options=muxer_options) as container:
        stream = container.add_stream(codec, rate=fps, options=OPTIONS.get(codec))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = (
            width,
            height,
            pix_fmt,
            gop_size,
        )
        if rotation:
            stream.set_display_rotation(rotation)
        # The sound stream must be known to the container before the first packet of pictures.
        if sound:
            _add_silence(container, path, num_seconds=len(frames) / fps)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, *, num_seconds: float = 1.0) -> Path:
    """A file with one silent audio stream and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _add_silence(container, path, num_seconds=num_seconds)
    return path


def _add_silence(container: OutputContainer, path: Path, *, num_seconds: float) -> None:
    """Add an audio stream of zeros; it is written before the pictures."""
    codec = SOUND_CODECS.get(path.suffix, "mp3")
    stream = container.add_stream(codec, rate=SOUND_RATE)
    assert isinstance(stream, AudioStream)
    silence = np.zeros((1, 1152), np.int16)
    layout = "s16p" if codec == "mp3" else "s16"
    for index in range(max(1, round(num_seconds * SOUND_RATE / silence.shape[1]))):
        frame = av.AudioFrame.from_ndarray(silence, format=layout, layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, index * silence.shape[1]
        frame.time_base = Fraction(1, SOUND_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
