"""The one builder: what is there already, what is refused, and the files that come last."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import datasets
from tests.support.datasets import BOUND, SETTINGS, make_catalog, write_job
from tests.support.digests import digests
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog, Video
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.shards.format import index as index_module
from twinstream.shards.format.manifest import FLOW_DEFINITION, FlowCodec
from twinstream.shards.format.video_table import SCHEMA as VIDEO_SCHEMA
from twinstream.shards.format.video_table import Reason, Status, VideoRow, video_row
from twinstream.shards.rawframes.videos import VideoFolder
from twinstream.shards.verify import faults
from twinstream.shards.write import finished as finished_module
from twinstream.shards.write.dataset import DatasetBuild, write_dataset
from twinstream.shards.write.finished import Contents
from twinstream.shards.write.plan import key_hash, plan_shards
from twinstream.shards.write.writer import ShardWriter

COUNTS = {"train": 5, "test": 2}


def build_of(out: Path, catalog: Catalog | None = None, **changes: object) -> DatasetBuild[Video]:
    """A dataset at two videos a shard, by default of seven videos."""
    catalog = catalog or make_catalog(COUNTS)
    return replace(
        dataset_build(out, catalog, plan_jobs(catalog.videos, 2, seed=0), SETTINGS, BOUND),
        **changes,
    )


def write_shards(build: DatasetBuild[Video], count: int | None = None) -> DatasetBuild[Video]:
    """Its last shards, or all, the last one first: in no order that the builder asks for."""
    for plan in list(reversed(build.plans))[:count]:
        write_job(build.out, plan)
    return build


def test_shards_may_be_written_elsewhere_and_in_any_order(tmp_path: Path) -> None:
    build = write_shards(build_of(tmp_path / "out"), 2)
    assert build.finished_rows() is None
    assert build.done_shards() == {"train/train-000001", "train/train-000002"}
    rows = write_shards(build).finish()
    assert list(faults(tmp_path / "out")) == []
    assert list(rows) == list(build.finished_rows())
    assert [row.key for row in rows] == sorted(video.key for video in make_catalog(COUNTS).videos)


def test_an_index_is_read_once_by_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = write_shards(build_of(tmp_path / "wanted"))
    wanted.finish()
    build = write_shards(build_of(tmp_path / "out"), 2)
    read: list[str] = []
    whole = index_module.read_whole
    monkeypatch.setattr(
        index_module, "read_whole", lambda path, most: read.append(path.stem) or whole(path, most)
    )
    done = build.done_shards()
    write_shards(build)
    build.finish()
    names = [plan.name for plan in build.plans]
    assert read == ["train-000001", "train-000002", "test-000000", "train-000000"]
    assert (len(done), len({*names})) == (2, 4)
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")
    # What is finished may be looked at and closed again.
    build.finish()
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


@pytest.mark.parametrize("cut", ["train-000001.tar", "train-000001.parquet"])
def test_a_shard_that_changed_after_it_was_found_done_is_looked_at_again(
    tmp_path: Path, cut: str
) -> None:
    build = write_shards(build_of(tmp_path))
    assert len(build.done_shards()) == len(build.plans)
    (tmp_path / "train" / cut).write_bytes(b"x")
    with pytest.raises(InputError, match=r"train-000001\.(tar: gone or cut|parquet: not a shard)"):
        build.finish()


def test_the_table_that_is_written_in_parts_has_the_bytes_of_one_that_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = make_catalog(COUNTS)
    videos = [replace(video, present=video.key != "left/test0") for video in catalog.videos]
    build = write_shards(build_of(tmp_path, replace(catalog, videos=tuple(videos))))
    # Two groups of rows, the second of one row.
    monkeypatch.setattr(finished_module, "GROUP_ROWS", 6)
    rows = [vars(row) for row in build.finish()]
    assert [row["key"] for row in rows] == sorted(video.key for video in videos)
    whole = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, VIDEO_SCHEMA), whole, row_group_size=6)
    assert (tmp_path / "videos.parquet").read_bytes() == whole.getvalue()
    assert list(faults(tmp_path)) == []


def test_a_tar_that_is_cut_or_gone_is_not_done(tmp_path: Path) -> None:
    build = write_shards(build_of(tmp_path))
    (tmp_path / "train" / "train-000000.tar").unlink()
    cut = tmp_path / "train" / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:-512])
    assert build.done_shards() == {"test/test-000000", "train/train-000002"}
    with pytest.raises(InputError, match=r"train-000000\.tar: gone or cut short .* makes it anew"):
        build.finish()
    assert not (tmp_path / "dataset.json").exists()


def test_videos_that_are_in_no_shard_have_their_row(tmp_path: Path) -> None:
    catalog = make_catalog(COUNTS)
    gone = replace(catalog.videos[0], present=False)
    build = write_shards(build_of(tmp_path, replace(catalog, videos=(gone, *catalog.videos[1:]))))
    row = video_row(gone, Status.MISSING, Reason.MISSING, detail="no such file")
    assert row in build.finish()
    with pytest.raises(InputError, match=f"{gone.key} has missing True there, not False"):
        build_of(tmp_path).finished_rows()


def change(**fields: object) -> Callable[[Video], Video]:
    return lambda video: replace(video, **fields)


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (change(path="x.avi"), "1 differ, right/train3 has path right/train3.avi there, not x.avi"),
        (change(label=0), "1 differ, right/train3 has label 1 there, not 0"),
        (change(key="right/train9"), "2 differ, right/train3 is only in what it holds"),
        (change(key="a"), "2 differ, a is only in what is asked for"),
    ],
)
@pytest.mark.parametrize("option", ["shards.path", "--out"])
def test_other_videos_are_refused_with_the_difference_and_the_option(
    tmp_path: Path,
    is_finished: bool,
    changed: Callable[[Video], Video],
    difference: str,
    option: str,
) -> None:
    build = write_shards(build_of(tmp_path))
    if is_finished:
        build.finish()
    before = digests(tmp_path)
    plans = [
        replace(
            plan,
            items=tuple(changed(v) if v.key == "right/train3" else v for v in plan.items),
        )
        for plan in build.plans
    ]
    other = replace(build, plans=plans, option=option)
    message = f"^{option} .*: holds shards of other videos: {difference}; choose another {option}$"
    with pytest.raises(InputError, match=message):
        other.finished_rows() or other.done_shards()
    assert digests(tmp_path) == before


def test_a_video_that_went_to_another_split_is_refused(tmp_path: Path) -> None:
    catalog = make_catalog({"train": 1})
    write_shards(build_of(tmp_path, catalog)).finish()
    moved = replace(catalog, videos=tuple(replace(video, split="val") for video in catalog.videos))
    with pytest.raises(InputError, match="left/train0 has split train there, not val"):
        build_of(tmp_path, moved).finished_rows()


def test_the_same_videos_in_another_order_are_refused(tmp_path: Path) -> None:
    build = write_shards(build_of(tmp_path))
    plans = [replace(plan, items=plan.items[::-1]) for plan in build.plans]
    with pytest.raises(InputError, match="of other videos: the same in another order"):
        replace(build, plans=plans).done_shards()


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_settings_are_refused_with_the_difference_and_the_option(
    tmp_path: Path, is_finished: bool
) -> None:
    build = write_shards(build_of(tmp_path), 1)
    if is_finished:
        write_shards(build).finish()
    contents = replace(build.contents, settings=SETTINGS | {"preprocess.seed": 1})
    other = replace(build, contents=contents, option="--out")
    message = (
        f"^--out {tmp_path}: holds shards made with preprocess.seed = 0, not 1; choose another "
        "--out or the same settings$"
    )
    with pytest.raises(InputError, match=message):
        other.finished_rows() or other.done_shards()


def test_flow_of_another_definition_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {**SETTINGS, "preprocess.engine": "numba"}
    monkeypatch.setattr(datasets, "SETTINGS", old)
    build = write_shards(build_of(tmp_path), 1)
    newer = replace(build.contents, settings=old | {FLOW_DEFINITION: 2})
    message = (
        f"holds shards made with {FLOW_DEFINITION} = 1, not 2; choose another .* or the same "
        "version of twinstream$"
    )
    with pytest.raises(InputError, match=message):
        replace(build, contents=newer).done_shards()
    assert replace(build, contents=replace(newer, settings=old)).done_shards()


@pytest.mark.parametrize(
    ("name", "is_refused_beside_others"),
    [
        ("train/train-000009.parquet", True),
        ("train/train-000009.tar", True),
        ("other.parquet", True),
        ("run.jsonl", False),
        ("train/notes.txt", False),
    ],
)
def test_what_would_not_be_made_is_refused(
    tmp_path: Path, name: str, is_refused_beside_others: bool
) -> None:
    build = write_shards(build_of(tmp_path), 1)
    (tmp_path / name).write_bytes(b"")
    message = f"{name}: these videos and settings would not make this file; choose another --out"
    with pytest.raises(InputError, match=message):
        replace(build, option="--out", beside_others=False).done_shards()
    if is_refused_beside_others:
        with pytest.raises(InputError, match=r"choose another shards\.path"):
            build.done_shards()
    else:
        assert len(build.done_shards()) == 1


def test_a_shard_without_a_sample_leaves_a_row_and_no_file(tmp_path: Path) -> None:
    videos = [VideoFolder(f"a/v{n}", f"a/v{n}", "a", 0, "train") for n in range(2)]
    codec = FlowCodec(bound=20.0, zero=128, levels=127)
    build = DatasetBuild(
        tmp_path / "out", plan_shards(videos, 1, key_hash), Contents(("a",), codec, {})
    )

    def skip(writer: ShardWriter, video: VideoFolder) -> VideoRow:
        return video_row(video, Status.SKIPPED, Reason.TOO_SHORT)

    rows = write_dataset(build, skip)
    assert [row.reason for row in rows] == ["too_short"] * 2
    assert sorted(digests(tmp_path / "out")) == ["dataset.json", "videos.parquet"]
    assert list(write_dataset(build, skip)) == list(rows)
