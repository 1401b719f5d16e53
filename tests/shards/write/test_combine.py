"""Merge, subset and index: the same bytes in other datasets, labels that follow the classes,
nothing twice.
"""

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.files import change_member
from tests.support.datasets import (
    BOUND,
    SETTINGS,
    FirstOfAll,
    bare,
    make_catalog,
    rewritten,
    write_dataset,
    write_job,
)
from tests.support.digests import digests
from tests.support.rawframes import stored
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.shards.format.index import read_index
from twinstream.shards.format.manifest import (
    FLOW_DEFINITION,
    FlowCodec,
    manifest_bytes,
    read_manifest,
)
from twinstream.shards.format.video_table import read_videos, summary, videos_bytes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_meta
from twinstream.shards.verify import faults
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.convert_codec import convert_codec
from twinstream.shards.write.index_tars import index_dataset
from twinstream.shards.write.writer import TarStream

OURS = FlowCodec(bound=20.0, zero=ZERO_LEVEL, levels=LEVELS_PER_SIDE)


def resettle(dataset: Path, **changes: object) -> Path:
    """The same dataset under a manifest with other fields."""
    manifest = read_manifest(dataset)
    (dataset / "dataset.json").write_bytes(manifest_bytes(manifest.model_copy(update=changes)))
    return dataset


def write_other(
    folder: Path,
    classes: tuple[str, str] = ("right", "up"),
    settings: dict[str, object] | None = None,
) -> Path:
    """A dataset of one training and one test video of other classes, and a missing one."""
    plain = make_catalog({"val": 2})
    videos = []
    for video in plain.videos:
        name = classes[video.label]
        key = f"{name}/{video.key.rpartition('/')[2]}"
        videos.append(type(video)(key, f"{key}.avi", name, video.label, video.split, True))
    gone = type(videos[0])(
        f"{classes[0]}/gone", f"{classes[0]}/gone.avi", classes[0], 0, "val", False
    )
    catalog = Catalog(classes, (*videos, gone), ())
    jobs = plan_jobs(catalog.videos, 2, seed=0)
    for job in jobs:
        write_job(folder, job)
    dataset_build(folder, catalog, jobs, SETTINGS, BOUND).finish()
    return folder


def test_a_merge_holds_every_sample_under_the_label_of_its_class(
    dataset: Path, tmp_path: Path
) -> None:
    other = write_other(tmp_path / "other")
    rows = merge([dataset, other], tmp_path / "out")
    assert list(faults(tmp_path / "out")) == []
    assert summary(rows) == "7 written · 1 missing"
    assert stored(tmp_path / "out") == stored(dataset) | stored(other)
    merged = ShardDataset(tmp_path / "out")
    assert merged.manifest.classes == ("left", "right", "up")
    assert {sample.index.key: sample.index.label for sample in merged.samples("val")} == {
        "right/val0": 1,
        "up/val1": 2,
    }
    assert read_meta(merged.sample("up/val1")).label == 2
    assert {row.key: row.label for row in read_videos(tmp_path / "out" / "videos.parquet")}[
        "right/gone"
    ] == 1
    assert list(merged.manifest.splits) == ["test", "train", "val"]


def test_merging_twice_gives_the_same_bytes_and_a_second_run_changes_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    other = write_other(tmp_path / "other")
    merge([dataset, other], tmp_path / "x")
    before = digests(tmp_path / "x")
    merge([dataset, other], tmp_path / "x")
    merge([dataset, other], tmp_path / "y")
    assert digests(tmp_path / "x") == before == digests(tmp_path / "y")


def test_two_sources_with_one_video_are_named_with_it(dataset: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", {"test": 1})
    with pytest.raises(InputError, match=f"left/test0: in {dataset} and in {other}"):
        merge([dataset, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"flow_codec": FlowCodec(bound=15.0, zero=128, levels=127)},
            "flow of two codecs cannot be mixed",
        ),
        (
            {"settings": {"preprocess.bound": 15.0}},
            r"made with preprocess.bound = 15.0, .* with 20.0",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_difference(
    dataset: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    other = resettle(write_other(tmp_path / "other"), **changes)
    with pytest.raises(InputError, match=message):
        merge([dataset, other], tmp_path / "out")


def test_flow_from_before_its_definition_had_a_number_is_of_the_first(tmp_path: Path) -> None:
    old, new = {"preprocess.engine": "numba"}, {"preprocess.engine": "numba", FLOW_DEFINITION: 2}
    one = resettle(write_dataset(tmp_path / "one", {"test": 1}), settings=old)
    two = resettle(write_other(tmp_path / "two"), settings=new)
    with pytest.raises(InputError, match=f"^{two}: made with {FLOW_DEFINITION} = 2, {one} with 1;"):
        merge([one, two], tmp_path / "out")
    merge([one, resettle(two, settings=old)], tmp_path / "out")
    assert FLOW_DEFINITION not in read_manifest(tmp_path / "out").settings


def test_settings_that_only_choose_videos_may_differ_and_are_left_out(
    dataset: Path, tmp_path: Path
) -> None:
    other = resettle(
        write_other(tmp_path / "other"), settings={"preprocess.bound": 20.0, "preprocess.seed": 7}
    )
    merge([dataset, other], tmp_path / "out")
    settings = read_manifest(tmp_path / "out").settings
    assert settings["preprocess.bound"] == 20.0
    assert "preprocess.seed" not in settings


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"classes": ["right"]}, {"right/train1", "right/test1"}),
        ({"keys": ["left/train0", "right/test1"]}, {"left/train0", "right/test1"}),
        ({"split": "test"}, {"left/test0", "right/test1"}),
        ({"max_per_class": 1}, {"left/test0", "right/test1", "left/train0", "right/train1"}),
        ({"classes": ["left"], "split": "train", "max_per_class": 1}, {"left/train0"}),
    ],
)
def test_a_subset_holds_what_every_choice_keeps(
    dataset: Path, tmp_path: Path, choice: dict[str, object], kept: set[str]
) -> None:
    subset(dataset, tmp_path / "out", **choice)
    assert list(faults(tmp_path / "out")) == []
    assert stored(tmp_path / "out") == {
        key: data for key, data in stored(dataset).items() if key in kept
    }


def test_a_subset_of_classes_numbers_them_anew_in_json_index_and_table(
    dataset: Path, tmp_path: Path
) -> None:
    subset(dataset, tmp_path / "out", classes=["right"])
    out = ShardDataset(tmp_path / "out")
    assert out.manifest.classes == ("right",)
    assert {sample.index.label for samples in out.splits.values() for sample in samples} == {0}
    assert {read_meta(sample).label for samples in out.splits.values() for sample in samples} == {0}
    assert {row.label for row in read_videos(tmp_path / "out" / "videos.parquet")} == {0}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"classes": ["down"]}, "no class 'down' among 2"),
        ({"keys": ["left/x"]}, "no key 'left/x' among 5"),
        ({"split": "val"}, "no split 'val' among 2"),
        ({"keys": ["left/test0"], "split": "train"}, "no sample is left"),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(
    dataset: Path, tmp_path: Path, choice: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        subset(dataset, tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()


def test_another_choice_does_not_go_into_the_same_folder(dataset: Path, tmp_path: Path) -> None:
    subset(dataset, tmp_path / "out", split="test")
    with pytest.raises(InputError, match=r"subset.split = test, not train; choose another --out"):
        subset(dataset, tmp_path / "out", split="train")


def test_a_damaged_source_is_not_given_a_valid_hash(dataset: Path, tmp_path: Path) -> None:
    tar = dataset / "train" / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[-12_000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"train/train-000000\.tar: changed since it was written"):
        subset(dataset, tmp_path / "out", split="train")


def test_bare_tars_become_a_dataset_with_the_same_index(dataset: Path) -> None:
    name = "train/train-000000.parquet"
    before, images = read_index(dataset / name), stored(dataset)
    rows = index_dataset(bare(dataset), OURS)
    after = read_index(dataset / name)
    assert [(row.key, row.label, row.offsets.tolist(), row.sizes.tolist()) for row in after] == [
        (row.key, row.label, row.offsets.tolist(), row.sizes.tolist()) for row in before
    ]
    assert list(faults(dataset)) == []
    assert stored(dataset) == images
    assert read_manifest(dataset).classes == ("left", "right")
    assert {row.split for row in rows} == {"train", "test"}


def test_tars_without_split_folders_have_the_split_of_their_name(
    dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    for tar in dataset.rglob("*.tar"):
        shutil.copy(tar, tmp_path / "flat")
    index_dataset(tmp_path / "flat", OURS)
    assert list(faults(tmp_path / "flat")) == []
    assert {
        split: len(ShardDataset(tmp_path / "flat").samples(split)) for split in ("train", "test")
    } == {
        "train": 3,
        "test": 2,
    }


def reordered(
    tar: Path, order: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]
) -> None:
    """Write a tar again with its members changed."""
    with tarfile.open(tar) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]
    with open(tar, "wb") as file:
        stream = TarStream(file)
        for name, data in order(members):
            stream.add(name, data)
        stream.finish()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            lambda m: [m[0], m[2], m[1], *m[3:]],
            r"left/test0\.rgb\.00001\.jpg where left/test0\.rgb\.00000\.jpg belongs",
        ),
        (
            lambda m: [*m[:8], *m[9:]],
            r"left/test0\.flow_y\.00000\.jpg where left/test0\.flow_x\.00000\.jpg belongs",
        ),
        (lambda m: m[:-1], r"the end of the shard where .*\.flow_y\.00006\.jpg belongs"),
        (lambda m: m[1:], r"left/test0\.rgb\.00000\.jpg: expected a sample's KEY.json here"),
        (lambda m: [(m[0][0], b"{}"), *m[1:]], "damaged JSON member"),
        (lambda m: [], "holds no sample"),
        (lambda m: [*m, *m], "left/test0: in 2 places"),
    ],
)
def test_members_that_are_not_in_the_order_of_the_format_are_named(
    dataset: Path, order: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], message: str
) -> None:
    reordered(bare(dataset) / "test" / "test-000000.tar", order)
    with pytest.raises(InputError, match=message):
        index_dataset(dataset, OURS)
    assert not (dataset / "dataset.json").exists()


@pytest.mark.parametrize("num_blocks", [1, 40, 41, 60])
def test_a_truncated_shard_is_named(dataset: Path, num_blocks: int) -> None:
    tar = bare(dataset) / "test" / "test-000000.tar"
    tar.write_bytes(tar.read_bytes()[: num_blocks * 512])
    with pytest.raises(InputError, match=r"test-000000\.tar: ends without the mark"):
        index_dataset(dataset, OURS)


def test_a_dataset_that_has_a_manifest_is_not_indexed_again(dataset: Path) -> None:
    with pytest.raises(InputError, match="indexed already"):
        index_dataset(dataset, OURS)


def test_a_class_of_two_labels_is_refused(dataset: Path) -> None:
    def renamed(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [(name, data.replace(b'name":"right"', b'name":"left"')) for name, data in members]

    bare(dataset)
    for tar in dataset.rglob("*.tar"):
        reordered(tar, renamed)
    with pytest.raises(InputError, match="class 'left' has 2 labels; expected one"):
        index_dataset(dataset, OURS)


def test_a_video_with_two_rows_is_copied_by_nobody(dataset: Path, tmp_path: Path) -> None:
    rows = read_videos(dataset / "videos.parquet")
    # As many as samples, and more of them
    for told, forged in (
        (
            r"left/test0: two rows of videos\.parquet",
            [rows[0], *(row for row in rows if row.key != "right/test1")],
        ),
        (r"2002 videos of test-000000 in videos\.parquet, 2 in", rows[:1] * 2000 + rows),
    ):
        rewritten(dataset, "videos.parquet", videos_bytes(forged))
        ways: list[Callable[[], object]] = [
            lambda: merge([dataset], tmp_path / "merged"),
            lambda: subset(dataset, tmp_path / "subset"),
            lambda: convert_codec(dataset, tmp_path / "converted", bound=10, default_quality=95),
        ]
        for way in ways:
            with pytest.raises(InputError, match=told):
                way()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"num_frames": 2**31 - 1},
            r"43 members to the end of the shard, expected 6442450940 of 2",
        ),
        ({"width": 60_000, "height": 60_000}, r"its JSON has images of 60000x60000; expected \d+"),
        ({"class_name": "x" * 10**6}, r"damaged JSON member \(65537 bytes, expected 65536 at most"),
    ],
)
def test_what_a_samples_json_claims_takes_no_memory_in_an_index(
    dataset: Path, change: dict[str, object], told: str
) -> None:
    def other(data: bytes, rng: random.Random) -> bytes:
        return json.dumps(json.loads(data) | change).encode()

    change_member("test0.json", other)(dataset, FirstOfAll())
    with pytest.raises(InputError, match=told):
        index_dataset(bare(dataset), OURS)
