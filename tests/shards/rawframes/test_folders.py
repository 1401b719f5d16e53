"""Folders of frames are the same videos for `dataset.kind: rawframes` and for `shards import`: one
table of folders, both roads.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.shards.rawframes.folders import list_frame_folders
from twinstream.shards.rawframes.names import ListedVideo, list_text
from twinstream.shards.rawframes.videos import found_videos, listed_videos


@dataclass(frozen=True)
class Found:
    """What a road makes of a root: (path, key, class, label, split) of each video by key."""

    videos: list[tuple[str, str, str, int, str]]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]


def by_preprocess(root: Path) -> Found:
    catalog = read_catalog("rawframes", str(root))
    videos = [(v.path, v.key, v.class_name, v.label, v.split) for v in catalog.videos]
    return Found(sorted(videos), catalog.classes, catalog.warnings)


def by_import(root: Path) -> Found:
    found = found_videos(root, None)
    videos = [(v.path, v.key, v.class_name, v.label, v.split) for v in found.videos]
    return Found(sorted(videos), found.classes, found.warnings)


ROADS = pytest.mark.parametrize("road", [by_preprocess, by_import])
Road = Callable[[Path], Found]


def draw(root: Path, *files: str) -> Path:
    """Empty files, as the names are all that counts; a path that ends with `/` is a folder."""
    for file in files:
        path = root / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.touch()
    return root


@pytest.mark.parametrize(
    ("files", "videos"),
    [
        (["a/v/img_00001.jpg", "b/v/img_00001.jpg"], ["a/v a/v a 0 train", "b/v b/v b 1 train"]),
        (["a/v.1.avi/img_1.jpg"], ["a/v.1.avi a/v_1_avi a 0 train"]),
        (
            ["train/a/v/1.jpg", "val/b/v/1.jpg"],
            ["train/a/v train/a/v a 0 train", "val/b/v val/b/v b 1 val"],
        ),
        (["Training/a/v/1.jpg"], ["Training/a/v Training/a/v a 0 train"]),
        (["validation/a/v/1.jpg"], ["validation/a/v validation/a/v a 0 val"]),
        (["VALID/a/v/1.jpg"], ["VALID/a/v VALID/a/v a 0 val"]),
        (["testing/a/v/1.jpg"], ["testing/a/v testing/a/v a 0 test"]),
        (["test/a/deep/v/1.jpg"], ["test/a/deep/v test/a/deep/v a 0 test"]),
        (
            ["rawframes_train/a/v/1.jpg", "val_256/a/w/1.jpg"],
            [
                "rawframes_train/a/v rawframes_train/a/v a 0 train",
                "val_256/a/w val_256/a/w a 0 val",
            ],
        ),
        (["v1/1.jpg", "v2/1.jpg"], ["v1 v1 root 0 train", "v2 v2 root 0 train"]),
        (["a/v/frame_00001.jpg"], ["a/v a/v a 0 train"]),
        (["a/v/00001.jpg"], ["a/v a/v a 0 train"]),
        (["a/v/IMG_1.JPG"], ["a/v a/v a 0 train"]),
        (["a/v/7.png"], ["a/v a/v a 0 train"]),
        (["a/v/img_1.jpg", "a/v/deeper/img_1.jpg"], ["a/v a/v a 0 train"]),
        (["a/v/flow_x_1.jpg", "a/v/deeper/img_1.jpg"], ["a/v/deeper a/v/deeper a 0 train"]),
        (["a/v/._img_1.jpg", "a/v/deeper/img_1.jpg"], ["a/v/deeper a/v/deeper a 0 train"]),
        (["a/lost/", "a/v/img_1.jpg"], ["a/lost a/lost a 0 train", "a/v a/v a 0 train"]),
        (["a/lost/notes.txt"], ["a/lost a/lost a 0 train"]),
        (["a/v/img_1.jpg", "a/.v/img_1.jpg", ".a/v/img_1.jpg"], ["a/v a/v a 0 train"]),
        (["é日/v/1.jpg"], ["é日/v é日/v é日 0 train"]),
    ],
)
@ROADS
def test_folders_have_one_key_class_and_split(
    road: Road, tmp_path: Path, files: list[str], videos: list[str]
) -> None:
    found = road(draw(tmp_path / "root", *files))
    assert [" ".join(map(str, video)) for video in found.videos] == videos
    assert found.classes == tuple(sorted({video[2] for video in found.videos}))
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a/v.1/1.jpg", "a/v_1/1.jpg"],
            "two videos with one key 'a/v_1': a/v.1 and a/v_1; rename one",
        ),
        (["a/v\n1/1.jpg"], "'a/v\\n1': not a usable path; expected one below the root, in UTF-8,"),
        (["a\n/v/1.jpg"], "'a\\n/v': not a usable path; expected one below the root, in UTF-8,"),
        (["a/v\x1b[31m/1.jpg"], "'a/v\\x1b[31m': not a usable path; expected one below the root,"),
        (["a/v\u2028/1.jpg"], "'a/v\\u2028': not a usable path; expected one below the root,"),
        (["a/v\\w/1.jpg"], "'a/v\\\\w': not a usable path; expected one below the root,"),
        (["a/v\udcff/1.jpg"], "'a/v\\udcff': not a usable path; expected one below the root,"),
        (
            ["train/a/v/1.jpg", "val/v/1.jpg"],
            "val/v: in a split's folder but in no class's; expected",
        ),
        (
            ["train/a/v/1.jpg", "extra/b/v/1.jpg"],
            "root: top folders named like splits (train) beside others (extra); expected",
        ),
        (
            ["Train1/a/v/1.jpg", "Test1/a/v/1.jpg", "b/v/1.jpg"],
            "root: top folders Test1 and Train1 seem to be splits, not classes; name them train",
        ),
        (
            ["k400/train/a/v/1.jpg", "k400/val/a/v/1.jpg"],
            "root: folders named like splits below others (k400/train, k400/val); expected SPLIT",
        ),
        (
            ["a/train/v/1.jpg", "b/test/v/1.jpg"],
            "root: folders named like splits below others (a/train, b/test); expected SPLIT/CLASS",
        ),
        (["1.jpg"], "holds images itself; expected CLASS/VIDEO/img_00001.jpg below it"),
    ],
)
@ROADS
def test_folders_that_no_dataset_could_hold_are_refused_in_one_line(
    road: Road, tmp_path: Path, files: list[str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        road(draw(tmp_path / "root", *files))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@ROADS
def test_a_video_beside_class_folders_is_left_out_with_a_word(road: Road, tmp_path: Path) -> None:
    found = road(draw(tmp_path, "a/v/1.jpg", "loose/1.jpg", "empty/"))
    assert [path for path, *_ in found.videos] == ["a/v"]
    assert found.warnings == ("2 folders (empty, loose) in no class folder, left out",)


@ROADS
def test_a_pipe_named_like_a_frame_is_none(road: Road, tmp_path: Path) -> None:
    root = draw(tmp_path, "a/v/deep/1.jpg", "b/v/1.jpg")
    os.mkfifo(root / "a" / "v" / "1.jpg")
    assert [path for path, *_ in road(root).videos] == ["a/v/deep", "b/v"]


@ROADS
def test_classes_that_differ_in_spelling_only_are_told(road: Road, tmp_path: Path) -> None:
    found = road(draw(tmp_path, "run fast/v/1.jpg", "Run_fast/v/1.jpg", "a/train/v/1.jpg"))
    assert [video[2] for video in found.videos] == ["Run_fast", "a", "run fast"]
    assert found.warnings == ("classes that differ in spelling only: Run_fast / run fast",)


@ROADS
def test_a_linked_folder_is_followed_and_keyed_by_its_own_name(road: Road, tmp_path: Path) -> None:
    draw(tmp_path, "disk2/deep/v1/1.jpg", "disk2/v2/1.jpg", "disk3/1.jpg", "root/a/v/1.jpg")
    (tmp_path / "root" / "a" / "link").symlink_to("../../disk3")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "disk2")
    (tmp_path / "root" / "a" / "broken").symlink_to("nowhere")
    found = road(tmp_path / "root")
    assert [path for path, *_ in found.videos] == ["a/link", "a/v", "b/deep/v1", "b/v2"]
    assert found.warnings == ("1 links (a/broken) that lead nowhere, left out",)


@ROADS
def test_a_broken_link_where_a_class_folder_may_have_been_is_an_error(
    road: Road, tmp_path: Path
) -> None:
    root = draw(tmp_path / "root", "train/a/v/1.jpg", "train/b/v/1.jpg")
    (root / "train" / "c").symlink_to(tmp_path / "unmounted")
    with pytest.raises(
        InputError, match=r"^train/c: a link that leads nowhere, and train/c has no"
    ):
        road(root)
    (root / "train" / "c").unlink()
    draw(root, "train/c/")
    (root / "train" / "c" / "v").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"^train/c/v: a link that leads nowhere, and train/c has"):
        road(root)


@ROADS
def test_one_folder_by_two_ways_is_refused_and_both_are_named(road: Road, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", "a/v/1.jpg", "b/v/1.jpg")
    (root / "a" / "w").symlink_to("../b/v")
    with pytest.raises(InputError, match="root: a/w and b/v are one file, reached by two ways;"):
        road(root)


@ROADS
def test_names_that_are_not_usable_are_told_and_the_others_go_on(
    road: Road, tmp_path: Path
) -> None:
    found = road(draw(tmp_path, "a/v/1.jpg", "a/\udcff/1.jpg", "b\n/v/1.jpg", "lost+found/v/1.jpg"))
    assert [path for path, *_ in found.videos] == ["a/v"]
    assert found.warnings == (
        "2 paths ('a/\\udcff', 'b\\n/v') that are not UTF-8 or have backslashes or control "
        "characters, left out; rename them",
    )


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"a/up": ".."}, ["a/v", "b/v"]),
        ({"a/above": "../.."}, ["a/v", "b/v"]),
        ({"a/self": "self"}, ["a/v", "b/v"]),
        ({"a/one": "../../c", "../c/two": "../root/a"}, ["a/one/w", "a/v", "b/v"]),
    ],
)
@ROADS
def test_links_in_a_circle_come_to_an_end(
    road: Road, tmp_path: Path, links: dict[str, str], expected: list[str]
) -> None:
    root = draw(tmp_path / "root", "a/v/1.jpg", "b/v/1.jpg")
    draw(tmp_path, "c/w/1.jpg")
    for link, target in links.items():
        (root / link).symlink_to(target)
    assert [path for path, *_ in road(root).videos] == expected


@ROADS
def test_a_root_that_is_not_there_is_named(road: Road, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        road(tmp_path / "absent")


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        list_frame_folders(tmp_path)


def class_of(folder: str) -> str:
    return folder.strip("/").split("/")[0]


def by_csv(root: Path, folders: list[str]) -> Found:
    table = root.parent / "Validation.csv"
    rows = "".join(f"{folder},{class_of(folder)},Validation\n" for folder in folders)
    table.write_text(f"path,label,split\n{rows}")
    catalog = read_catalog("rawframes", str(root), annotations=str(table))
    videos = [(v.path, v.key, v.class_name, v.label, v.split) for v in catalog.videos]
    return Found(sorted(videos), catalog.classes, catalog.warnings)


def by_list(root: Path, folders: list[str]) -> Found:
    table = root.parent / "Validation_rawframes.txt"
    classes = tuple(sorted({class_of(folder) for folder in folders}))
    lines = [ListedVideo(folder, 4, classes.index(class_of(folder))) for folder in folders]
    table.write_text(list_text(lines))
    found = listed_videos(root, [table], classes)
    videos = [(v.path, v.key, v.class_name, v.label, v.split) for v in found.videos]
    return Found(sorted(videos), found.classes, found.warnings)


LISTS = pytest.mark.parametrize("road", [by_csv, by_list])
ListRoad = Callable[[Path, list[str]], Found]


@LISTS
def test_a_csv_and_an_annotation_list_name_the_same_videos(road: ListRoad, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", "a/v.1/1.jpg", "b/a b/1.jpg", "one/1.jpg")
    assert road(root, ["a/v.1/", "b/./a b", "one", "a/absent"]).videos == [
        ("a/absent", "a/absent", "a", 0, "val"),
        ("a/v.1", "a/v_1", "a", 0, "val"),
        ("b/a b", "b/a b", "b", 1, "val"),
        ("one", "one", "one", 2, "val"),
    ]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["a/v", "../v"], "'../v': not a usable path; expected one below the root"),
        (["a/v", "/etc/v"], "'/etc/v': not a usable path; expected one below the root"),
        (["a/v", "a\\v"], "'a\\\\v': not a usable path; expected one below the root"),
        (["a/v", "a/\x1bv"], "'a/\\x1bv': not a usable path; expected one below the root"),
        (["a/v.1", "a/v_1"], "two videos with one key 'a/v_1': a/v.1 and a/v_1; rename one"),
        (["a/v", "a/v"], "expected each video once"),
    ],
)
@LISTS
def test_a_csv_and_an_annotation_list_refuse_the_same_paths(
    road: ListRoad, tmp_path: Path, folders: list[str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        road(draw(tmp_path / "root", "a/v/1.jpg"), folders)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\x7fb", "a\udcffb"])
def test_a_class_name_with_control_characters_is_refused_by_both(name: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", "a/v/1.jpg")
    (tmp_path / "test.txt").write_text("a/v 4 0\n")
    with pytest.raises(InputError, match=r"label 0: class .*; expected a name without control"):
        listed_videos(root, [tmp_path / "test.txt"], (name,))
    with pytest.raises(InputError, match=r"label 1: class .*; expected a name without control"):
        found_videos(root, ("a", name))
