"""Reads chosen frames and flow fields of a sample by offset; never a whole shard.

The index gives the offset of each member. Neighbouring members are one read; from an object store
the reads of a sample run at the same time. A local file is opened for each read, so that forked
workers share no file position. What differs from the index is an InputError with shard and key.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.image import decode_gray, decode_rgb
from twinstream.shards.format.sample import SampleMeta, flow_member, frame_member, meta_from_json
from twinstream.shards.read.samples import StoredSample

NUM_REQUESTS = 16
Members = list[memoryview]
Image = NDArray[np.uint8]


def read_meta(sample: StoredSample) -> SampleMeta:
    """The sample's JSON member."""
    ((data,),) = _read_spans(sample, [(0, 1)])
    try:
        return meta_from_json(bytes(data))
    except (TypeError, ValueError) as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: damaged JSON member") from error


def read_frames(sample: StoredSample, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Frames by number -> (len(indices), H, W, 3) RGB uint8."""
    spans = [_frame_span(sample, t) for t in indices]
    return _frames(sample, indices, _read_spans(sample, spans))


def read_flow(sample: StoredSample, start: int, length: int) -> NDArray[np.uint8]:
    """Flow fields [start, start + length) -> (length, H, W, 2) uint8 codec levels, (dx, dy)."""
    (members,) = _read_spans(sample, [_flow_span(sample, start, length)])
    return _flow(sample, start, members)


def read_snippets(
    sample: StoredSample, starts: Sequence[int], stack_length: int
) -> tuple[Iterator[Image], Iterator[Iterator[Image]]]:
    """K starts -> K frames (H, W, 3) and K stacks of 2L fields (H, W) dx0 dy0 dx1 ..., all uint8.

    All bytes are read at once, but an image is decoded when the iterator reaches it. So the next
    step finds it in the processor's cache; stacking them would cost a third of the decoding time.
    """
    spans = [_frame_span(sample, t) for t in starts] + [
        _flow_span(sample, t, stack_length) for t in starts
    ]
    members = _read_spans(sample, spans)
    frames = (
        _frame(sample, t, data) for t, (data,) in zip(starts, members[: len(starts)], strict=True)
    )
    stacks = (
        _fields(sample, t, stack) for t, stack in zip(starts, members[len(starts) :], strict=True)
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


def _fields(sample: StoredSample, start: int, members: Members) -> Iterator[Image]:
    shape = (sample.index.height, sample.index.width)
    for position, data in enumerate(members):
        yield _decoded(
            sample, f"flow_{'xy'[position % 2]} {start + position // 2}", decode_gray, data, shape
        )


def _frame_span(sample: StoredSample, t: int) -> tuple[int, int]:
    """(first member, number of members) of frame t."""
    _check_range(sample, t, 1, sample.index.num_frames, "frame")
    return frame_member(t), 1


def _flow_span(sample: StoredSample, start: int, length: int) -> tuple[int, int]:
    _check_range(sample, start, length, sample.index.num_frames - 1, "flow field")
    return flow_member(sample.index.num_frames, start), 2 * length


def _check_range(sample: StoredSample, start: int, length: int, end: int, what: str) -> None:
    if not 0 <= start <= start + length <= end:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} {start} to {start + length - 1} asked "
            "for, "
            f"it has 0 to {end - 1}"
        )


def _read_spans(sample: StoredSample, spans: Sequence[tuple[int, int]]) -> list[Members]:
    """The members of each span (first, count); each span is one read."""
    # A disk answers faster than a thread starts; a store costs a round trip for each read.
    if isinstance(sample.tar, Path) or len(spans) == 1:
        return [_read_members(sample, span) for span in spans]
    return [*_pool(os.getpid()).map(partial(_read_members, sample), spans)]


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    # The process number is the cache's key: a fork inherits the pool but none of its threads.
    return ThreadPoolExecutor(NUM_REQUESTS)


def _read_members(sample: StoredSample, span: tuple[int, int]) -> Members:
    """Neighbouring members in one read."""
    if not span[1]:
        return []
    members = slice(span[0], sum(span))
    offsets, sizes = sample.index.offsets[members], sample.index.sizes[members]
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
    decode: Callable[[memoryview], NDArray[np.uint8]],
    data: memoryview,
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    try:
        image = decode(data)
    except InputError as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: {what}: {error}") from error
    # Otherwise NumPy might broadcast it into the batch, or fail far from the file.
    if image.shape != shape:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} is {image.shape}, the index says "
            f"{shape}"
        )
    return image
