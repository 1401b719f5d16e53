"""Reads chosen frames and flow fields of a sample by offset; never a whole shard.

The index gives the offset of each member. Neighbouring members are one read, and so are members
with little between them; from an object store the reads of a sample run at the same time. A local
file is opened for each read, so that forked workers share no file position. What differs from the
index is an InputError with shard and key.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.image import Size, decode_gray, decode_rgb
from twinstream.shards.format.sample import SampleMeta, flow_member, frame_member, meta_from_json
from twinstream.shards.read.samples import StoredSample
from twinstream.shards.storage.block_cache import BLOCK_BYTES

NUM_REQUESTS = 16
# So much between two members is read along: less than a block a cache would fetch anyway, and on a
# disk another read costs more.
MAX_GAP_BYTES = BLOCK_BYTES
Members = list[memoryview]
Image = NDArray[np.uint8]


def read_meta(sample: StoredSample) -> SampleMeta:
    """The sample's JSON member."""
    ((data,),) = _read_spans(sample, [[0]])
    try:
        return meta_from_json(bytes(data))
    except InputError as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: {error}") from error


def read_frames(sample: StoredSample, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Frames by number -> (len(indices), H, W, 3) RGB uint8."""
    spans = [_frame_members(sample, t) for t in indices]
    return _frames(sample, indices, _read_spans(sample, spans))


def read_flow(sample: StoredSample, start: int, length: int) -> NDArray[np.uint8]:
    """Flow fields [start, start + length) -> (length, H, W, 2) uint8 codec levels, (dx, dy)."""
    (members,) = _read_spans(sample, [_flow_members(sample, start, length)])
    return _flow(sample, start, members)


def read_snippets(
    sample: StoredSample,
    starts: Sequence[int],
    num_fields: int,
    num_frames: int = 1,
    stride: int = 1,
) -> tuple[Iterator[Image], Iterator[Iterator[Image]]]:
    """K starts -> K * T frames (H, W, 3) and K stacks of 2L (H, W), dx0 dy0 dx1 ..., all uint8.

    From each start t on T = `num_frames` frames and L = `num_fields` fields: t, t + stride ... All
    bytes are read at once, but an image is decoded when the iterator reaches it. So the next step
    finds it in the processor's cache; stacking them would cost a third of the decoding time.
    """
    spans = [_frame_members(sample, t, num_frames, stride) for t in starts] + [
        _flow_members(sample, t, num_fields, stride) for t in starts
    ]
    members = _read_spans(sample, spans)
    frames = (
        _frame(sample, t + stride * number, data)
        for t, clip in zip(starts, members[: len(starts)], strict=True)
        for number, data in enumerate(clip)
    )
    stacks = (
        _fields(sample, t, stack, stride)
        for t, stack in zip(starts, members[len(starts) :], strict=True)
    )
    return frames, stacks


def _frames(
    sample: StoredSample, indices: Sequence[int], members: list[Members]
) -> NDArray[np.uint8]:
    frames = np.empty((len(indices), sample.index.height, sample.index.width, 3), np.uint8)
    for position, (t, (data,)) in enumerate(zip(indices, members, strict=True)):
        frames[position] = _frame(sample, t, data)
    return frames


def _frame(sample: StoredSample, t: int, data: memoryview) -> Image:
    return _decoded(
        sample, f"frame {t}", decode_rgb, data, (sample.index.height, sample.index.width, 3)
    )


def _flow(sample: StoredSample, start: int, members: Members) -> NDArray[np.uint8]:
    flow = np.empty((len(members) // 2, sample.index.height, sample.index.width, 2), np.uint8)
    for position, field in enumerate(_fields(sample, start, members)):
        flow[position // 2, :, :, position % 2] = field
    return flow


def _fields(sample: StoredSample, start: int, members: Members, stride: int = 1) -> Iterator[Image]:
    shape = (sample.index.height, sample.index.width)
    for position, data in enumerate(members):
        t = start + stride * (position // 2)
        yield _decoded(sample, f"flow_{'xy'[position % 2]} {t}", decode_gray, data, shape)


def _frame_members(sample: StoredSample, start: int, count: int = 1, stride: int = 1) -> list[int]:
    """Positions of the frames start, start + stride ..."""
    _check_range(sample, start, (count - 1) * stride + 1, sample.index.num_frames, "frame")
    return [frame_member(start + stride * number) for number in range(count)]


def _flow_members(sample: StoredSample, start: int, count: int, stride: int = 1) -> list[int]:
    """Positions of both members of the flow fields start, start + stride ..."""
    num_frames = sample.index.num_frames
    _check_range(sample, start, (count - 1) * stride + 1, num_frames - 1, "flow field")
    firsts = (flow_member(num_frames, start + stride * number) for number in range(count))
    return [member for first in firsts for member in (first, first + 1)]


def _check_range(sample: StoredSample, start: int, length: int, end: int, what: str) -> None:
    if not 0 <= start <= start + length <= end:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} {start} to {start + length - 1} asked "
            "for, "
            f"it has 0 to {end - 1}"
        )


def _read_spans(sample: StoredSample, spans: Sequence[Sequence[int]]) -> list[Members]:
    """The members of each span, positions in ascending order; a read for each run of a span."""
    runs = [_runs(sample, span) for span in spans]
    reads = [run for of_span in runs for run in of_span]
    read = partial(_read_members, sample)
    # A disk answers faster than a thread starts; a store costs a round trip for each read.
    is_quick = isinstance(sample.tar, Path) or len(reads) == 1
    members = map(read, reads) if is_quick else _pool(os.getpid()).map(read, reads)
    return [[data for _ in of_span for data in next(members)] for of_span in runs]


def _runs(sample: StoredSample, span: Sequence[int]) -> list[list[int]]:
    """The span in parts that are one read each, cut where too much lies between two members."""
    # Most are neighbours, and nothing lies between them.
    if span and span[-1] - span[0] == len(span) - 1:
        return [[*span]]
    offsets, sizes = sample.index.offsets[span], sample.index.sizes[span]
    runs: list[list[int]] = []
    end = 0
    for member, begin, size in zip(span, offsets.tolist(), sizes.tolist(), strict=True):
        if not runs or begin - end > MAX_GAP_BYTES:
            runs.append([])
        runs[-1].append(member)
        end = begin + size
    return runs


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    # The process number is the cache's key: a fork inherits the pool but none of its threads.
    return ThreadPoolExecutor(NUM_REQUESTS)


def _read_members(sample: StoredSample, members: list[int]) -> Members:
    """These members, and what lies between them, in one read."""
    # A slice of neighbours costs less than picking them one by one.
    first, last = members[0], members[-1]
    at = slice(first, last + 1) if last - first == len(members) - 1 else members
    offsets, sizes = sample.index.offsets[at], sample.index.sizes[at]
    begin, end = int(offsets[0]), int(offsets[-1]) + int(sizes[-1])
    try:
        data = sample.read(begin, end - begin)
    except FileNotFoundError as error:
        raise InputError(
            f"{sample.tar}: this shard is gone; `twinstream shards verify` lists what is"
        ) from error
    except OSError as error:
        raise InputError(f"{sample.tar}: {sample.index.key}: {error.strerror}") from error
    # Checked here: a JPEG that is cut short decodes to a half gray image without an error.
    if len(data) != end - begin:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: the shard ends at byte {begin + len(data)} of "
            f"{end}"
        )
    # Views, so that the members of one read are not copied before they are decoded.
    view = memoryview(data)
    return [
        view[offset - begin : offset - begin + size]
        for offset, size in zip(offsets, sizes, strict=True)
    ]


def _decoded(
    sample: StoredSample,
    what: str,
    decode: Callable[[memoryview, Size], NDArray[np.uint8]],
    data: memoryview,
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    try:
        image = decode(data, (shape[0], shape[1]))
    except InputError as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: {what}: {error}") from error
    # Otherwise NumPy might broadcast it into the batch, or fail far from the file.
    if image.shape != shape:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} is {image.shape}, the index says "
            f"{shape}"
        )
    return image
