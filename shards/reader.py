"""Reads chosen frames and flow fields of chosen samples, by seeking; never a whole shard.

The index says where each member lies. A stack of flow fields is one contiguous read, frames one read each.
Files are opened per read, so a reader can be shared by forked workers and pickled. Anything that does not fit
what the index promises is an InputError that names shard and key: nothing is passed over in silence.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.flow_codec import dequantize
from shards.index import SampleIndex, read_index
from shards.jpeg import decode_gray, decode_rgb
from shards.manifest import Manifest, read_manifest
from shards.sample import SampleMeta, flow_member, frame_member, meta_from_json


@dataclass(frozen=True)
class StoredSample:
    """One sample and the path of the tar that holds it."""

    tar: Path
    index: SampleIndex


class ShardDataset:
    """A finished shard dataset in a folder, read by sample and frame number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest = read_manifest(path)

    def samples(self, split: str) -> list[StoredSample]:
        """Every sample of a split, in the order of its shards; InputError when there is no such split."""
        if split not in self.manifest.splits:
            known = ", ".join(sorted(self.manifest.splits)) or "none"
            raise InputError(f"{self.path}: no split {split!r}; it has {known}")
        return [
            StoredSample(self.path / shard.tar.path, row)
            for shard in self.manifest.splits[split]
            for row in read_index(self.path / shard.index.path)
        ]

    @cached_property
    def by_key(self) -> dict[str, StoredSample]:
        """Every sample of every split by its key."""
        return {sample.index.key: sample for split in self.manifest.splits for sample in self.samples(split)}

    def sample(self, key: str) -> StoredSample:
        """The sample of this key; InputError when no split has it."""
        if key not in self.by_key:
            raise InputError(f"{self.path}: no sample {key!r} among {len(self.by_key)}; videos.parquet lists all")
        return self.by_key[key]

    def flow_pixels(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Stored bytes -> pixels with this dataset's codec."""
        codec = self.manifest.flow_codec
        return dequantize(levels, codec.bound, codec.zero, codec.levels)


def read_meta(sample: StoredSample) -> SampleMeta:
    """The sample's JSON member."""
    (data,) = _read_members(sample, 0, 1)
    try:
        return meta_from_json(bytes(data))
    except (TypeError, ValueError) as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: damaged JSON member") from error


def read_frames(sample: StoredSample, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Frames by number -> (len(indices), H, W, 3) RGB uint8."""
    shape = (sample.index.height, sample.index.width, 3)
    frames = np.empty((len(indices), *shape), np.uint8)
    for place, t in enumerate(indices):
        _check_range(sample, t, 1, sample.index.num_frames, "frame")
        (data,) = _read_members(sample, frame_member(t), 1)
        frames[place] = _decoded(sample, f"frame {t}", decode_rgb, data, shape)
    return frames


def read_flow(sample: StoredSample, start: int, length: int) -> NDArray[np.uint8]:
    """Flow fields [start, start + length) -> (length, H, W, 2) uint8 levels of the codec, (dx, dy)."""
    _check_range(sample, start, length, sample.index.num_frames - 1, "flow field")
    shape = (sample.index.height, sample.index.width)
    flow = np.empty((length, *shape, 2), np.uint8)
    members = _read_members(sample, flow_member(sample.index.num_frames, start), 2 * length)
    for place, data in enumerate(members):
        what = f"flow_{'xy'[place % 2]} {start + place // 2}"
        flow[place // 2, :, :, place % 2] = _decoded(sample, what, decode_gray, data, shape)
    return flow


def _check_range(sample: StoredSample, start: int, length: int, end: int, what: str) -> None:
    if not 0 <= start <= start + length <= end:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} {start} to {start + length - 1} asked for, "
            f"it has 0 to {end - 1}"
        )


def _read_members(sample: StoredSample, first: int, count: int) -> list[memoryview]:
    """Neighbouring members in one read."""
    offsets, sizes = sample.index.offsets[first : first + count], sample.index.sizes[first : first + count]
    begin, end = int(offsets[0]), int(offsets[-1]) + int(sizes[-1])
    try:
        with open(sample.tar, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), end - begin, begin)
    except FileNotFoundError as error:
        raise InputError(f"{sample.tar}: this shard is gone; `twinstream shards verify` lists what is") from error
    if len(data) != end - begin:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: the shard ends at byte {begin + len(data)} of {end}")
    view = memoryview(data)
    return [view[offset - begin : offset - begin + size] for offset, size in zip(offsets, sizes, strict=True)]


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
    if image.shape != shape:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: {what} is {image.shape}, the index says {shape}")
    return image
