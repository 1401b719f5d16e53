"""Splits that are stored beside the manifest, as lists of a dataset kind are."""

from pathlib import Path

import pytest

from tests.support.datasets import write_dataset
from twinstream.errors import InputError
from twinstream.shards.format.split_file import SplitList
from twinstream.shards.info import describe
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.split_lists import describe_splits, remove_split, store_splits


def split_of(*keys: str, name: str = "test2") -> SplitList:
    return SplitList(name, "testlist02.txt", ("testlist02.txt",), keys, "0" * 64)


def test_lists_are_stored_once_and_others_of_the_same_name_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    store_splits(dataset, [split_of("left/train2", "left/train0")])
    stored = (dataset / "splits" / "test2.json").read_bytes()
    store_splits(dataset, [split_of("left/train2", "left/train0")])
    assert capsys.readouterr().err == ""
    store_splits(dataset, [split_of("left/train2")])
    assert "test2.json: kept, though testlist02.txt names other videos" in capsys.readouterr().err
    assert (dataset / "splits" / "test2.json").read_bytes() == stored
    assert list(ShardDataset(dataset).samples("test2").keys) == ["left/train0", "left/train2"]


def test_a_split_of_a_dataset_that_was_made_anew_is_replaced(tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", {"train": 4})
    other = write_dataset(tmp_path / "other", {"train": 3})
    store_splits(one, [split_of("right/train3")])
    (other / "splits").mkdir()
    (one / "splits" / "test2.json").rename(other / "splits" / "test2.json")
    store_splits(other, [split_of("left/train2")])
    assert list(ShardDataset(other).samples("test2").keys) == ["left/train2"]


def test_a_list_without_a_video_in_a_shard_is_told_and_not_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    store_splits(dataset, [split_of(), split_of("left/train0", name="train2")])
    assert capsys.readouterr().err == "no split test2: testlist02.txt: holds no video\n"
    assert [path.name for path in (dataset / "splits").iterdir()] == ["train2.json"]


def test_a_damaged_split_hides_no_other_and_can_be_removed(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    store_splits(dataset, [split_of("left/train0", name="train2")])
    for name in ("a.json", "b.json", "notes"):
        (dataset / "splits" / name).write_text("{}")
    for text in (describe_splits(dataset), describe(dataset)):
        assert "a.json: not a split of twinstream ('sha256')" in text
        assert "train2: 1 " in text
    remove_split(dataset, "a")
    assert "a.json" not in describe_splits(dataset)
    with pytest.raises(InputError, match="stores no such split"):
        remove_split(dataset, "notes")
