"""JPEG decoders side by side on the stored members: `python -m benchmarks.loader --decoders`.

OpenCV's is the one in use. simplejpeg, PyTurboJPEG (which needs the system's libturbojpeg) and
torchvision are measured where they are installed. Each member goes through all of them in turn; the
figure is the median over members of its fastest time.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from twinstream.shards.format.image import decode_gray, decode_rgb
from twinstream.shards.format.sample import flow_member, frame_member
from twinstream.shards.read.samples import StoredSample

TRIES = 7
Decoder = Callable[[bytes], Any]


def decoders() -> dict[str, tuple[Decoder, Decoder]]:
    """(flow field, frame) decoders by name."""
    found: dict[str, tuple[Decoder, Decoder]] = {
        "OpenCV (ours)": (decode_gray, decode_rgb),
        "torchvision.io": (
            lambda data: decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.GRAY
            ),
            lambda data: decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
            ),
        ),
    }
    try:
        import simplejpeg

        found["simplejpeg"] = (
            lambda data: simplejpeg.decode_jpeg(data, "GRAY"),
            lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        )
    except ImportError:
        pass
    try:
        from turbojpeg import TJPF_GRAY, TJPF_RGB, TurboJPEG

        turbo = TurboJPEG()
        found["PyTurboJPEG"] = (
            lambda data: turbo.decode(data, TJPF_GRAY),
            lambda data: turbo.decode(data, TJPF_RGB),
        )
    # RuntimeError: the system has no libturbojpeg.
    except (ImportError, RuntimeError):
        pass
    return found


def decoder_table(samples: list[StoredSample]) -> str:
    """Microseconds an image, and the largest difference in levels from OpenCV's."""
    known = decoders()
    lines = [
        "| JPEG decoder | flow field us | frame us | differs by at most |",
        "|---|---|---|---|",
    ]
    members = list(zip(*[middle_members(sample) for sample in samples], strict=True))
    times = [
        fastest({name: pair[kind] for name, pair in known.items()}, members[kind])
        for kind in range(2)
    ]
    ours = next(iter(known.values()))
    for name, pair in known.items():
        apart = max(
            int(np.abs(as_levels(pair[kind](data)) - as_levels(ours[kind](data))).max())
            for kind in range(2)
            for data in members[kind]
        )
        lines.append(f"| {name} | {times[0][name]:.0f} | {times[1][name]:.0f} | {apart} |")
    return "\n".join(lines)


def fastest(functions: dict[str, Decoder], members: tuple[bytes, ...]) -> dict[str, float]:
    """The median over the members of each decoder's fastest time, in microseconds."""
    best: dict[str, list[float]] = {name: [] for name in functions}
    for data in members:
        tries = [
            {name: seconds(function, data) for name, function in functions.items()}
            for _ in range(TRIES)
        ]
        for name in functions:
            # The fastest of several tries: whatever else the machine does can only add time.
            best[name].append(min(each[name] for each in tries))
    return {name: 1e6 * median(taken) for name, taken in best.items()}


def seconds(decode: Decoder, data: bytes) -> float:
    """One call."""
    begun = time.perf_counter()
    decode(data)
    return time.perf_counter() - begun


def middle_members(sample: StoredSample) -> tuple[bytes, bytes]:
    """A flow_x field and a frame from the middle of a sample, as stored."""
    index = sample.index
    members = (
        flow_member(index.num_frames, index.num_frames // 2),
        frame_member(index.num_frames // 2),
    )
    field, frame = (
        sample.read(int(index.offsets[member]), int(index.sizes[member])) for member in members
    )
    return field, frame


def as_levels(image: Any) -> npt.NDArray[np.int16]:
    """(H, W) or (H, W, 3), from whatever layout a decoder gives."""
    # int16, because the difference of two uint8 levels would wrap around.
    array = np.asarray(image).astype(np.int16)
    # torchvision puts colours first, the others last.
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return array.squeeze()
