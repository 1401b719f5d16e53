"""Checking videos gives the rows that preprocess would write, and nothing else."""

import csv
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import cli, run
from tests.support.stage import prepared, tree, without_ray, write_videos
from tests.support.videos import write_sound, write_video
from twinstream.errors import InputError
from twinstream.preprocess.check import catalog_of_files, check, require_table
from twinstream.preprocess.cluster.jobs import run_jobs
from twinstream.preprocess.cluster.worker import WorkerSetup, decode_recipe
from twinstream.preprocess.duet import draw_video
from twinstream.preprocess.job import DecodeRecipe, VideoDone, check_steps
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import Status, VideoRow, read_videos, summary

FRAMES = draw_video(np.random.default_rng(0), 0, 0, 48, 9)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good videos of two classes, and one of each kind that cannot be used."""
    root = tmp_path_factory.mktemp("crawl") / "videos"
    write_videos(root, 4)
    bad = root / "train" / "class0"
    (bad / "empty.avi").write_bytes(b"")
    write_video(bad / "short.avi", FRAMES[:5])
    write_sound(bad / "sound.mp3")
    whole = write_video(bad / "cut.avi", np.concatenate([FRAMES] * 6))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (bad / "gone.avi").symlink_to("nowhere.avi")
    return root


def as_usable(row: VideoRow) -> VideoRow:
    """A row of preprocess without what only a shard gives."""
    status = "usable" if row.status == "written" else row.status
    return replace(row, status=status, shard=None, mean_flow=None, saturated=None)


@pytest.mark.parametrize(
    "overrides",
    [(), ("preprocess.max_frames=7",), ("preprocess.max_frames=7", "preprocess.too_long=cut")],
    ids=str,
)
def test_the_rows_are_those_that_preprocess_writes(
    videos: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    _, jobs, setup, _ = prepared(videos, tmp_path / "out", *overrides)
    recipe = decode_recipe(setup)
    steps = [
        step
        for job in jobs
        for step in check_steps(job, root=videos, recipe=recipe, given_up={})
        if isinstance(step, VideoDone)
    ]
    written = without_ray(videos, tmp_path / "out", *overrides)
    assert [step.row for step in steps] == [as_usable(row) for row in written]
    assert len(steps) == 9


@pytest.fixture(scope="module")
def checked(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table that two workers make."""
    out = tmp_path_factory.mktemp("checked") / "videos.parquet"
    settings = build_settings(Settings, tree(videos, out.parent / "shards"))
    check(settings.dataset, settings.preprocess, settings.shards, out)
    assert os.listdir(out.parent) == ["videos.parquet"]
    return out


def test_every_video_has_a_row_in_the_table(checked: Path) -> None:
    rows = read_videos(checked)
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    assert summary(rows, Status.USABLE) == (
        "4 usable · 5 skipped: decode_error 1, missing 1, no_video_stream 1, too_short 1, "
        "unreadable 1"
    )


def test_a_bare_folder_and_one_worker_give_the_same_rows_and_code_1(
    videos: Path, checked: Path, tmp_path: Path
) -> None:
    table = tmp_path / "new" / "table.csv"
    done = cli(
        *("check", str(videos), "--out", str(table), "--set", "preprocess.workers=1"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stderr
    assert "train/class0/short.avi: too_short: 5 of at least 6 frames\n" in done.stdout
    assert done.stdout.endswith(f"unreadable 1 -> {table}\n")
    with open(table, newline="") as file:
        found = list(csv.DictReader(file))
    expected = [
        {name: "" if value is None else str(value) for name, value in vars(row).items()}
        for row in read_videos(checked)
    ]
    assert found == expected


def deadly_recipe(setup: WorkerSetup) -> DecodeRecipe:
    """Some videos kill the process that opens them, some hang it."""
    recipe = decode_recipe(setup)

    def opened(path: Any) -> Any:
        if path.name == "0.avi":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "1.avi":
            time.sleep(3600)
        return recipe.open_video(path)

    return replace(recipe, open_video=opened)


def test_videos_that_crash_or_hang_a_worker_are_rows_of_their_own(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", 6)
    _, jobs, setup, _ = prepared(tmp_path / "videos", tmp_path / "out")
    setup = replace(setup, out=None)
    options: dict[str, Any] = {"workers": 2, "address": None, "open_recipe": deadly_recipe}
    done = list(run_jobs(jobs, setup, max_tries=2, timeout_seconds=4, **options))
    assert {one.row.path[-5:]: one.row.reason for one in done} == {
        **{f"{n}.avi": None for n in range(6)},
        "0.avi": "crashed",
        "1.avi": "timed_out",
    }
    assert not (tmp_path / "out").exists()


def test_a_check_that_is_stopped_leaves_the_table_that_was_there(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> Iterator[VideoDone]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("twinstream.preprocess.cluster.jobs.run_jobs", stopped)
    (tmp_path / "videos.csv").write_text("of before")
    settings = build_settings(Settings, tree(videos, tmp_path / "shards"))
    with pytest.raises(KeyboardInterrupt):
        check(settings.dataset, settings.preprocess, settings.shards, tmp_path / "videos.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["videos.csv"]
    assert (tmp_path / "videos.csv").read_text() == "of before"


def test_files_are_checked_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("a/x.avi", "b/c/y.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = [tmp_path / name for name in ("b/c/y.avi", "a/x.avi", "a/z.avi")]
    root, catalog = catalog_of_files(files)
    assert root == str(tmp_path)
    assert catalog.classes == ("a", "c")
    assert {video.path: (video.class_name, video.present) for video in catalog.videos} == {
        "a/x.avi": ("a", True),
        "a/z.avi": ("a", False),
        "b/c/y.avi": ("c", True),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table.txt", r"expected FILE\.parquet or FILE\.csv"),
        ("folder.csv", "a folder; expected a file"),
        ("file/table.csv", "file: File exists"),
        ("shards/videos.parquet", "the table of a shard dataset"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "dataset.json").touch()
    with pytest.raises(InputError, match=f"--out .*{message}"):
        require_table(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "dataset.root absent: no such folder"),
        (("a.avi", "absent"), "absent: not a file; expected one folder, or files"),
        (("-c", "absent.yaml", "."), "absent.yaml: no such settings file"),
        ((), "dataset.root videos: no such folder"),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.avi").touch()
    assert run(monkeypatch, "check", *arguments) == 1
    assert capsys.readouterr().err == f"twinstream: {message}\n"
