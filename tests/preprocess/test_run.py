"""Videos to a dataset through Ray: real files, real workers, and what happens when
things go wrong.
"""

import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import cli
from tests.support.datasets import write_dataset
from tests.support.digests import dataset_digests
from tests.support.paths import ROOT
from tests.support.processes import descendants, listening_addresses, opened_paths
from tests.support.stage import config, started, tree
from tests.support.stores import Store
from tests.support.videos import write_sound, write_video
from twinstream.errors import InputError
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.duet import draw_video
from twinstream.preprocess.run import check_skipped, preprocess, run_catalog
from twinstream.preprocess.settings import DatasetSettings
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import Status, VideoRow, read_videos, summary
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import locate
from twinstream.shards.verify import faults

FRAMES = draw_video(np.random.default_rng(0), 0, 0, 48, 9)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good videos of two classes in two splits, and one of each kind that cannot be used."""
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 7), ("test", 3)):
        for number in range(count):
            name = f"{split}/class{number % 2}/{number}.avi"
            write_video(
                root / name,
                draw_video(np.random.default_rng(number), number % 4, number % 2, 48, 8 + number),
            )
    bad = root / "train" / "class0"
    (bad / "empty.avi").write_bytes(b"")
    (bad / "text.avi").write_text("this is no video\n" * 50)
    write_video(bad / "one frame.avi", FRAMES[:1])
    write_video(bad / "short.avi", FRAMES[:5])
    write_sound(bad / "sound.mp3")
    whole = write_video(bad / "cut.avi", np.concatenate([FRAMES] * 6))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    return root


def run(root: Path, out: Path, *overrides: str) -> list[VideoRow]:
    settings = build_settings(Settings, tree(root, out), overrides)
    return list(preprocess(settings.dataset, settings.preprocess, settings.shards))


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    run(videos, out)
    return out


def test_every_video_has_a_row_with_the_right_reason(finished: Path) -> None:
    rows = read_videos(finished / "videos.parquet")
    printed = {row.path: row.reason for row in rows if row.status != Status.WRITTEN}
    assert printed == {
        "train/class0/cut.avi": "decode_error",
        "train/class0/empty.avi": "unreadable",
        "train/class0/one frame.avi": "too_short",
        "train/class0/short.avi": "too_short",
        "train/class0/sound.mp3": "no_video_stream",
        "train/class0/text.avi": "unreadable",
    }
    assert (
        summary(rows)
        == "10 written · 6 skipped: decode_error 1, no_video_stream 1, too_short 2, unreadable 2"
    )


def test_the_dataset_is_sound_and_holds_what_was_drawn(finished: Path) -> None:
    assert list(faults(finished)) == []
    dataset = ShardDataset(finished)
    assert dataset.manifest.classes == ("class0", "class1")
    samples = [sample for split in dataset.splits.values() for sample in split]
    assert {sample.index.key: sample.index.num_frames for sample in samples} == {
        f"{split}/class{n % 2}/{n}": 8 + n
        for split, count in (("train", 7), ("test", 3))
        for n in range(count)
    }


def test_one_worker_and_other_chunks_give_the_same_bytes(
    videos: Path, finished: Path, tmp_path: Path
) -> None:
    run(videos, tmp_path / "again", "preprocess.workers=1", "preprocess.chunk_frames=3")
    assert dataset_digests(tmp_path / "again") == dataset_digests(finished)


def test_a_finished_dataset_is_left_alone_and_a_line_says_so(
    videos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    rows = run(videos, finished)
    assert capsys.readouterr().err.endswith(f"{finished}: finished already\n")
    assert summary(rows) == summary(read_videos(finished / "videos.parquet"))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_settings_dataset_is_refused_with_the_setting_that_differs(
    videos: Path, finished: Path
) -> None:
    with pytest.raises(InputError, match=r"made with shards\.jpeg_quality = 95, not 80"):
        run(videos, finished, "shards.jpeg_quality=80")
    with pytest.raises(InputError, match=r"made with preprocess\.tvl1\.warps = 1, not 2"):
        run(videos, finished, "preprocess.tvl1.warps=2")


def test_another_catalogs_dataset_is_refused_and_kept(
    videos: Path, finished: Path, tmp_path: Path
) -> None:
    before = dataset_digests(finished)
    other = tmp_path / "videos"
    write_video(other / "train" / "class0" / "other.avi", FRAMES)
    with pytest.raises(InputError, match="holds shards of other videos"):
        run(other, finished)
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    (half / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"would not make|of other videos"):
        run(other, half)
    assert dataset_digests(finished) == before


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        (signal.SIGKILL, -9, 1),
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 1),
        (signal.SIGTERM, 143, 2),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    videos: Path, finished: Path, tmp_path: Path, number: int, code: int, workers: int
) -> None:
    out = tmp_path / "shards"
    settings = config(tmp_path, videos, out)
    command = ["preprocess", "-c", settings, "--set", f"preprocess.workers={workers}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "twinstream", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not list(out.glob("*/*.parquet")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.005)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert not (out / "dataset.json").exists()
    assert number == signal.SIGKILL or not [*out.rglob(".*")]
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert dataset_digests(out) == dataset_digests(finished)


def test_a_local_ray_is_closed_to_other_users_and_other_machines(
    videos: Path, tmp_path: Path
) -> None:
    listening: set[str] = set()
    folders: dict[Path, int] = {}
    tokens: set[str] = set()
    told = ""
    with started(tmp_path, videos, tmp_path / "shards") as process:
        while process.poll() is None:
            below = descendants(process.pid)
            for pid, command in below:
                told += command
                listening |= listening_addresses(pid)
                environ = Path(f"/proc/{pid}/environ")
                with suppress(OSError):
                    assert stat.S_IMODE(environ.stat().st_mode) == 0o400
                    tokens |= {*re.findall(r"RAY_AUTH_TOKEN=(\w+)", environ.read_text())}
                # Where it has files or sockets, by the topmost folder that is not everyone's.
                for path in opened_paths(pid):
                    is_ours = path.is_relative_to(tmp_path.parent) or path.is_relative_to(ROOT)
                    with suppress(OSError):
                        if path.is_relative_to("/tmp") and not is_ours:
                            top = Path(*path.parts[:3])
                            folders[top] = stat.S_IMODE(top.stat().st_mode)
            time.sleep(0.05)
        _, printed = process.communicate()
    assert process.returncode == 0, printed
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [*folders.values()] == [0o700]
    assert not [folder for folder in folders if folder.exists()]
    (token,) = tokens
    assert token not in told


def without_root_override() -> None:
    """Root may write anywhere; without CAP_DAC_OVERRIDE (1) in the bounding set its children may
    not.
    """
    import ctypes

    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_a_read_only_output_folder_is_one_line(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    out.mkdir(mode=0o500)
    done = cli("preprocess", "-c", config(tmp_path, videos, out), preexec_fn=without_root_override)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"twinstream: shards.path {out}: cannot be written to (Permission denied)\n"
    )
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("preprocess.engine=cuda", "engine: cuda"),
        ("dataset.root=/nowhere", "/nowhere"),
        ("preprocess.sise=3", "preprocess.sise: no such key; did you mean preprocess.size?"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_1(
    videos: Path, tmp_path: Path, override: str, message: str
) -> None:
    done = cli("preprocess", "-c", config(tmp_path, videos, tmp_path / "shards"), "--set", override)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://127.0.0.1:10001",
            "Ray Client cannot stream what workers tell; start twinstream on a node of the",
        ),
        (
            "127.0.0.1:1",
            "no Ray cluster answers there, or not to this token ([Errno 111] Connection refused)",
        ),
    ],
)
def test_an_address_where_no_cluster_can_be_used_is_one_line(
    videos: Path, tmp_path: Path, address: str, message: str
) -> None:
    done = cli(
        "preprocess", "-c", config(tmp_path, videos, tmp_path / "shards"), "--address", address
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"twinstream: --address {address}: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "shards").exists()


def test_two_videos_with_one_key_are_both_named(videos: Path, tmp_path: Path) -> None:
    for name in ("a.b.avi", "a_b.avi"):
        write_video(tmp_path / "v" / "train" / "class0" / name, FRAMES)
    with pytest.raises(InputError, match=r"a\.b\.avi.*a_b\.avi|a_b\.avi.*a\.b\.avi"):
        run(tmp_path / "v", tmp_path / "shards")


def test_a_class_of_the_split_list_without_a_folder_is_told_and_its_videos_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, splits = tmp_path / "videos", tmp_path / "splits"
    write_video(root / "Here" / "v_Here_g01_c01.avi", FRAMES)
    splits.mkdir()
    (splits / "classInd.txt").write_text("1 Here\n2 Absent\n")
    (splits / "trainlist01.txt").write_text(
        "Here/v_Here_g01_c01.avi 1\nAbsent/v_Absent_g01_c01.avi 2\n"
    )
    (splits / "testlist01.txt").write_text("Absent/v_Absent_g02_c01.avi\n")
    rows = run(root, tmp_path / "shards", "dataset.kind=ucf101", f"dataset.splits={splits}")
    assert summary(rows) == "1 written · 2 missing"
    assert "Absent" in capsys.readouterr().err
    assert list(faults(tmp_path / "shards")) == []
    # A finished dataset may lie where nothing can be written any more.
    shutil.rmtree(tmp_path / "shards" / "splits")
    (tmp_path / "shards" / "splits").touch()
    run(root, tmp_path / "shards", "dataset.kind=ucf101", f"dataset.splits={splits}")
    assert "its lists cannot be stored as splits (File exists)" in capsys.readouterr().err


def test_a_dry_run_tells_the_plan_and_writes_nothing(videos: Path, tmp_path: Path) -> None:
    done = cli("preprocess", "-c", config(tmp_path, videos, tmp_path / "shards"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "16 videos of 2 classes: 3 test, 13 train; 0 missing" in done.stdout
    assert not (tmp_path / "shards").exists()


def test_a_run_in_which_no_video_could_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "x.avi").write_text("no video")
    done = cli("preprocess", "-c", config(tmp_path, tmp_path / "videos", tmp_path / "shards"))
    assert done.returncode == 1
    assert "no video could be used (0 written · 1 skipped: unreadable 1)" in done.stderr
    assert list(faults(tmp_path / "shards")) == []


def test_a_root_without_any_video_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    done = cli("preprocess", "-c", config(tmp_path, tmp_path / "videos", tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no videos there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_more_skipped_videos_than_allowed_are_an_error(finished: Path) -> None:
    rows = read_videos(finished / "videos.parquet")
    check_skipped(rows, 6, "out")
    check_skipped(rows, None, "out")
    with pytest.raises(InputError, match=r"6 videos skipped, preprocess\.max_skipped is 5"):
        check_skipped(rows, 5, "out")


def catalog_paths(root: Path, out: Path, kind: str = "folders") -> list[str]:
    """What a run with these folders takes for videos."""
    settings = DatasetSettings(kind=kind, root=str(root))
    return [video.path for video in run_catalog(settings, str(out)).videos]


@pytest.mark.parametrize("kind", ["folders", "rawframes"])
@pytest.mark.parametrize("below", ["out/shards", "shards", "Run/shards"])
def test_shards_below_the_videos_are_never_taken_for_videos(
    tmp_path: Path, kind: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["Run/a", "Walk/b"] if kind == "rawframes" else ["Run/a.mp4", "Walk/b.mp4"]
    for name in names:
        path = tmp_path / name
        (path / "img_00000.jpg" if kind == "rawframes" else path).parent.mkdir(parents=True)
        (path / "img_00000.jpg" if kind == "rawframes" else path).touch()
    out = tmp_path / below
    assert catalog_paths(tmp_path, out, kind) == names
    # As far as a run that was stopped got, and as a finished one leaves it.
    write_dataset(out, {"train": 3, "test": 2})
    manifest = (out / "dataset.json").read_bytes()
    (out / "dataset.json").unlink()
    (out / "run.jsonl").touch()
    (out / "preview.mp4").touch()
    (out / "sample").mkdir()
    assert catalog_paths(tmp_path, out, kind) == names
    (tmp_path / "another way").symlink_to(out)
    assert catalog_paths(tmp_path, out, kind) == names
    # A dataset that another run has made is no class either, but a foreign dataset.json hides none.
    (out / "dataset.json").write_bytes(manifest)
    (tmp_path / "Walk" / "dataset.json").write_text('{"format": 1}')
    assert catalog_paths(tmp_path, tmp_path.parent / "elsewhere", kind) == names
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("inside", [".", "videos", "link"])
def test_videos_in_the_folder_of_the_shards_are_refused_before_anything_is_written(
    tmp_path: Path, inside: str
) -> None:
    out = tmp_path / "out"
    write_video(out / "videos" / "Run" / "a.avi", FRAMES)
    (out / "link").symlink_to(out / "videos")
    with pytest.raises(InputError, match=r"shards\.path .*: dataset\.root .* is or lies in it"):
        catalog_paths(out / inside, out)
    # Made so by an earlier version, it goes on.
    (out / "run.jsonl").touch()
    assert catalog_paths(out / "videos", out) == ["Run/a.avi"]


def test_shards_where_videos_lie_would_hide_them(tmp_path: Path) -> None:
    for name in ("Run/a.avi", "Walk/b.avi"):
        write_video(tmp_path / name, FRAMES)
    with pytest.raises(InputError, match=r"Walk: holds videos or images \(b\.avi\)"):
        catalog_paths(tmp_path, tmp_path / "Walk")


def test_shards_below_the_videos_of_a_store_are_never_taken_for_videos(
    store: Store, tmp_path: Path
) -> None:
    root = locate(f"{store.uri('below')}")
    for name in ("Run/a.mp4", "Walk/b.mp4", "out/shards/train/c.mp4", "other/preview/d.mp4"):
        write_atomically(root / name, b"")
    write_dataset(tmp_path / "other", {"train": 1})
    write_atomically(root / "other/dataset.json", (tmp_path / "other/dataset.json").read_bytes())
    write_atomically(root / "Walk/dataset.json", b"{}")
    catalog = read_catalog("folders", str(root), out=root / "out/shards")
    assert [video.path for video in catalog.videos] == ["Run/a.mp4", "Walk/b.mp4"]
