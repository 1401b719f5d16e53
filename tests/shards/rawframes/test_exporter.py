"""Rawframes folders: the stored bytes under the names that mmaction2 reads, whole or absent."""

import errno
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.datasets import BOUND, SETTINGS, make_catalog, write_dataset, write_job
from tests.support.digests import digests
from tests.support.rawframes import stored
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.shards.rawframes.exporter import (
    export_rawframes,
    refuse_one_folder,
    video_folder,
)
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.convert_codec import convert_codec
from twinstream.shards.write.copying import Copier


def test_every_image_is_the_stored_bytes_under_the_names_of_the_layout(
    dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "frames"
    assert export_rawframes(dataset, out) == 5
    with tarfile.open(dataset / "test" / "test-000000.tar") as tar:
        stored = {member.name: tar.extractfile(member).read() for member in tar}
    for t in range(7):
        assert (out / f"left/test0/img_{t:05d}.jpg").read_bytes() == stored[
            f"left/test0.rgb.{t:05d}.jpg"
        ]
    for t in range(6):
        for axis in "xy":
            name = f"flow_{axis}_{t:05d}.jpg"
            assert (out / "left/test0" / name).read_bytes() == stored[
                f"left/test0.flow_{axis}.{t:05d}.jpg"
            ]
    assert len(list((out / "left/test0").iterdir())) == 7 + 2 * 6


def test_the_lists_name_folder_count_and_label_of_each_split(dataset: Path, tmp_path: Path) -> None:
    export_rawframes(dataset, tmp_path)
    assert (
        tmp_path / "train_rawframes.txt"
    ).read_text() == "left/train0 7 0\nleft/train2 9 0\nright/train1 8 1\n"
    assert (
        tmp_path / "train_flow_rawframes.txt"
    ).read_text() == "left/train0 6 0\nleft/train2 8 0\nright/train1 7 1\n"
    assert (tmp_path / "test_rawframes.txt").read_text() == "left/test0 7 0\nright/test1 8 1\n"
    assert (tmp_path / "classes.txt").read_text() == "left\nright\n"


def test_a_second_run_copies_only_what_is_missing(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames"
    export_rawframes(dataset, out)
    before = digests(out)
    assert export_rawframes(dataset, out) == 0
    for image in (out / "left" / "train2").iterdir():
        image.unlink()
    (out / "left" / "train2").rmdir()
    assert export_rawframes(dataset, out) == 1
    assert digests(out) == before


def test_a_video_that_fails_midway_is_not_there(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "frames"
    whole = Copier.members

    def cut(self: Copier, sample: object) -> object:
        for number, data in enumerate(whole(self, sample)):
            if number == 9:
                raise KeyboardInterrupt
            yield data

    monkeypatch.setattr(Copier, "members", cut)
    with pytest.raises(KeyboardInterrupt):
        export_rawframes(dataset, out)
    monkeypatch.undo()
    assert [path for path in out.rglob("*") if path.is_file()] == []
    (out / "left" / ".train0.12ab34cd.tmp").mkdir(parents=True)
    assert export_rawframes(dataset, out) == 5
    assert list(out.rglob(".*")) == []


def test_a_class_folder_that_cannot_be_listed_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "left":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    (tmp_path / "left").mkdir()
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"left: cannot be read \(Permission denied\)"):
        export_rawframes(dataset, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_folder_that_holds_something_else_is_not_touched(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "left" / "test0").mkdir(parents=True)
    (tmp_path / "left" / "test0" / "img_00000.jpg").write_text("mine")
    with pytest.raises(
        InputError, match=r"left/test0: flow_x_00000.jpg has no bytes, expected \d+"
    ):
        export_rawframes(dataset, tmp_path)
    assert (tmp_path / "left" / "test0" / "img_00000.jpg").read_text() == "mine"


def test_a_link_in_the_output_is_not_followed(dataset: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "frames", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "left").symlink_to(elsewhere)
    with pytest.raises(InputError, match="leads out of"):
        export_rawframes(dataset, out)
    assert list(elsewhere.iterdir()) == []


def test_a_damaged_shard_is_named_and_not_copied(dataset: Path, tmp_path: Path) -> None:
    tar = dataset / "test" / "test-000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"test/test-000000\.tar: changed since it was written"):
        export_rawframes(dataset, tmp_path / "frames")


@pytest.mark.parametrize(
    ("key", "class_name", "folder"),
    [
        ("Run/v_1", "Run", "Run/v_1"),
        ("train/Run/v_1", "Run", "Run/v_1"),
        ("v 1", "to run", "to_run/v_1"),
        ("a/b", "push/pull", "push_pull/b"),
    ],
)
def test_a_folder_is_class_and_last_part_of_the_key_without_spaces(
    key: str, class_name: str, folder: str
) -> None:
    assert video_folder(key, class_name) == folder


def test_two_keys_of_one_folder_are_both_named() -> None:
    with pytest.raises(
        InputError, match="test/Run/v and train/Run/v: both would be the folder Run/v"
    ):
        refuse_one_folder([("train/Run/v", "Run"), ("test/Run/v", "Run")])


@pytest.mark.parametrize(
    ("key", "class_name"), [("Run/..", "Run"), ("v", ".."), ("v", ""), ("Run/", "Run")]
)
def test_no_key_or_class_leads_out_of_the_output(key: str, class_name: str) -> None:
    with pytest.raises(InputError, match="not usable as the name of a folder"):
        video_folder(key, class_name)


def test_a_dataset_without_samples_in_a_split_has_no_list_of_it(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "dataset", {"train": 1})
    export_rawframes(source, tmp_path / "frames")
    assert sorted(path.name for path in (tmp_path / "frames").glob("*.txt")) == [
        "classes.txt",
        "train_flow_rawframes.txt",
        "train_rawframes.txt",
    ]


def test_the_commands_go_round_and_tell_what_they_did(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames, back, part, both = (str(tmp_path / name) for name in ("frames", "back", "part", "both"))
    assert run(monkeypatch, "shards", "export", str(dataset), "--out", frames) == 0
    assert "5 of 5 videos copied" in capsys.readouterr().out
    lists = [
        word
        for split in ("train", "test")
        for word in ("--splits", f"{frames}/{split}_rawframes.txt")
    ]
    assert (
        run(
            monkeypatch,
            "shards",
            "import",
            frames,
            "--out",
            back,
            "--bound",
            "20",
            "--levels",
            "127",
            *lists,
        )
        == 0
    )
    assert run(monkeypatch, "shards", "verify", "--fast", back) == 0
    assert (
        run(
            monkeypatch,
            "shards",
            "subset",
            back,
            "--out",
            part,
            "--split",
            "test",
            "--classes",
            "left,right",
        )
        == 0
    )
    assert run(monkeypatch, "shards", "subset", back, "--out", f"{part}2", "--split", "train") == 0
    assert run(monkeypatch, "shards", "merge", part, f"{part}2", "--out", both) == 0
    assert run(monkeypatch, "shards", "verify", both) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"5 written -> {back}/videos.parquet",
        f"{back}: every byte as written",
        f"2 written -> {part}",
        f"3 written -> {part}2",
        f"5 written -> {both}",
        f"{both}: sound",
    ]
    assert stored(Path(both)) == stored(dataset)


def test_bare_tars_and_a_video_preview_by_command(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in [*dataset.rglob("*.parquet"), dataset / "dataset.json"]:
        path.unlink()
    assert run(monkeypatch, "shards", "index", str(dataset), "--bound", "20") == 0
    assert run(monkeypatch, "shards", "verify", str(dataset)) == 0
    assert (
        run(monkeypatch, "shards", "preview", str(dataset), "--out", str(tmp_path / "p.mp4")) == 0
    )
    assert (tmp_path / "p.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "absent", "--out", "out"),
        ("import", "absent", "--out", "out", "--bound", "20"),
        ("merge", "absent", "--out", "out"),
        ("subset", "absent", "--out", "out"),
        ("index", "absent", "--bound", "20"),
    ],
    ids=" ".join,
)
def test_an_absent_input_is_one_line_and_nothing_is_made(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "shards", *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("twinstream: absent")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 254 + "1", "ü" * 127 + "1"])
def test_a_folder_of_the_longest_name_that_a_disk_takes_is_exported(
    tmp_path: Path, name: str
) -> None:
    (video, *_) = make_catalog({"train": 2}).videos
    video = replace(video, key=f"left/{name}")
    catalog = Catalog(("left",), (video,), ())
    jobs = plan_jobs(catalog.videos, 1, seed=0)
    write_job(tmp_path / "shards", jobs[0])
    dataset_build(tmp_path / "shards", catalog, jobs, SETTINGS, BOUND).finish()
    assert export_rawframes(tmp_path / "shards", tmp_path / "out") == 1
    assert len(os.listdir(tmp_path / "out" / "left" / name)) == 8 + 2 * 7
    assert export_rawframes(tmp_path / "shards", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("key", "class_name"), [("left/" + "x" * 256, "left"), ("left/a", "ü" * 128)]
)
def test_a_name_that_no_disk_takes_is_one_line(key: str, class_name: str) -> None:
    with pytest.raises(InputError, match=r"would have a name of 256 bytes, and a disk takes 255"):
        video_folder(key, class_name)


def test_output_in_what_it_is_made_of_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    before = digests(dataset)
    makes = (
        lambda out: export_rawframes(dataset, out),
        lambda out: merge([dataset], out),
        lambda out: subset(dataset, out, split="test"),
        lambda out: convert_codec(dataset, out, bound=10, default_quality=95),
    )
    for make in makes:
        for out in (dataset, dataset / "below", tmp_path / "link" / "below"):
            with pytest.raises(InputError, match=r"--out .*: lies in .*, which it is made of"):
                make(out)
    assert digests(dataset) == before
