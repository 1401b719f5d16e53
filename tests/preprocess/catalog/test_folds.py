"""UCF-101 and HMDB-51: every list is a split, the shards have those of the first pair."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from tests.support.catalogs import LISTS, rows
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog
from twinstream.preprocess.catalog.folds import ucf101_catalog
from twinstream.preprocess.catalog.kinds import read_catalog

UCF101 = {
    "classInd.txt": "1 Bend\r\n2 Jack\r\n",
    "trainlist01.txt": "Bend/v_Bend_g01.avi 1\r\nJack/v_Jack_g01.avi 2\r\n",
    "testlist01.txt": "Jack/v_Jack_g02.avi\n",
    "trainlist02.txt": "Jack/v_Jack_g02.avi 2\nBend/v_Bend_g02.avi 1\n",
    "testlist02.txt": "Bend/v_Bend_g01.avi\n",
}
HMDB51 = {
    "bend_test_split1.txt": "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
    "jack_up_test_split1.txt": "x(1).avi 1\ny.avi 2\n",
    "bend_test_split2.txt": "a.avi 2\nb.avi 0\nc.avi 1\n",
    "jack_up_test_split2.txt": "x(1).avi 1\ny.avi 2\n",
}


def written(folder: Path, lists: dict[str, str], *videos: str) -> Path:
    (folder / "splits").mkdir(parents=True)
    for name, text in lists.items():
        (folder / "splits" / name).write_text(text, newline="")
    for path in videos:
        (folder / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "videos" / path).touch()
    return folder / "videos"


def splits_of(catalog: Catalog) -> dict[str, str]:
    return {video.key: video.split for video in catalog.videos}


def lists_of(catalog: Catalog) -> dict[str, list[str]]:
    return {one.name: sorted(one.keys) for one in catalog.lists}


def test_every_list_of_ucf101_is_a_split_and_the_first_pair_those_of_the_shards(
    tmp_path: Path,
) -> None:
    videos = ("Bend/v_Bend_g01.avi", "Bend/v_Bend_g02.avi", "Jack/v_Jack_g01.avi")
    catalog = read_catalog("ucf101", str(written(tmp_path, UCF101, *videos)))
    assert splits_of(catalog) == {
        "Bend/v_Bend_g01": "train",
        "Bend/v_Bend_g02": "rest",
        "Jack/v_Jack_g01": "train",
        "Jack/v_Jack_g02": "test",
    }
    assert lists_of(catalog) == {
        "train1": ["Bend/v_Bend_g01", "Jack/v_Jack_g01"],
        "test1": ["Jack/v_Jack_g02"],
        "train2": ["Bend/v_Bend_g02", "Jack/v_Jack_g02"],
        "test2": ["Bend/v_Bend_g01"],
    }
    assert catalog.fold == 1


def test_a_list_is_known_by_the_digest_of_its_file(tmp_path: Path) -> None:
    root = written(tmp_path, UCF101, "Bend/v_Bend_g01.avi")
    (first, *_) = read_catalog("ucf101", str(root)).lists
    data = (tmp_path / "splits" / "trainlist01.txt").read_bytes()
    assert (first.source, first.sha256) == ("trainlist01.txt", hashlib.sha256(data).hexdigest())


def test_without_the_first_lists_the_shards_have_the_splits_of_the_lowest(tmp_path: Path) -> None:
    lists = {name: text for name, text in UCF101.items() if "01" not in name}
    catalog = read_catalog("ucf101", str(written(tmp_path, lists, "Bend/v_Bend_g01.avi")))
    assert Counter(splits_of(catalog).values()) == {"train": 2, "test": 1}
    assert catalog.fold == 2


def test_a_later_list_without_its_pair_is_stored_and_the_first_must_be_a_pair(
    tmp_path: Path,
) -> None:
    root = written(tmp_path, UCF101, "Bend/v_Bend_g01.avi")
    (tmp_path / "splits" / "testlist02.txt").unlink()
    assert [*lists_of(read_catalog("ucf101", str(root)))] == ["train1", "test1", "train2"]
    (tmp_path / "splits" / "testlist01.txt").unlink()
    with pytest.raises(InputError, match=r"no file .*testlist01\.txt; there is classInd"):
        read_catalog("ucf101", str(root))


@pytest.mark.parametrize("number", [1, 2])
def test_a_video_in_both_lists_of_a_pair_is_refused(tmp_path: Path, number: int) -> None:
    name = f"testlist0{number}.txt"
    taken = UCF101[f"trainlist0{number}.txt"].split()[0]
    root = written(tmp_path, UCF101 | {name: f"{taken}\n"}, "Bend/v_Bend_g01.avi")
    with pytest.raises(InputError, match=f"{name} line 1: {taken} is in trainlist0{number}.txt"):
        read_catalog("ucf101", str(root))


def test_hmdb51_has_the_splits_of_its_lists_and_leaves_out_what_none_uses(tmp_path: Path) -> None:
    videos = ("bend/a.avi", "bend/b.avi", "bend/c.avi", "bend/d.avi", "jack_up/x(1).avi")
    catalog = read_catalog("hmdb51", str(written(tmp_path, HMDB51, *videos)))
    assert catalog.classes == ("bend", "jack_up")
    assert splits_of(catalog) == {
        "bend/a": "train",
        "bend/b": "test",
        "bend/c": "rest",
        "jack_up/x(1)": "train",
        "jack_up/y": "test",
    }
    assert lists_of(catalog) == {
        "train1": ["bend/a", "jack_up/x(1)"],
        "test1": ["bend/b", "jack_up/y"],
        "test2": ["bend/a", "jack_up/y"],
        "train2": ["bend/c", "jack_up/x(1)"],
    }
    assert [video.key for video in catalog.videos if not video.present] == ["jack_up/y"]
    assert catalog.warnings == ("1 files (bend/d.avi) that no list names, left out",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bend_test_split1.txt": "a.avi 3\n"}, "bend_test_split1.txt line 1: 'a.avi 3'; expected"),
        ({"bend_test_split1.txt": "a.avi 1\na.avi 2\n"}, "bend_test_split1.txt line 2: bend/a.avi"),
        ({"bow_test_split2.txt": "a.avi 1\n"}, "no bow_test_split1.txt, though other classes have"),
    ],
)
def test_lists_of_hmdb51_that_cannot_be_meant_are_refused(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    root = written(tmp_path, HMDB51 | change, "bend/a.avi")
    with pytest.raises(InputError) as caught:
        read_catalog("hmdb51", str(root))
    assert message in str(caught.value)


def test_what_is_excluded_is_in_no_list(tmp_path: Path) -> None:
    root = written(tmp_path, UCF101, "Jack/v_Jack_g01.avi")
    catalog = read_catalog("ucf101", str(root), exclude=("Bend",))
    assert lists_of(catalog)["train2"] == ["Jack/v_Jack_g02"]
    assert lists_of(catalog)["test2"] == []


def test_ucf101_labels_are_class_numbers_less_one_and_absent_files_stay() -> None:
    catalog = ucf101_catalog(LISTS, ["Jack/v_Jack_g01.avi"])
    assert catalog.classes == ("Bend", "HandstandPushups", "Jack")
    assert rows(catalog) == [
        ("Bend/v_Bend_g01.avi", 0, "train", False),
        ("HandstandPushups/v_HandStandPushups_g01.avi", 1, "train", False),
        ("Jack/v_Jack_g01.avi", 2, "test", True),
        ("Jack/v_Jack_g02.avi", 2, "test", False),
    ]
    assert catalog.warnings == (
        "2 classes of the lists have no folder: Bend (1 videos), HandstandPushups (1 videos)",
    )


def test_case_may_differ_between_list_and_disk_and_an_exact_match_wins() -> None:
    files = [
        "HandStandPushups/v_HandstandPushups_g01.avi",
        "bend/v_bend_g01.avi",
        "Bend/v_Bend_g01.avi",
    ]
    catalog = ucf101_catalog(LISTS, files)
    assert [video.path for video in catalog.videos if video.present] == [
        "Bend/v_Bend_g01.avi",
        "HandStandPushups/v_HandstandPushups_g01.avi",
    ]
    assert {video.class_name for video in catalog.videos if video.present} == {
        "Bend",
        "HandstandPushups",
    }


def test_files_that_no_list_names_are_told_in_one_line() -> None:
    files = [f"Bend/{number}.avi" for number in range(7)] + [
        "Jack/v_Jack_g01.avi",
        "HandstandPushups/x.avi",
    ]
    assert ucf101_catalog(LISTS, files).warnings == (
        "8 files (Bend/0.avi, Bend/1.avi, Bend/2.avi, Bend/3.avi, Bend/4.avi and 3 more) that no "
        "list names, left out",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "trainlist01.txt",
            "Run/a.avi 4\n",
            "trainlist01.txt line 1: class 'Run' is not in classInd.txt",
        ),
        (
            "trainlist01.txt",
            "Jack/a.avi 1\n",
            "trainlist01.txt line 1: Jack is class 3 in classInd.txt, the line says 1",
        ),
        (
            "testlist01.txt",
            "\nBend/v_Bend_g01.avi\n",
            "testlist01.txt line 2: Bend/v_Bend_g01.avi is in trainlist01.txt line 1 already; "
            "expected each video once",
        ),
    ],
)
def test_lists_that_contradict_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ucf101_catalog(LISTS | {name: text}, [])
    assert str(caught.value) == message


@pytest.mark.real
def test_handstand_pushups_is_found_whatever_the_case_of_its_folder(real_data: Path) -> None:
    splits = real_data / "ucf101" / "splits"
    names = ("classInd.txt", "trainlist01.txt", "testlist01.txt")
    lists = {name: (splits / name).read_text() for name in names}
    for folder in ("HandstandPushups", "HandStandPushups"):
        catalog = ucf101_catalog(lists, [f"{folder}/v_HandStandPushups_g08_c03.avi"])
        (video,) = (video for video in catalog.videos if video.present)
        assert (video.class_name, catalog.classes[video.label]) == (
            "HandstandPushups",
            "HandstandPushups",
        )
