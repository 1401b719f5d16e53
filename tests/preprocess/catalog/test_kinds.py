"""A dataset of any kind: what is listed of its files, and the lists that name them."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.catalogs import LISTS, rows, touch
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import (
    Catalog,
)
from twinstream.preprocess.catalog.kinds import read_catalog


def test_a_link_that_leaves_the_root_is_followed_and_keyed_by_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/deep/secret.avi", "other/y.avi", "root/a/x.avi")
    (tmp_path / "root" / "a" / "link.avi").symlink_to("../../other/y.avi")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    catalog = read_catalog("folders", str(tmp_path / "root"))
    assert [video.key for video in catalog.videos] == ["a/link", "a/x", "b/deep/secret"]


def test_every_file_that_is_not_hidden_or_text_could_be_a_video(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a/-x.avi",
        "a/empty.mp4",
        "a/song.mp3",
        "a/bare",
        "a/labels.txt",
        "a/.hidden.avi",
        ".git/b.avi",
    )
    (tmp_path / "a" / "link.avi").symlink_to("nowhere")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    catalog = read_catalog("folders", str(tmp_path))
    assert [video.path for video in catalog.videos] == [
        "a/-x.avi",
        "a/bare",
        "a/empty.mp4",
        "a/link.avi",
        "a/song.mp3",
    ]


def test_a_file_beside_a_video_of_its_name_is_none_and_one_alone_may_be(tmp_path: Path) -> None:
    touch(tmp_path, "a/clip.MP4", "a/clip.srt", "a/clip.jpg", "a/clip.wav", "a/clip.gif")
    touch(tmp_path, "a/clip.NFO", "a/clip.mp4.part", "a/clip", "a/Thumbs.db", "a/desktop.ini")
    touch(tmp_path, "a/x.mp4.part-Frag7", "a/live.m3u8", "a/about.nfo", "a/notes.txt")
    touch(tmp_path, "a/song.wav", "a/anim.gif", "a/odd.xyz", "b/clip.xyz")
    touch(tmp_path, "lost+found/1.avi", "__MACOSX/1.avi", "a/@eaDir/clip.mp4/1.avi")
    catalog = read_catalog("folders", str(tmp_path))
    assert [video.path for video in catalog.videos] == [
        "a/anim.gif",
        "a/clip.MP4",
        "a/odd.xyz",
        "a/song.wav",
        "b/clip.xyz",
    ]
    assert catalog.warnings == (
        "12 files that are no videos by their names (2 .nfo, 1 .db, 1 without suffix, 1 .gif, "
        "1 .jpg and 6 more), left out",
    )


def test_two_videos_of_one_name_are_refused_whatever_the_case_of_their_suffix(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a/clip.mp4", "a/clip.MP4")
    with pytest.raises(InputError, match=r"two videos with one key 'a/clip': a/clip\.MP4 and"):
        read_catalog("folders", str(tmp_path))


def test_a_csv_may_name_what_would_not_be_taken_for_a_video(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.mp4", "root/a.srt", "root/b.nfo")
    (tmp_path / "my.csv").write_text("path,label\na.mp4,x\nb.nfo,x\n")
    catalog = read_catalog("csv", str(tmp_path / "root"), annotations=str(tmp_path / "my.csv"))
    assert rows(catalog) == [("a.mp4", 0, "train", True), ("b.nfo", 0, "train", True)]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["a/1.avi", "a/2.gif", "a/deep/3.avi", "b/1.avi"]),
        (("*.gif",), ["a/1.avi", "a/deep/3.avi", "b/1.avi"]),
        (("1.avi",), ["a/2.gif", "a/deep/3.avi"]),
        (("a/*.avi",), ["a/2.gif", "a/deep/3.avi", "b/1.avi"]),
        (("a/**/*.avi",), ["a/2.gif", "b/1.avi"]),
        (("deep",), ["a/1.avi", "a/2.gif", "b/1.avi"]),
        (("deep/",), ["a/1.avi", "a/2.gif", "b/1.avi"]),
        (("/deep", "?.gif"), ["a/1.avi", "a/deep/3.avi", "b/1.avi"]),
        (("a", "nothing"), ["b/1.avi"]),
    ],
)
def test_what_a_pattern_fits_is_left_out_of_folders_and_of_lists(
    tmp_path: Path, exclude: tuple[str, ...], left: list[str]
) -> None:
    files = ["a/1.avi", "a/2.gif", "a/deep/3.avi", "b/1.avi"]
    root = touch(tmp_path / "root", *files)
    by_folder = read_catalog("folders", str(root), exclude=exclude)
    assert [video.path for video in by_folder.videos] == left
    (tmp_path / "my.csv").write_text("path,label\n" + "".join(f"{file},x\n" for file in files))
    by_list = read_catalog("csv", str(root), annotations=str(tmp_path / "my.csv"), exclude=exclude)
    assert [video.path for video in by_list.videos] == left
    assert all(video.present for video in by_list.videos)
    assert bool(exclude) == any("by dataset.exclude" in line for line in by_list.warnings)


def test_a_pattern_that_fits_nothing_is_told(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/1.avi", "a/2.gif")
    catalog = read_catalog("folders", str(root), exclude=("/", ".", "*.gif", "*.GIF"))
    assert catalog.warnings == (
        "1 files or folders (a/2.gif) left out by dataset.exclude; none for /, ., *.GIF",
    )


def test_names_that_are_not_utf_8_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.avi", "a/\udcff.avi", "b\udcfe/2.avi", "b/new\nline.avi", "b/back\\.avi")
    catalog = read_catalog("folders", str(touch(tmp_path, "b/3.avi")))
    assert [video.path for video in catalog.videos] == ["a/1.avi", "b/3.avi"]
    (line,) = catalog.warnings
    assert line.startswith("4 paths ('a/\\udcff.avi', 'b/back\\\\.avi', 'b/new\\nline.avi', ")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("kind", ["folders", "ucf101", "kinetics", "csv", "rawframes"])
def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = touch(tmp_path / "root", "a/v/1.jpg", "b/v/1.jpg", "a/1.avi", "b/2.avi")
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder) == root / "b":
            raise OSError(errno.EIO, "Input/output error", str(folder))
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"root/b: cannot be read \(Input/output error\)"):
        read_catalog(kind, str(root), splits=str(root), annotations=str(root / "x.csv"))
    (tmp_path / "my.csv").write_text("path,label\na/1.avi,x\n")
    read_catalog("csv", str(root), annotations=str(tmp_path / "my.csv"), exclude=("b",))


def test_a_link_that_cannot_be_looked_at_is_an_error(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "a/1.avi")
    (root / "b").symlink_to("x" * 300)
    with pytest.raises(InputError, match=r"root/b: cannot be read \(File name too long\)"):
        read_catalog("folders", str(root))


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("kind", ["folders", "csv"])
def test_one_file_under_two_names_is_refused_and_both_are_named(
    tmp_path: Path, kind: str, link: bool
) -> None:
    root = touch(tmp_path / "root", "train/a/1.avi", "val/a/2.avi")
    twin = root / "val" / "a" / "3.avi"
    twin.symlink_to("../../train/a/1.avi") if link else twin.hardlink_to(root / "train/a/1.avi")
    table = tmp_path / "my.csv"
    table.write_text("path,label,split\ntrain/a/1.avi,a,train\nval/a/3.avi,a,val\n")
    with pytest.raises(InputError) as caught:
        read_catalog(kind, str(root), annotations=str(table))
    assert str(caught.value) == (
        f"{root}: train/a/1.avi and val/a/3.avi are one file, reached by two ways; expected each "
        "video once: remove one, or leave it out by dataset.exclude or a list; a copy (cp) is a "
        "video of its own"
    )
    # A list that names each file once may do so through links.
    table.write_text("path,label,split\nval/a/2.avi,a,train\nval/a/3.avi,a,val\n")
    catalog = read_catalog("csv", str(root), annotations=str(table))
    assert all(video.present for video in catalog.videos)
    read_catalog("folders", str(root), exclude=("train/a/1.avi",))


def test_links_among_many_folders_come_to_an_end(tmp_path: Path) -> None:
    for name in "abcdefghij":
        touch(tmp_path, f"{name}/1.avi")
        for other in "abcdefghij":
            (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    with pytest.raises(
        InputError, match="in more than 100 ways; remove those that lead in circles"
    ):
        read_catalog("folders", str(tmp_path))


@pytest.mark.parametrize("link", ["Bowling", "train/Bowling", "U.S. flag", "v1.0"])
def test_a_broken_link_where_a_class_folder_may_have_been_is_an_error(
    tmp_path: Path, link: str
) -> None:
    root = touch(tmp_path / "root", *(f"{Path(link).parent}/{name}/1.avi" for name in "ab"))
    (root / link).symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=rf"^{link}: "):
        read_catalog("folders", str(root))


def test_class_folders_that_hold_no_video_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.avi", "c/1.avi", "d/all.txt", "e\udcff/1.avi")
    (tmp_path / "b" / "deep").mkdir(parents=True)
    catalog = read_catalog("folders", str(tmp_path))
    assert catalog.classes == ("a", "c")
    assert catalog.warnings[0] == "2 folders (b/deep, d) hold no video"


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.avi")
    os.mkfifo(tmp_path / "a" / "pipe.avi")
    assert [v.path for v in read_catalog("folders", str(tmp_path)).videos] == ["a/1.avi"]


@pytest.mark.parametrize("folder", ["videos", "splits", "elsewhere"])
def test_split_lists_are_found_in_the_root_beside_it_or_where_told(
    tmp_path: Path, folder: str
) -> None:
    touch(tmp_path, "videos/Jack/v_Jack_g01.avi", f"{folder}/x.txt")
    for name, text in LISTS.items():
        (tmp_path / folder / name).write_text(text)
    splits = str(tmp_path / folder) if folder == "elsewhere" else None
    assert len(read_catalog("ucf101", str(tmp_path / "videos"), splits=splits).videos) == 4


def test_what_is_not_there_is_told_in_one_line_with_its_path(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "a.avi")
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "my.csv").write_text("path,label\nb.avi,x\nc.avi,x\n")
    absent = tmp_path / "absent"
    (tmp_path / "half").mkdir()
    for name in ("classInd.txt", "testlist07.txt"):
        (tmp_path / "half" / name).write_text("1 a\n")
    beside = f"{tmp_path}/half/trainlist07.txt; there is classInd.txt, testlist07.txt"
    for arguments, message in [
        ({"kind": "folders", "root": str(absent)}, f"dataset.root {absent}: no such folder"),
        ({"kind": "ucf101", "root": str(root)}, "dataset.splits: not set, and no classInd.txt in"),
        ({"kind": "ucf101", "root": str(root), "splits": str(tmp_path / "half")}, beside),
        ({"kind": "hmdb51", "root": str(root)}, "dataset.splits: not set, and no *_test_split"),
        ({"kind": "csv", "root": str(root)}, "dataset.annotations: not set; a dataset of kind csv"),
        ({"kind": "csv", "root": str(root), "annotations": str(absent)}, f"no file {absent}"),
        (
            {"kind": "csv", "root": str(root), "annotations": str(tmp_path / "my.csv")},
            f"dataset.root {root}: holds none of the 2 videos that the lists name; first looked "
            "for: b.avi",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            read_catalog(**arguments)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_list_without_videos_is_an_empty_catalog(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("path,label\n")
    catalog = read_catalog("csv", str(tmp_path), annotations=str(tmp_path / "my.csv"))
    assert catalog == Catalog((), (), ())


@pytest.mark.real
def test_the_official_ucf101_lists_name_13320_videos(real_data: Path) -> None:
    catalog = read_catalog("ucf101", str(real_data / "ucf101" / "videos"))
    sizes = {one.name: len(one.keys) for one in catalog.lists}
    assert sizes == {
        **{"train1": 9537, "test1": 3783, "train2": 9586, "test2": 3734},
        **{"train3": 9624, "test3": 3696},
    }
    assert Counter(video.split for video in catalog.videos) == {"train": 9537, "test": 3783}
    assert len(catalog.videos) == 13_320
    assert len(catalog.classes) == 101
    assert sum(video.present for video in catalog.videos) == 67
    assert len(catalog.warnings) == 1
    assert catalog.warnings[0].startswith(
        "55 classes of the lists have no folder: ApplyEyeMakeup (145 videos)"
    )


@pytest.mark.real
def test_several_kinetics_csvs_are_one_catalog(real_data: Path, tmp_path: Path) -> None:
    touch(tmp_path, "abseiling/_4YTwq0-73Y_000044_000054.mp4", "-3B32lodo2M_000059_000069.mkv")
    splits = real_data / "kinetics400" / "splits"
    tables = tuple(str(splits / name) for name in ("tiny_train.csv", "tiny_val.csv"))
    catalog = read_catalog("kinetics", str(tmp_path), annotations=tables)
    assert Counter(video.split for video in catalog.videos) == {"train": 400, "val": 400}
    assert [video.path for video in catalog.videos if video.present] == [
        "-3B32lodo2M_000059_000069.mkv",
        "abseiling/_4YTwq0-73Y_000044_000054.mp4",
    ]


@pytest.mark.real
def test_all_awkward_files_are_in_the_catalog(real_data: Path) -> None:
    catalog = read_catalog("folders", str(real_data / "awkward"))
    assert len(catalog.videos) == 31
    assert catalog.classes == ("awkward",)
    assert catalog.videos[0].key == "-moviepy-leading-dash-"
