"""Copies samples as bytes out of a finished dataset, without decoding an image.

The hash of a shard is checked before its first sample is copied; otherwise damage would get a new
and valid hash in the copy. The price is that each shard is read twice, the second time mostly from
memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from twinstream.errors import InputError
from twinstream.shards.format.index import SampleIndex, read_index
from twinstream.shards.format.manifest import Manifest, ShardEntry, file_faults
from twinstream.shards.storage.location import Location, dataset_file, named_faults
from twinstream.shards.write.writer import SampleSpool


@dataclass(frozen=True)
class StoredBytes:
    """A sample with its dataset folder, split and shard."""

    dataset: Location
    split: str
    shard: ShardEntry
    index: SampleIndex


def stored_samples(dataset: Location, manifest: Manifest) -> list[StoredBytes]:
    """Every sample in the order of splits, shards and rows; InputError for a damaged index."""
    found = []
    for split, shards in manifest.splits.items():
        for shard in shards:
            _refuse(file_faults(dataset, shard.index), dataset)
            found += [
                StoredBytes(dataset, split, shard, row)
                for row in read_index(
                    dataset_file(dataset, shard.index.path), shard, len(manifest.classes)
                )
            ]
    return found


class Copier:
    """Reads members as they are stored; remembers the shards whose hash it has checked."""

    def __init__(self) -> None:
        self._sound: set[Location] = set()

    def members(self, sample: StoredBytes) -> Iterator[bytes]:
        """The bytes of each member, in the format's order; InputError for a damaged shard."""
        path = sample.dataset / sample.shard.tar.path
        # Samples come in shard order, but a merge reorders them: each hash is computed only once.
        if path not in self._sound:
            _refuse(file_faults(sample.dataset, sample.shard.tar), sample.dataset)
            self._sound.add(path)
        with named_faults(path), path.open("rb") as tar:
            for offset, size in zip(sample.index.offsets, sample.index.sizes, strict=True):
                tar.seek(int(offset))
                data = tar.read(int(size))
                # Its hash was right when the copy began.
                if len(data) != size:
                    raise InputError(f"{path}: {sample.index.key}: cut short while it was copied")
                yield data


def fill_spool(spool: SampleSpool, num_frames: int, images: Iterable[bytes]) -> None:
    """Frames, then flow_x and flow_y in turn, into an empty spool."""
    rest = iter(images)
    for jpeg in islice(rest, num_frames):
        spool.add_frame(jpeg)
    for x_jpeg in rest:
        spool.add_flow(x_jpeg, next(rest))


def _refuse(faults: Iterator[str], dataset: Location) -> None:
    # The first fault is enough to stop; `faults` is lazy, so no more is read.
    for fault in faults:
        raise InputError(f"{dataset}: {fault}; `twinstream shards verify` tells more")
