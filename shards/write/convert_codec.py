"""Encodes the flow of a dataset anew in our codec, so that it can be trained on and merged.

Frames, keys, labels and splits are copied. Each flow image is decoded, its pixels of motion are
quantized anew and encoded as a JPEG again: a loss of up to half a level and of the noise of another
JPEG, which is measured in pixels. The settings of the result hold the codec before and the SHA-256
of the source's manifest. What the rows say of motion is that of the flow as it is then stored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import cut_at, dequantize, is_saturated, quantize
from twinstream.shards.format.image import decode_gray, encode_jpeg
from twinstream.shards.format.manifest import FILE_NAME, FlowCodec, our_codec
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import StoredRows
from twinstream.shards.storage.location import Location, file_sha256, require_outside
from twinstream.shards.write.combine import (
    VIDEOS_PER_SHARD,
    read_sources,
    samples_per_shard,
    write_parts,
)
from twinstream.shards.write.writer import SampleSpool

BOUND, QUALITY = "preprocess.bound", "shards.jpeg_quality"


@dataclass
class FlowChange:
    """How far the flow that was converted is from what it was, in pixels of each component."""

    total: float = 0.0
    num_values: int = 0
    largest: float = 0.0

    @property
    def mean(self) -> float:
        """0 where nothing was converted."""
        return self.total / max(self.num_values, 1)

    def add(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        """Two fields of one shape, in pixels."""
        change = np.abs(after - before)
        self.total += float(change.sum(dtype=np.float64))
        self.num_values += change.size
        self.largest = max(self.largest, float(change.max()))


def convert_codec(
    path: Location,
    out: Location,
    *,
    bound: float | None = None,
    default_quality: int,
    progress: Callable[[str], None] = lambda key: None,
) -> tuple[StoredRows, FlowChange]:
    """The dataset with flow in our codec of this bound, or of its own; and what that changed.

    JPEGs have the quality of the dataset's settings, else `default_quality`. Shards that an earlier
    run has finished are not in the change. InputError for a dataset that has the codec.
    """
    require_outside(out, path)
    source = read_sources([path])
    (manifest,) = source.manifests
    old = manifest.flow_codec
    new = our_codec(old.bound if bound is None else bound)
    if old == new:
        raise InputError(
            f"{path}: has zero {old.zero}, {old.levels} levels and bound {old.bound} already, so "
            "there is nothing to convert; --bound asks for another bound"
        )
    found = manifest.settings
    quality = found.get(QUALITY, default_quality)
    # Of the settings that tell a codec, the manifest's codec and convert.codec take the place.
    told = {f"{made}.{name}" for made in ("import", "index") for name in FlowCodec.model_fields}
    told.add("convert.cut")
    settings = {name: value for name, value in found.items() if name not in told}
    settings |= {
        "convert.source": file_sha256(path / FILE_NAME),
        "convert.codec": old.model_dump(),
        # So that a run with another bound does not go on with these shards.
        "convert.bound": new.bound,
        "convert.jpeg_quality": quality,
        VIDEOS_PER_SHARD: samples_per_shard(manifest),
    }
    # A conversion before this one, which convert.codec tells no longer.
    cut = cut_at(found, old.bound)
    if cut is not None:
        settings["convert.cut"] = cut
    # Prediction makes the flow of a new video by it, which must be in the codec of the training.
    if BOUND in found:
        settings[BOUND] = new.bound
    change = FlowChange()

    def fill(spool: SampleSpool, meta: SampleMeta, images: Iterator[bytes]) -> dict[str, Any]:
        for jpeg in islice(images, meta.num_frames):
            spool.add_frame(jpeg)
        speeds, saturated = [], []
        for x_jpeg in images:
            levels = _levels(path, meta, x_jpeg, next(images))
            before = _pixels(levels, old)
            # Of zero 127.5 the level 128 reads as half a level, but it is what no motion becomes.
            motion = np.where(levels == round(old.zero), np.float32(0), before)
            x_new, y_new = (encode_jpeg(image, quality) for image in quantize(motion, new.bound))
            spool.add_flow(x_new, y_new)
            after = _pixels(_levels(path, meta, x_new, y_new), new)
            change.add(before, after)
            speeds.append(float(np.linalg.norm(after, axis=0).mean()))
            saturated.append(float(is_saturated(np.moveaxis(before, 0, -1), new.bound).mean()))
        known: dict[str, Any] = {"mean_flow": float(np.mean(speeds))}
        # Beyond a larger bound than the old one nothing is known, beyond the same nothing new.
        if new.bound != old.bound:
            known["saturated"] = float(np.mean(saturated)) if new.bound < old.bound else None
        return known

    every = np.ones(source.videos.num_rows, bool)
    rows = write_parts(out, source, every, manifest.classes, new, settings, progress, fill)
    return rows, change


def _pixels(levels: NDArray[np.uint8], codec: FlowCodec) -> NDArray[np.float32]:
    return dequantize(levels, codec.bound, codec.zero, codec.levels)


def _levels(path: Location, meta: SampleMeta, *jpegs: bytes) -> NDArray[np.uint8]:
    """(2, H, W), dx and dy; InputError for images that are not of the sample."""
    try:
        # `shards index` takes tars without looking at their images.
        return np.stack([decode_gray(jpeg, (meta.height, meta.width)) for jpeg in jpegs])
    except InputError as error:
        raise InputError(f"{path}: {meta.key}: {error}") from error
