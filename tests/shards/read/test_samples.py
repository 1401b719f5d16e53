"""Samples of a split without their offsets in memory: found by place and by key, whatever is
loaded.
"""

import pickle
from pathlib import Path

import pytest

from tests.support.datasets import write_dataset
from twinstream.errors import InputError
from twinstream.shards.format.index import read_index
from twinstream.shards.format.manifest import read_manifest, shard_name
from twinstream.shards.format.video_table import read_videos, videos_bytes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.index_cache import IndexCache, parse_shard_index
from twinstream.shards.read.members import read_frames
from twinstream.shards.read.samples import Samples


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Seven training samples in shards of 3, 3 and 1."""
    return ShardDataset(
        write_dataset(tmp_path / "seven", {"train": 7}, videos_per_shard=3)
    ).samples("train")


def rows(samples: Samples) -> list[tuple[str, str]]:
    """Shard and key of every row of every index, read at once."""
    names = [(entry.index.path, shard_name(entry.tar.path)) for entry in samples.entries]
    return [(name, row.key) for path, name in names for row in read_index(samples.dataset / path)]


def test_places_are_the_rows_of_the_indexes_in_the_order_of_the_shards(samples: Samples) -> None:
    assert [(sample.tar.stem, sample.index.key) for sample in samples] == rows(samples)
    assert len(samples) == 7
    assert samples.keys == tuple(key for _, key in rows(samples))
    assert samples.labels.tolist() == [sample.index.label for sample in samples]
    assert samples[-1].index.key == rows(samples)[6][1]
    with pytest.raises(IndexError):
        samples[7]


@pytest.mark.parametrize("part", [slice(2, 5), slice(None, None, -2), slice(5, 99), slice(3, 3)])
def test_a_slice_is_some_of_the_samples(samples: Samples, part: slice) -> None:
    keys = [key for _, key in rows(samples)]
    assert [sample.index.key for sample in samples[part]] == keys[part]
    assert list(samples[part].keys) == keys[part]
    assert [sample.index.key for sample in samples[1:][part]] == keys[1:][part]


def test_the_offsets_are_those_of_the_index(samples: Samples) -> None:
    wanted = {
        row.key: row
        for entry in samples.entries
        for row in read_index(samples.dataset / entry.index.path)
    }
    for sample in samples:
        other = wanted[sample.index.key]
        assert (sample.index.num_frames, sample.index.height) == (other.num_frames, other.height)
        assert sample.index.offsets.tolist() == other.offsets.tolist()
        assert sample.index.sizes.tolist() == other.sizes.tolist()


def test_the_shortest_is_found_in_a_split_and_in_a_part_of_it(samples: Samples) -> None:
    assert samples.shortest().index.key == "left/train0"
    part = samples[[*range(7)].index(2) :]
    assert part.shortest().index.num_frames == min(sample.index.num_frames for sample in part)


def test_indexes_are_kept_up_to_so_many_bytes(samples: Samples) -> None:
    paths = [samples.dataset / entry.index.path for entry in samples.entries]
    indexes = [parse_shard_index(path, path.read_bytes()) for path in paths]
    cache, read = IndexCache(indexes[0].num_bytes + indexes[1].num_bytes), []

    def get(number: int) -> None:
        def load() -> object:
            read.append(number)
            return indexes[number]

        cache.get(str(number), load)

    for number in (0, 1, 0, 2, 0, 1):
        get(number)
    assert read == [0, 1, 2, 1]
    small = IndexCache(1)
    assert small.get("0", lambda: indexes[0]) is small.get("0", lambda: indexes[1])


def test_samples_travel_to_another_process_without_what_was_loaded_being_needed(
    samples: Samples,
) -> None:
    other = pickle.loads(pickle.dumps(samples))
    assert read_frames(other[4], [1]).tolist() == read_frames(samples[4], [1]).tolist()


def test_an_index_of_another_length_is_told(samples: Samples) -> None:
    first, last = samples.entries[0].index.path, samples.entries[2].index.path
    (samples.dataset / last).write_bytes((samples.dataset / first).read_bytes())
    with pytest.raises(InputError, match=rf"{last}: 3 rows, dataset\.json says 1"):
        samples[6]


def test_an_index_that_is_gone_is_told(samples: Samples) -> None:
    (samples.dataset / samples.entries[1].index.path).unlink()
    with pytest.raises(
        InputError, match=r"train-000001\.parquet: No such file or directory; `twinstream shards"
    ):
        samples[4]


def test_a_table_of_videos_that_names_another_shard_is_told(samples: Samples) -> None:
    path = samples.dataset / "videos.parquet"
    moved = [type(row)(**{**vars(row), "shard": "train-000009"}) for row in read_videos(path)]
    path.write_bytes(videos_bytes(moved))
    with pytest.raises(InputError, match=r"not in train-000009, as videos\.parquet says"):
        ShardDataset(samples.dataset).sample("left/train0")


def test_a_shard_is_called_by_its_path_below_the_split(tmp_path: Path) -> None:
    assert shard_name("train/train-000000.tar") == "train-000000"
    assert shard_name("train/a/0.tar") == "a/0"
    assert shard_name("train-000000.tar") == "train-000000"
    folder = write_dataset(tmp_path / "x", {"train": 2})
    assert {row.shard for row in read_videos(folder / "videos.parquet")} == {
        shard_name(entry.tar.path) for entry in read_manifest(folder).splits["train"]
    }
