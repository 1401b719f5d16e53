"""Drawn videos in many codecs and containers, with drawn settings of encoder and muxer."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

NUM_FRAMES, WIDTH, HEIGHT, FPS, KEY_EVERY = 48, 160, 120, 25, 12

# Each option with its values; every file has one of them, or the default.
Choices = dict[str, str]

X26X: Choices = {"preset": "ultrafast veryfast medium", "crf": "12 23 35"}
H264 = X26X | {
    "refs": "1 3 6",
    "coder": "cabac vlc",
    "x264-params": "slices=1 slices=4 weightp=2 open-gop=1 scenecut=0 sliced-threads=1",
}
H264_B = H264 | {"bf": "1 3 8", "b-pyramid": "none strict normal", "b_strategy": "0 2"}
X265 = "open-gop=1 open-gop=0 bframes=0 bframes=8:rc-lookahead=20 ref=5 repeat-headers=1"
QUIET = "log-level=none:pools=none"
HEVC = X26X | {"x265-params": " ".join(f"{one}:{QUIET}" for one in X265.split())}
MPEG2: Choices = {"bf": "0 2", "b": "200k 2M", "flags": "+cgop +ilme+ildct"}
# Without it the encoder refuses closed groups of pictures.
FIXED_GOP: Choices = {"sc_threshold": "1000000000"}
MPEG4 = MPEG2 | {"flags": "+ilme+ildct +qpel +mv4 +aic", "data_partitioning": "0 1"}
MP4: Choices = {"movflags": "faststart frag_keyframe+empty_moov frag_every_frame+empty_moov"}
VP8: Choices = {"auto-alt-ref": "0 1", "lag-in-frames": "0 16", "slices": "1 4"}
VP9: Choices = {"auto-alt-ref": "0 1 6", "lag-in-frames": "0 16", "frame-parallel": "0 1"}
AV1: Choices = {"crf": "20 45", "svtav1-params": "pred-struct=1 film-grain=8 irefresh-type=1"}
Q: Choices = {"b": "200k 2M"}


@dataclass(frozen=True)
class Encoding:
    """A codec in a container, its options, and what encoder and muxer may be set to."""

    name: str
    suffix: str
    codec: str
    fixed: Choices = field(default_factory=dict)
    choices: Choices = field(default_factory=dict)
    muxer: Choices = field(default_factory=dict)
    pix_fmts: str = "yuv420p"

    @property
    def label(self) -> str:
        """`h264, B, mp4`."""
        return f"{self.name}, {self.suffix}"


ENCODINGS = (
    Encoding("h264 B", "mp4", "libx264", {"bf": "3"}, H264_B, MP4, "yuv420p yuv444p yuv420p10le"),
    Encoding("h264 no B", "mp4", "libx264", {"bf": "0"}, H264, MP4),
    Encoding("h264 interlaced", "mp4", "libx264", {"flags": "+ilme+ildct"}, H264_B, MP4),
    Encoding("h264", "mkv", "libx264", {}, H264_B),
    Encoding("h264", "ts", "libx264", {}, H264_B),
    Encoding("h264", "flv", "libx264", {}, H264_B),
    Encoding("h264", "avi", "libx264", {"bf": "0"}, H264),
    Encoding("hevc", "mp4", "libx265", {"x265-params": QUIET}, HEVC, MP4, "yuv420p yuv420p10le"),
    Encoding("hevc", "mkv", "libx265", {"x265-params": QUIET}, HEVC),
    Encoding("hevc", "ts", "libx265", {"x265-params": QUIET}, HEVC),
    Encoding("mpeg4", "avi", "mpeg4", {}, MPEG4),
    Encoding("mpeg4", "mp4", "mpeg4", {}, MPEG4, MP4),
    Encoding("mpeg2", "ts", "mpeg2video", FIXED_GOP, MPEG2, {}, "yuv420p yuv422p"),
    Encoding("mpeg2", "mpg", "mpeg2video", FIXED_GOP, MPEG2),
    Encoding("mpeg1", "mpg", "mpeg1video", FIXED_GOP, MPEG2 | {"flags": "+cgop"}),
    Encoding("mjpeg", "avi", "mjpeg", {}, Q | {"huffman": "default optimal"}, {}, "yuvj420p"),
    Encoding("vp8", "webm", "libvpx", {"b": "400k"}, VP8),
    Encoding(
        "vp9", "webm", "libvpx-vp9", {"b": "400k", "cpu-used": "8"}, VP9, {}, "yuv420p yuv444p"
    ),
    Encoding("av1", "mp4", "libsvtav1", {"preset": "12"}, AV1, MP4),
    Encoding("av1", "mkv", "libsvtav1", {"preset": "12"}, AV1),
    Encoding("wmv2", "asf", "wmv2", {}, Q),
    Encoding("msmpeg4", "avi", "msmpeg4", {}, Q),
    Encoding("flv1", "flv", "flv", {}, Q),
    Encoding("ffv1", "mkv", "ffv1", {}, {"level": "1 3", "slicecrc": "0 1"}, {}, "yuv420p bgr0"),
    Encoding("gif", "gif", "gif", {}, {}, {}, "rgb8"),
)

# SVT-AV1 has no option for it.
os.environ.setdefault("SVT_LOG", "0")


def drawn(rng: np.random.Generator, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """A texture that drifts behind another one that moves the other way, (H, W, 3) uint8 each."""
    coarse = rng.integers(0, 256, (2, HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    back, front = (
        cv2.resize(one, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for one in coarse
    )
    dy, dx = (int(step) for step in rng.integers(1, 5, 2))
    for t in range(num_frames):
        frame = np.roll(back, (dy * t, dx * t), (0, 1)).copy()
        left = (10 + 3 * t) % (WIDTH - 48)
        frame[30:78, left : left + 48] = front[30:78, 20:68]
        # No two pictures alike, so that a repeated one is seen.
        yield np.clip(frame.astype(np.int16) + t % 7, 0, 255).astype(np.uint8)


def encode(path: Path, encoding: Encoding, rng: random.Random, *, plain: bool) -> None:
    """Draw a video and write it; with `plain` settings, else with one of each choice or none."""
    options = encoding.fixed | ({} if plain else _picked(encoding.choices, rng))
    muxer = {} if plain else _picked(encoding.muxer, rng)
    pix_fmts = encoding.pix_fmts.split()
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(encoding.codec, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = pix_fmts[0] if plain else rng.choice(pix_fmts)
        stream.gop_size = KEY_EVERY if plain else rng.choice((1, 5, KEY_EVERY, 250))
        for frame in drawn(np.random.default_rng(rng.randrange(2**32)), NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _picked(choices: Choices, rng: random.Random) -> dict[str, str]:
    """One value of each option, or none."""
    picks = {name: rng.choice((None, *values.split())) for name, values in choices.items()}
    return {name: value for name, value in picks.items() if value}


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """(position, size, is a key frame) of every packet with pictures, in the file's order."""
    with av.open(str(path)) as container:
        found = container.demux(container.streams.video[0])
        return [
            (packet.pos or 0, packet.size, packet.is_keyframe) for packet in found if packet.size
        ]


def remux(source: Path, target: Path, keeps: Callable[[int], bool]) -> None:
    """Copy the packets whose number is kept, the first shown at 0."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream, opaque=True)
        kept = [packet for packet in read.demux(stream) if packet.size]
        kept = [packet for number, packet in enumerate(kept) if keeps(number)]
        for packet, (pts, dts) in zip(kept, _times(kept), strict=True):
            packet.pts, packet.dts, packet.stream = pts, dts, copy
            written.mux(packet)


def _times(kept: list["Packet[VideoStream]"]) -> list[tuple[int, int]]:
    """(pts, dts) of each packet; the first pts is 0."""
    known = [packet.pts for packet in kept if packet.pts is not None]
    # A program stream has times of some pictures, or wrong ones; they change no picture.
    if len(set(known)) < len(kept):
        step = kept[0].duration or 1
        return [(number * step, number * step) for number in range(len(kept))]
    ordered = sorted(known)
    delay = max(dts - pts for pts, dts in zip(known, ordered, strict=True))
    begin = known[0]
    return [(pts - begin, dts - delay - begin) for pts, dts in zip(known, ordered, strict=True)]
