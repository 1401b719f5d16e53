"""Import: the bytes of the folders, the meaning that their tool gave them, and no video that does
not line up.
"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.command import run
from tests.support.digests import digests
from tests.support.paths import ROOT
from tests.support.rawframes import SIZE, bring_in, draw_video, stored
from twinstream.errors import InputError
from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.format.manifest import read_manifest
from twinstream.shards.format.video_table import read_videos, summary
from twinstream.shards.rawframes.alignment import Layout
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.rawframes.importer import foreign_codec, import_rawframes
from twinstream.shards.rawframes.names import ListedVideo, read_classes, read_list
from twinstream.shards.rawframes.videos import FoundVideos, found_videos, listed_videos
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames, read_meta
from twinstream.shards.verify import faults


def test_a_dataset_exported_and_imported_has_identical_frames_flow_labels_and_splits(
    dataset: Path, tmp_path: Path
) -> None:
    frames, back = tmp_path / "frames", tmp_path / "back"
    export_rawframes(dataset, frames)
    lists = [frames / "train_rawframes.txt", frames / "test_rawframes.txt"]
    rows = bring_in(frames, back, listed_videos(frames, lists, None))
    assert list(faults(back)) == []
    assert summary(rows) == "5 written"
    assert stored(back) == stored(dataset)
    ours, theirs = ShardDataset(back), ShardDataset(dataset)
    assert ours.manifest.classes == theirs.manifest.classes
    assert ours.manifest.flow_codec == theirs.manifest.flow_codec
    for split in ("train", "test"):
        assert {(s.index.key, s.index.label, s.index.num_frames) for s in ours.samples(split)} == {
            (s.index.key, s.index.label, s.index.num_frames) for s in theirs.samples(split)
        }


def test_importing_twice_gives_the_same_bytes_and_a_second_run_changes_nothing(
    tmp_path: Path,
) -> None:
    for name in ("a/v1", "a/v2", "b/v1"):
        draw_video(tmp_path / "in" / name)
    bring_in(tmp_path / "in", tmp_path / "x", videos_per_shard=2)
    before = digests(tmp_path / "x")
    assert summary(bring_in(tmp_path / "in", tmp_path / "x", videos_per_shard=2)) == "3 written"
    bring_in(tmp_path / "in", tmp_path / "y", videos_per_shard=2)
    assert digests(tmp_path / "x") == before == digests(tmp_path / "y")
    assert sorted(path.name for path in (tmp_path / "x" / "train").glob("*.tar")) == [
        "train-000000.tar",
        "train-000001.tar",
    ]


def test_an_import_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a/v1", "a/v2", "b/v1"):
        draw_video(tmp_path / "in" / name)
    bring_in(tmp_path / "in", tmp_path / "whole", videos_per_shard=1)

    seen: list[str] = []

    def stop(key: str) -> None:
        seen.append(key)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_in(tmp_path / "in", tmp_path / "out", videos_per_shard=1, progress=stop)
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 1
    bring_in(tmp_path / "in", tmp_path / "out", videos_per_shard=1)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_dense_flow_is_read_with_the_field_that_leads_from_each_frame(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v", 4, base=1, num_flow=4)
    bring_in(tmp_path / "in", tmp_path / "out", layout=Layout.DENSE_FLOW)
    sample = ShardDataset(tmp_path / "out").sample("a/v")
    assert read_flow(sample, 0, 3)[:, 0, 0, 0].tolist() == [138, 148, 158]
    assert np.abs(read_frames(sample, [0, 3])[:, 0, 0, 0].astype(int) - [0, 60]).max() <= 2
    assert list(faults(tmp_path / "out")) == []


def test_what_folders_do_not_tell_is_unknown(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    (row,) = bring_in(tmp_path / "in", tmp_path / "out")
    meta = read_meta(ShardDataset(tmp_path / "out").sample("a/v"))
    assert (row.fps, row.saturated, meta.fps, meta.width, meta.height) == (None, None, 0.0, 24, 16)
    assert row.mean_flow == pytest.approx((0 + 10 + 20) / 3 * 20 / 127, abs=1e-4)


def test_classes_and_splits_follow_from_the_folders(tmp_path: Path) -> None:
    for name in ("train/run fast/v.1", "val/a/v1"):
        draw_video(tmp_path / "in" / name)
    rows = bring_in(tmp_path / "in", tmp_path / "out")
    assert [(row.key, row.class_name, row.label, row.split) for row in rows] == [
        ("train/run fast/v_1", "run fast", 1, "train"),
        ("val/a/v1", "a", 0, "val"),
    ]
    assert read_manifest(tmp_path / "out").classes == ("a", "run fast")


def test_lists_of_other_words_make_the_splits_train_val_and_test(tmp_path: Path) -> None:
    lists = []
    for number, name in enumerate(("Training", "validation", "testing")):
        draw_video(tmp_path / "in" / "a" / f"v{number}")
        lists.append(tmp_path / f"{name}_rawframes.txt")
        lists[-1].write_text(f"a/v{number} 4 0\n")
    rows = bring_in(tmp_path / "in", tmp_path / "out", listed_videos(tmp_path / "in", lists, None))
    assert [row.split for row in sorted(rows, key=lambda row: row.key)] == ["train", "val", "test"]
    assert set(read_manifest(tmp_path / "out").splits) == {"train", "val", "test"}


@pytest.mark.parametrize("name", ["frame_{:06d}.jpg", "{}.jpg", "IMG_{}.JPG", "v.Run_{:03d}.jpeg"])
def test_frames_may_have_any_prefix_that_is_one(tmp_path: Path, name: str) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    bring_in(tmp_path / "in", tmp_path / "usual")
    for t in range(4):
        image = tmp_path / "in" / "a" / "v" / f"img_{t:05d}.jpg"
        image.rename(image.with_name(name.format(t)))
    bring_in(tmp_path / "in", tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "usual")


def test_the_command_names_folders_that_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    draw_video(tmp_path / "in" / "loose")
    folders = (str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert run(monkeypatch, "shards", "import", *folders, "--bound", "20") == 0
    assert "1 folders (loose) in no class folder, left out\n" in capsys.readouterr().err
    assert [row.key for row in read_videos(tmp_path / "out" / "videos.parquet")] == ["a/v"]


def test_a_dataset_below_the_folders_is_never_taken_for_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/v", "b/w"):
        draw_video(tmp_path / name)
    out = tmp_path / "out" / "shards"
    for _ in range(2):
        arguments = (str(tmp_path), "--out", str(out), "--bound", "20")
        assert run(monkeypatch, "shards", "import", *arguments) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("2 written -> ")
        assert printed.err == ""
    (out / "dataset.json").unlink()
    assert run(monkeypatch, "shards", "import", *arguments) == 0
    assert run(monkeypatch, "shards", "import", *arguments[:2], f"{out}2", *arguments[3:]) == 0
    assert [row.key for row in read_videos(Path(f"{out}2") / "videos.parquet")] == ["a/v", "b/w"]


def break_gap(folder: Path) -> None:
    (folder / "img_00001.jpg").unlink()


def break_size(folder: Path) -> None:
    (folder / "img_00001.jpg").write_bytes(encode_jpeg(np.zeros((16, 16, 3), np.uint8), 95))


def break_channels(folder: Path) -> None:
    (folder / "flow_y_00001.jpg").write_bytes(encode_jpeg(np.zeros((*SIZE, 3), np.uint8), 95))


def break_link(folder: Path) -> None:
    (folder / "flow_x_00001.jpg").unlink()
    (folder / "flow_x_00001.jpg").symlink_to("gone.jpg")


def break_end(folder: Path) -> None:
    whole = (folder / "flow_x_00001.jpg").read_bytes()
    (folder / "flow_x_00001.jpg").write_bytes(whole[:-20])


def png(folder: Path) -> bytes:
    image = cv2.imread(str(folder / "img_00001.jpg"))
    return cv2.imencode(".png", image)[1].tobytes()


def break_png(folder: Path) -> None:
    (folder / "img_00001.png").write_bytes(png(folder))
    (folder / "img_00001.jpg").unlink()


def break_content(folder: Path) -> None:
    (folder / "img_00001.jpg").write_bytes(png(folder) + b"\xff\xd9")


def break_all(folder: Path) -> None:
    for image in folder.iterdir():
        image.unlink()


@pytest.mark.parametrize(
    ("damage", "reason", "detail"),
    [
        (break_gap, "misaligned", "img_00000.jpg and img_00002.jpg are not neighbours"),
        (break_size, "misaligned", r"img_00001.jpg is \(16, 16, 3\), expected \(16, 24, 3\)"),
        (break_channels, "misaligned", r"flow_y_00001.jpg is \(16, 24, 3\), expected \(16, 24\)"),
        (break_png, "decode_error", "img_00001.png: import takes JPEGs only"),
        (break_content, "decode_error", r"img_00001.jpg: \d+ bytes that are no JPEG"),
        (break_all, "unreadable", "no numbered images such as img_00001.jpg"),
        (break_link, "unreadable", r"flow_x_00001.jpg: No such file or directory"),
        (break_end, "decode_error", r"flow_x_00001.jpg: \d+ bytes without the end of a JPEG"),
    ],
)
def test_a_video_that_cannot_be_used_is_named_or_becomes_a_skipped_row(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, detail: str
) -> None:
    for name in ("a/v1", "a/v2"):
        draw_video(tmp_path / "in" / name)
    damage(tmp_path / "in" / "a" / "v2")
    with pytest.raises(InputError, match=f"in/a/v2: {detail}.*; --skip-bad"):
        bring_in(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    rows = bring_in(tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert summary(rows) == f"1 written · 1 skipped: {reason} 1"
    assert list(faults(tmp_path / "out")) == []


def test_a_folder_numbered_unlike_the_others_has_lost_its_first_frame(tmp_path: Path) -> None:
    for name in ("a/v1", "a/v2"):
        draw_video(tmp_path / "in" / name)
    draw_video(tmp_path / "in" / "a" / "v3", base=1)
    with pytest.raises(InputError, match=r"a/v3: begins with img_00001.jpg; expected number 0"):
        bring_in(tmp_path / "in", tmp_path / "out")


def test_as_many_folders_from_0_as_from_1_need_an_answer(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v1")
    draw_video(tmp_path / "in" / "a" / "v2", base=1)
    with pytest.raises(InputError, match="give --index-base"):
        bring_in(tmp_path / "in", tmp_path / "out")


def test_another_dataset_in_the_output_is_not_mixed_with(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v1")
    bring_in(tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        InputError, match=r"import.layout = auto, not denseflow; choose another --out"
    ):
        bring_in(tmp_path / "in", tmp_path / "out", layout=Layout.DENSEFLOW)
    draw_video(tmp_path / "in" / "a" / "v2")
    with pytest.raises(InputError, match="a/v2 is only in what is asked for"):
        bring_in(tmp_path / "in", tmp_path / "out")


def test_what_a_list_names_and_no_folder_holds_is_missing_and_a_wrong_count_is_told(
    tmp_path: Path,
) -> None:
    draw_video(tmp_path / "in" / "a" / "v 1")
    (tmp_path / "train.txt").write_text("a/v 1 4 0\na/v2 4 0\n")
    rows = bring_in(
        tmp_path / "in",
        tmp_path / "out",
        listed_videos(tmp_path / "in", [tmp_path / "train.txt"], None),
    )
    assert summary(rows) == "1 written · 1 missing"
    assert [row.key for row in read_videos(tmp_path / "out" / "videos.parquet")] == [
        "a/v 1",
        "a/v2",
    ]
    assert list(faults(tmp_path / "out")) == []
    (tmp_path / "train.txt").write_text("a/v 1 7 0\n")
    with pytest.raises(InputError, match="a/v 1: 4 frames, its list says 7"):
        bring_in(
            tmp_path / "in",
            tmp_path / "new",
            listed_videos(tmp_path / "in", [tmp_path / "train.txt"], None),
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/v1 4\n", r"train.txt: line 1: 'a/v1 4', expected"),
        ("a/v1 4 0\n../../etc 4 1\n", r"'\.\./\.\./etc': not a usable path"),
        ("/etc/x 4 0\n", "'/etc/x': not a usable path"),
        ("v1 4 0\n", "'v1': not a folder CLASS/VIDEO below"),
        (
            "a/v1 4 0\nb/v1 4 0\n",
            r"train.txt: line 2: b/v1: label 0 is a in .*train.txt: line 1; number classes alike",
        ),
        (
            "a/v1 4 0\na/v2 4 1\n",
            r"line 2: a/v2: a is label 1 here, 0 in .*train.txt: line 1; number",
        ),
        ("a/v1 4 0\nb/v1 4 2\n", r"^label 1 of 0 to 2 is in no list; name labels by --classes$"),
        ("a/v1 4 1\n", "label 0 of 0 to 1 is in no list; labels seem to begin with 1, expected 0"),
        ("a/v.1 4 0\na/v_1 4 0\n", "two videos with one key 'a/v_1': a/v.1 and a/v_1"),
        ("\n", "no video folders"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        listed_videos(tmp_path, [tmp_path / "train.txt"], None)


def test_given_class_names_carry_their_labels(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "run_fast" / "v")
    (tmp_path / "kinetics400_val_list_rawframes.txt").write_text("run_fast/v 4 1\n")
    classes = ("arm wrestling", "run fast")
    lists = [tmp_path / "kinetics400_val_list_rawframes.txt"]
    for videos in (
        listed_videos(tmp_path / "in", lists, classes).videos,
        found_videos(tmp_path / "in", classes).videos,
    ):
        assert [(video.class_name, video.label) for video in videos] == [("run fast", 1)]
    assert listed_videos(tmp_path / "in", lists, classes).videos[0].split == "val"
    with pytest.raises(InputError, match="class 'run_fast' is not among the 1 of --classes"):
        found_videos(tmp_path / "in", ("walk",))


@pytest.mark.parametrize(
    ("level", "zero", "pixels"),
    [
        (128, 128, 0.0),
        (255, 128, 127 * 20 / 127.5),
        (65, 128, -63 * 20 / 127.5),
        (127.5, 127.5, 0.0),
        (0, 127.5, -20.0),
    ],
)
def test_a_foreign_codec_reads_as_its_tool_meant_it(
    level: float, zero: float, pixels: float, tmp_path: Path
) -> None:
    codec = foreign_codec(20.0, zero, 127.5)
    assert (level - codec.zero) * codec.bound / codec.levels == pytest.approx(pixels)


def test_the_codec_of_an_import_is_in_the_manifest_and_the_reader_uses_it(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    codec = foreign_codec(20.0, 127.5, 127.5)
    found = found_videos(tmp_path / "in", None)
    import_rawframes(
        *(tmp_path / "in", tmp_path / "out", found.videos, found.classes, codec),
        videos_per_shard=16,
    )
    dataset = ShardDataset(tmp_path / "out")
    assert dataset.manifest.flow_codec == codec
    flow = dataset.flow_pixels(read_flow(dataset.sample("a/v"), 2, 1))
    assert flow[0, 0, 0].tolist() == pytest.approx([(148 - 127.5) * 20 / 127.5, 0.5 * 20 / 127.5])
    shutil.rmtree(tmp_path / "in")
    assert list(faults(tmp_path / "out")) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.rawframes.videos import found_videos
from twinstream.shards.rawframes.importer import foreign_codec, import_rawframes

class Die:
    def __init__(self, at): self.left = at
    def __call__(self, done):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

source, out, at = Path(sys.argv[2]), Path(sys.argv[3]), Die(2)
if sys.argv[1] == "export":
    export_rawframes(source, out, at)
else:
    codec = foreign_codec(20, 128, 127)
    found = found_videos(source, None)
    import_rawframes(
        source, out, found.videos, found.classes, codec, videos_per_shard=1, progress=at
    )
"""


def killed(what: str, source: Path, out: Path) -> None:
    """Run it in a process that is killed at its second video."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, source, out],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_an_export_and_an_import_that_were_killed_end_as_if_they_had_not(
    dataset: Path, tmp_path: Path
) -> None:
    export_rawframes(dataset, tmp_path / "whole")
    killed("export", dataset, tmp_path / "frames")
    assert len(list((tmp_path / "frames").glob("*/*"))) == 2
    assert export_rawframes(dataset, tmp_path / "frames") == 3
    assert digests(tmp_path / "frames") == digests(tmp_path / "whole")
    bring_in(tmp_path / "whole", tmp_path / "a", videos_per_shard=1)
    killed("import", tmp_path / "whole", tmp_path / "b")
    assert len(list((tmp_path / "b").rglob("*.tar"))) == 1
    bring_in(tmp_path / "whole", tmp_path / "b", videos_per_shard=1)
    assert digests(tmp_path / "b") == digests(tmp_path / "a")


@pytest.mark.parametrize("is_finished", [False, True])
def test_an_import_that_goes_on_refuses_other_class_names(
    tmp_path: Path, is_finished: bool
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        draw_video(root / name / "v")
    bring_in(root, out, found_videos(root, None), videos_per_shard=1)
    if not is_finished:
        (out / "dataset.json").unlink()
        (out / "videos.parquet").unlink()
    before = digests(out)
    found = found_videos(root, None)
    # Labels stay; the folders say which class is which, so only a list can name it otherwise.
    renamed = FoundVideos(
        tuple(replace(video, class_name=video.class_name.upper()) for video in found.videos),
        tuple(name.upper() for name in found.classes),
    )
    with pytest.raises(InputError, match=r"classes|class_name"):
        bring_in(root, out, renamed, videos_per_shard=1)
    assert digests(out) == before


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_class_names_are_read_without_marks_and_once_each(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(f"{mark}walk \nrun\n", encoding="utf-8")
    assert read_classes(path) == ("walk", "run")
    path.write_text(f"{mark}walk\nrun\nwalk \n", encoding="utf-8")
    with pytest.raises(InputError, match="class 'walk' is there 2 times"):
        read_classes(path)
    path.write_bytes("gehen\nlaufen für\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"--classes: .* is not a text in UTF-8"):
        read_classes(path)


def test_a_list_with_a_mark_is_read_and_a_number_of_thousands_of_digits_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.txt"
    path.write_text("\ufeffa/v 4 0\n", encoding="utf-8")
    assert read_list(path) == [ListedVideo("a/v", 4, 0)]
    path.write_text(f"a/v 4 {'1' * 5000}\n")
    with pytest.raises(InputError, match=r"line 1: .*expected `CLASS/VIDEO num_frames label`"):
        read_list(path)


def test_a_finished_import_refuses_a_class_more_that_no_video_has(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    draw_video(root / "a" / "v")
    found = found_videos(root, None)
    bring_in(root, out, found)
    with pytest.raises(InputError, match=r"other classes: 1 class is only here \(extra\); "):
        bring_in(root, out, replace(found, classes=(*found.classes, "extra")))


CODEC_OPTIONS = ("--bound", "--levels", "--zero")
CLASSES = ("Archery", "Biking", "Hand Stand")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Archery/v 4 0\nBiking/v 4 2\n",
            "line 2: Biking/v: label 2 is Hand Stand in --classes, but the folder is of Biking, "
            "label 1",
        ),
        (
            "Hand_Stand/v 4 2\nbiking/v 4 0\n",
            "line 2: biking/v: label 0 is Archery in --classes, but the folder is of Biking, "
            "label 1",
        ),
        (
            "train/Archery/g01/v 4 1\nArchery/v 4 0\n",
            "line 1: train/Archery/g01/v: label 1 is Biking in --classes, but the folder is of "
            "Archery, label 0",
        ),
        (
            "x/v 4 1\nArchery/v 4 1\nBiking/v 4 2\nHand Stand/v 4 3\n",
            "line 2: Archery/v: label 1 is Biking in --classes, but the folder is of Archery, "
            "label 0; labels seem to begin with 1, expected 0",
        ),
        (
            "Hand Stand/v 4 3\n",
            "line 1: Hand Stand/v: label 3 is no class in --classes, but the folder is of Hand "
            "Stand, label 2; labels seem to begin with 1, expected 0",
        ),
        (
            "v1 4 1\nv2 4 3\n",
            "line 2: v2: label 3, --classes names 0 to 2; labels seem to begin with 1, expected 0",
        ),
        ("v1 4 0\nv2 4 3\n", "line 2: v2: label 3, --classes names 0 to 2"),
    ],
)
def test_a_number_that_contradicts_its_folder_is_refused_although_classes_are_given(
    tmp_path: Path, text: str, message: str
) -> None:
    good, bad = tmp_path / "train.txt", tmp_path / "test.txt"
    good.write_text("Archery/g 4 0\nBiking/g 4 1\nHand Stand/g 4 2\n")
    bad.write_text(text)
    with pytest.raises(InputError) as caught:
        listed_videos(tmp_path, [good, bad], CLASSES)
    assert str(caught.value) == f"{bad}: {message}"


def test_numbers_decide_with_a_word_where_folders_are_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("Archery/v 4 0\nflat 4 1\nother/v 4 2\n")
    found = listed_videos(tmp_path, [path], CLASSES)
    assert [video.class_name for video in found.videos] == list(CLASSES)
    assert found.warnings == (
        "2 listed videos (flat, other/v) in no folder of a class of --classes; their numbers alone "
        "decide",
    )
    path.write_text("Archery/v 4 0\ntest/hand_stand/v 4 2\n")
    assert listed_videos(tmp_path, [path], CLASSES).warnings == ()


@pytest.mark.parametrize("classes", [("Bogen", "Rad"), ('"Archery"', '"Biking"')])
@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (["Archery/a 4 0", "Biking/b 4 1"], ["Archery/c 4 1", "Biking/d 4 0"], "Archery"),
        (["train/Archery/a 4 0"], ["test/Archery/c 4 1"], "Archery"),
        (["Archery/g01/a 4 0", "Biking/g01/b 4 1"], ["Archery/g01/c 4 1"], "Archery/g01"),
        (["Archery/a 4 0", "flat 4 1"], ["v 4 0", "Archery/c 4 1"], "Archery"),
        (["Archery/a 4 0", "Archery/c 4 1", "Biking/d 4 1"], [], "Archery"),
        (["Archery/a 4 0", "Biking/b 4 1"], ["Archery/c 4 0", "Biking/d 4 1"], None),
        (["Archery/g01/a 4 0", "Biking/g01/b 4 1"], ["Archery/g02/c 4 0"], None),
        (["Archery/a 4 0", "Biking/b 4 0"], ["more/c 4 1"], None),
        (["a 4 0", "b 4 1"], ["c 4 1", "d 4 0"], None),
        (["train/a 4 0", "train/b 4 1"], ["val/c 4 1", "val/d 4 0"], None),
        (["all/a 4 0", "all/b 4 1"], ["all/c 4 1", "all/d 4 0"], None),
    ],
)
def test_a_folder_has_one_label_in_all_lists_although_no_class_is_named_like_it(
    tmp_path: Path, classes: tuple[str, ...], train: list[str], test: list[str], told: str | None
) -> None:
    lists = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for path, lines in zip(lists, (train, test), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    # Nothing in a list is no fault of the labels, but of the list.
    lists = lists if test else lists[:1]
    if told is None:
        found = listed_videos(tmp_path, lists, classes)
        assert [video.label for video in found.videos] == [int(line[-1]) for line in train + test]
        assert len(found.warnings) == 1
        return
    with pytest.raises(InputError) as caught:
        listed_videos(tmp_path, lists, classes)
    places = re.escape(f"{told} is label 1 here, 0 in {lists[0]}: line 1; number classes alike")
    assert re.fullmatch(
        rf"{re.escape(str(lists[-1]))}: line \d: .*/c: {places} in all lists", str(caught.value)
    )


def test_a_folder_that_two_classes_would_have_tells_neither(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a_b/v 4 0\nA B/v 4 1\n")
    classes = ("a b", "a-b")
    assert [video.label for video in listed_videos(tmp_path, [path], classes).videos] == [0, 1]
    draw_video(tmp_path / "in" / "x_y" / "v")
    with pytest.raises(InputError, match="class 'x_y' is not among the 2 of --classes"):
        found_videos(tmp_path / "in", ("x y", "x/y"))
    with pytest.raises(InputError, match=r"not among the 1 of --classes; is it 'X-Y'\?"):
        found_videos(tmp_path / "in", ("X-Y",))


def test_the_command_reads_a_class_index_and_stops_at_a_list_that_numbers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("Archery/v1", "Biking/v2"):
        draw_video(tmp_path / "in" / folder)
    index, train, test = (tmp_path / name for name in ("classInd.txt", "train.txt", "test.txt"))
    index.write_bytes(b"\xef\xbb\xbf2 Biking\r\n1 Archery \r\n\r\n")
    train.write_text("Archery/v1 4 0\n")
    test.write_text("Biking/v2 4 0\n")
    command = ["shards", "import", str(tmp_path / "in"), "--bound", "20", "--classes", str(index)]
    command += ["--splits", str(train), "--splits", str(test), "--out", str(tmp_path / "out")]
    assert run(monkeypatch, *command) == 1
    told = (
        "line 1: Biking/v2: label 0 is Archery in --classes, but the folder is of Biking, label 1"
    )
    assert told in capsys.readouterr().err
    test.write_text("Biking/v2 4 1\n")
    assert run(monkeypatch, *command) == 0
    assert read_manifest(tmp_path / "out").classes == ("Archery", "Biking")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *((command, option) for command in ("import", "index") for option in CODEC_OPTIONS),
        ("convert-codec", "--bound"),
    ],
)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_a_codec_is_of_finite_numbers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    option: str,
    value: str,
) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    given = {"--bound": "20"} | {option: value}
    words = [
        "shards",
        command,
        str(tmp_path / "in"),
        *(word for pair in given.items() for word in pair),
    ]
    words += [] if command == "index" else ["--out", str(tmp_path / "out")]
    assert run(monkeypatch, *words) == 2
    assert re.search(rf"Invalid value for '{option}': .*(inf|nan)", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
