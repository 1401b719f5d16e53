"""Lists that choose videos of a dataset, whichever shards these lie in, and stored lists."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.support.datasets import write_dataset
from twinstream.cli import cli
from twinstream.errors import InputError
from twinstream.shards.format.listings import parse_video_list
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.virtual_splits import resolve
from twinstream.shards.split_lists import add_split
from twinstream.shards.verify import fast_faults, faults


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """left/train0 right/train1 left/train2 right/train3 left/train4, left/test0 right/test1 ..."""
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 5, "test": 3})


def write_list(folder: Path, text: str, name: str = "list.txt") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


KEYS = ("left/test2", "left/train4", "right/train1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("keys.txt", "right/train1\nleft/train4\n\nleft/test2\n"),
        ("trainlist02.txt", "left/train4.avi 1\nright/train1.avi 2\nleft/test2.avi 1\n"),
        ("testlist02.txt", "left/train4.avi\nright/train1.avi\nleft/test2.avi\n"),
        (
            "a.csv",
            "path,label\nleft/train4.avi,left\nright/train1.avi,right\nleft/test2.avi,left\n",
        ),
        ("deeper.txt", "videos/left/train4.avi\nvideos/right/train1.mp4\nvideos/left/test2.avi\n"),
        ("case.txt", "LEFT/Train4.avi\nright/TRAIN1.avi\nLeft/test2.avi\n"),
        ("flat.txt", "train4.avi\ntrain1.avi\ntest2.avi\n"),
    ],
)
def test_a_list_of_any_usual_format_is_a_split(
    dataset: Path, tmp_path: Path, name: str, text: str
) -> None:
    samples = ShardDataset(dataset).samples(write_list(tmp_path, text, name))
    assert sorted(samples.keys) == sorted(KEYS)
    assert sorted(sample.index.key for sample in samples) == sorted(KEYS)


def test_samples_of_a_list_come_in_the_order_of_their_shards_with_a_size_for_each(
    dataset: Path, tmp_path: Path
) -> None:
    opened = ShardDataset(dataset)
    samples = opened.samples(write_list(tmp_path, "\n".join(KEYS)))
    every = [key for split in opened.splits.values() for key in split.keys]
    assert list(samples.keys) == [key for key in every if key in KEYS]
    tars = [sample.tar for sample in samples]
    assert samples.shard_sizes == [tars.count(tar) for tar in dict.fromkeys(tars)]
    assert samples.labels.tolist() == [sample.index.label for sample in samples]
    assert samples.shortest().index.num_frames == min(s.index.num_frames for s in samples)


def test_the_split_files_of_hmdb51_are_one_list_with_two_parts(
    dataset: Path, tmp_path: Path
) -> None:
    write_list(tmp_path, "train0.avi 1\ntrain2.avi 2\ntrain4.avi 0\n", "left_test_split1.txt")
    write_list(tmp_path, "train1.avi 2\ntrain3.avi 1\n", "right_test_split1.txt")
    opened, files = ShardDataset(dataset), f"{tmp_path}/*_test_split1.txt"
    assert sorted(opened.samples(f"{files}:train").keys) == ["left/train0", "right/train3"]
    assert sorted(opened.samples(f"{files}:test").keys) == ["left/train2", "right/train1"]
    with pytest.raises(InputError, match=r"holds the splits test, train; name one, as in .*:test"):
        opened.samples(files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left/trian4\n", r"list\.txt line 1: 'left/trian4' is no video of the 8 .*'left/train4'"),
        ("left/test2\nleft/test2.avi\n", r"line 2: left/test2\.avi is in list\.txt line 1 already"),
        ("", "holds no video"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(
    dataset: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ShardDataset(dataset).samples(write_list(tmp_path, text))


def test_a_label_of_another_class_is_refused(dataset: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, "path,label\nleft/test2.avi,right\n", "a.csv")
    with pytest.raises(InputError, match="is of class 'right', in the dataset of 'left'"):
        ShardDataset(dataset).samples(path)


def test_an_unknown_split_names_those_there_are(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'tset'; it has test, train; nor is it"):
        ShardDataset(dataset).samples("tset")


def test_a_stored_split_has_the_videos_of_its_list_and_changes_no_other_file(
    tmp_path: Path,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5, "test": 3})
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    path = write_list(tmp_path, "\n".join(KEYS), "fold2.txt")
    done = CliRunner().invoke(
        cli, ["shards", "splits", str(dataset), "--add", "two", "--from", path]
    )
    assert done.output.splitlines()[-1] == "two: 3 videos, from fold2.txt"
    assert all(path.read_bytes() == data for path, data in before.items())
    opened = ShardDataset(dataset)
    assert sorted(opened.samples("two").keys) == sorted(KEYS)
    listed = opened.virtual("two")
    assert listed is not None
    assert listed.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    sound = CliRunner().invoke(cli, ["shards", "verify", str(dataset)])
    assert sound.exit_code == 0, sound.output


def test_a_stored_split_that_was_changed_or_is_of_another_dataset_is_refused(
    tmp_path: Path,
) -> None:
    one = write_dataset(tmp_path / "one", {"train": 5})
    other = write_dataset(tmp_path / "other", {"train": 4})
    add_split(one, "two", write_list(tmp_path, "left/train4"))
    stored = one / "splits" / "two.json"
    (other / "splits").mkdir()
    (other / "splits" / "two.json").write_bytes(stored.read_bytes())
    with pytest.raises(InputError, match=r"was made for another dataset\.json"):
        ShardDataset(other).samples("two")
    tree = json.loads(stored.read_text())
    stored.write_text(json.dumps(tree | {"keys": ["left/train2"]}))
    with pytest.raises(InputError, match="changed since it was written"):
        ShardDataset(one).samples("two")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train", "has shards of this split"),
        ("../x", "expected a word"),
        ("Two", "expected a word"),
    ],
)
def test_a_name_that_cannot_be_stored_is_refused(
    dataset: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        add_split(dataset, name, write_list(tmp_path, "left/train4"))


def test_a_stored_split_does_not_become_another_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5})
    first = write_list(tmp_path, "left/train4", "a.txt")
    add_split(dataset, "two", first)
    add_split(dataset, "two", first)
    with pytest.raises(InputError, match=r"is there with other videos, from a\.txt"):
        add_split(dataset, "two", write_list(tmp_path, "left/train2", "b.txt"))


def test_videos_that_are_in_no_shard_are_counted() -> None:
    columns = {
        "key": ["a", "b", "c", "d"],
        "class_name": ["x"] * 4,
        "status": ["written", "skipped", "missing", "skipped"],
        "reason": [None, "decode_error", "missing", "decode_error"],
    }
    listed = parse_video_list("a\nb\nc\nd\n", "list.txt")
    found = resolve(listed, pa.table(columns), "list.txt", "digest")
    assert found.keys == ("a",)
    assert found.note() == (
        "list.txt: 3 of 4 listed videos are in no shard: decode_error 2, missing 1"
    )
    with pytest.raises(InputError, match="none of its 3 videos is in a shard"):
        resolve(listed[1:], pa.table(columns), "list.txt", "digest")


def test_verify_names_a_stored_split_that_does_not_fit(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5})
    add_split(dataset, "two", write_list(tmp_path, "left/train4"))
    stored = dataset / "splits" / "two.json"
    assert not list(faults(dataset))
    stored.write_text(stored.read_text().replace("train4", "train2"))
    assert [fault.partition(": ")[2] for fault in faults(dataset)] == [
        "changed since it was written (its own digest does not fit)"
    ]
    assert len(list(fast_faults(dataset))) == 1


@pytest.mark.parametrize("name", ["../left/train0.avi", "left\\train0.avi", "/left/train0.avi"])
def test_a_path_that_cannot_be_a_key_is_told_with_its_line(
    dataset: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match=r"^list\.txt line 2: .*: not a usable path"):
        ShardDataset(dataset).samples(write_list(tmp_path, f"left/train2.avi\n{name}\n"))


def table(*keys: str) -> pa.Table:
    """Rows of written videos."""
    columns = {"key": keys, "class_name": [key.split("/")[0] for key in keys]}
    return pa.table(columns | {"status": ["written"] * len(keys), "reason": [""] * len(keys)})


def test_a_file_name_of_two_classes_is_found_by_the_class_of_its_list() -> None:
    listed = parse_video_list("a.avi 1\n", "wave_test_split1.txt")
    assert resolve(listed, table("run/a", "wave/a"), "list", "").keys == ("wave/a",)


def test_a_folder_of_frames_whose_name_has_a_dot_is_found() -> None:
    listed = parse_video_list("run/a.avi\n", "list.txt")
    assert resolve(listed, table("run/a_avi", "run/b_avi"), "list", "").keys == ("run/a_avi",)
