"""Copies samples as bytes out of a finished dataset, without decoding an image.

The hash of a shard is checked before its first sample is copied; otherwise damage would get a new
and valid hash in the copy. The price is that each shard is read twice, the second time mostly from
memory.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from twinstream.errors import InputError
from twinstream.shards.format.columns import values
from twinstream.shards.format.index import SampleIndex, read_index
from twinstream.shards.format.manifest import Manifest, ShardEntry, file_faults, shard_name
from twinstream.shards.format.video_table import VIDEOS_NAME
from twinstream.shards.storage.location import Location, dataset_file, named_faults
from twinstream.shards.write.writer import SampleSpool

# Of 16 ten-second videos each is 170 kB.
NUM_INDEXES = 256


@dataclass(frozen=True)
class StoredBytes:
    """A sample with its dataset folder, split and shard."""

    dataset: Location
    split: str
    shard: ShardEntry
    index: SampleIndex


def stored_samples(dataset: Location, manifest: Manifest) -> Iterator[StoredBytes]:
    """Every sample in the order of splits, shards and rows; InputError for a damaged index."""
    for split, shards in manifest.splits.items():
        for shard in shards:
            yield from _samples_of(dataset, manifest, split, shard)


def _samples_of(
    dataset: Location, manifest: Manifest, split: str, shard: ShardEntry
) -> Iterator[StoredBytes]:
    _refuse(file_faults(dataset, shard.index), dataset)
    index = dataset_file(dataset, shard.index.path)
    for row in read_index(index, shard, len(manifest.classes)):
        yield StoredBytes(dataset, split, shard, row)


class SampleFinder:
    """Samples of a dataset by the shard and key that its table of videos gives.

    The indexes used last are kept. A choice or a merge takes samples in another order than they
    are stored, so that an index may be read again for a sample: a millisecond, next to megabytes
    that are copied.
    """

    def __init__(self, dataset: Location, manifest: Manifest) -> None:
        self._dataset, self._manifest = dataset, manifest
        # Indexed tars x.tar and train/x.tar can have one name.
        self._shards: dict[tuple[str, str], list[ShardEntry]] = defaultdict(list)
        for split, shards in manifest.splits.items():
            for shard in shards:
                self._shards[split, shard_name(shard.tar.path)].append(shard)
        self._kept: OrderedDict[str, dict[str, StoredBytes]] = OrderedDict()

    def find(self, split: str, shard: str | None, key: str) -> StoredBytes:
        """The sample; InputError where the shard does not hold it, or is none of the dataset."""
        for entry in self._shards[split, shard or ""]:
            if found := self._index(split, entry).get(key):
                return found
        raise InputError(
            f"{self._dataset}: {key}: not in {shard}, as {VIDEOS_NAME} says; `twinstream shards "
            "verify` tells more"
        )

    def refuse_unwritten(self, videos: pa.Table) -> None:
        """InputError for a sample that is none of these videos, whose rows say `written`, and for
        more rows than samples.

        Indexes are read only of shards that hold more samples than there are rows.
        """
        places = zip(values(videos["split"]), values(videos["shard"]), strict=True)
        counts = Counter(places)
        for (split, name), shards in self._shards.items():
            held, said = sum(shard.num_samples for shard in shards), counts[split, name]
            # A row that is there a thousand times would be copied as often.
            if said > held:
                raise InputError(
                    f"{self._dataset}: {said} videos of {name} in {VIDEOS_NAME}, {held} in "
                    "dataset.json; `twinstream shards verify` tells more"
                )
            if held > said:
                keys = {*values(videos["key"])}
                for shard in shards:
                    for key in self._index(split, shard).keys() - keys:
                        raise InputError(
                            f"{self._dataset}: {key}: no row in {VIDEOS_NAME} says it is written"
                        )

    def _index(self, split: str, shard: ShardEntry) -> dict[str, StoredBytes]:
        path = shard.index.path
        if path not in self._kept:
            samples = _samples_of(self._dataset, self._manifest, split, shard)
            self._kept[path] = {sample.index.key: sample for sample in samples}
            if len(self._kept) > NUM_INDEXES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(path)
        return self._kept[path]


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
