"""Splits that are stored beside the manifest, as lists of a dataset kind are."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.datasets import write_dataset
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.split_lists import store_splits


@dataclass(frozen=True)
class Keys:
    """A list of keys."""

    keys: tuple[str, ...]
    name: str = "test2"
    source: str = "testlist02.txt"
    sha256: str = "0" * 64


def test_lists_are_stored_once_and_others_of_the_same_name_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    store_splits(dataset, [Keys(("left/train2", "left/train0"))])
    stored = (dataset / "splits" / "test2.json").read_bytes()
    store_splits(dataset, [Keys(("left/train2", "left/train0"))])
    assert capsys.readouterr().err == ""
    store_splits(dataset, [Keys(("left/train2",))])
    assert "test2.json: kept, though testlist02.txt names other videos" in capsys.readouterr().err
    assert (dataset / "splits" / "test2.json").read_bytes() == stored
    assert list(ShardDataset(dataset).samples("test2").keys) == ["left/train0", "left/train2"]


def test_a_split_of_a_dataset_that_was_made_anew_is_replaced(tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", {"train": 4})
    other = write_dataset(tmp_path / "other", {"train": 3})
    store_splits(one, [Keys(("right/train3",))])
    (other / "splits").mkdir()
    (one / "splits" / "test2.json").rename(other / "splits" / "test2.json")
    store_splits(other, [Keys(("left/train2",))])
    assert list(ShardDataset(other).samples("test2").keys) == ["left/train2"]


def test_a_list_without_a_video_in_a_shard_is_told_and_not_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    store_splits(dataset, [Keys(()), Keys(("left/train0",), "train2")])
    assert capsys.readouterr().err == "no split test2: testlist02.txt: holds no video\n"
    assert [path.name for path in (dataset / "splits").iterdir()] == ["train2.json"]
