"""The catalog: every video that a list names and every file that could be one, with label, split
and key.
"""

from pathlib import Path

import pytest

from tests.support.catalogs import rows
from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import (
    VIDEO,
    Video,
    csv_catalog,
    folders_catalog,
    kinetics_catalog,
)
from twinstream.shards.format.columns import Records, values
from twinstream.shards.format.listings import Listed, parse_csv, parse_kinetics

KINETICS_HEAD = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\x7fb", "a\u2029b", "a\udcffb"])
def test_a_class_with_control_characters_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(InputError) as caught:
        csv_catalog([Listed("x.avi", name, "train", "my.csv line 2")], ["x.avi"])
    assert (
        str(caught.value)
        == f"my.csv line 2: class {name!r}; expected a name without control characters"
    )


def test_kinetics_files_are_found_flat_and_in_class_folders() -> None:
    text = KINETICS_HEAD + "air drumming,-a,1,11,train\nzumba,_b,2,12,val\nzumba,c,3,13,val\n"
    files = ["_b_000002_000012.webm", "air_drumming/-a_000001_000011.mp4"]
    catalog = kinetics_catalog(parse_kinetics(text, "k.csv"), files)
    assert catalog.classes == ("air drumming", "zumba")
    assert rows(catalog) == [
        ("_b_000002_000012.webm", 1, "val", True),
        ("air_drumming/-a_000001_000011.mp4", 0, "train", True),
        ("c_000003_000013", 1, "val", False),
    ]


def test_two_files_of_one_kinetics_clip_are_refused() -> None:
    with pytest.raises(InputError, match=r"two files of one name, a_1\.mp4 and x/a_1\.webm"):
        kinetics_catalog([], ["a_1.mp4", "x/a_1.webm"])


@pytest.mark.parametrize(
    ("files", "classes", "splits"),
    [
        (["a/1.avi", "b/2.avi"], ("a", "b"), ["train", "train"]),
        (["Train/a/1.avi", "validation/b c/2.avi"], ("a", "b c"), ["train", "val"]),
        (["videos_train/a/1.avi", "videos_val/a/2.avi"], ("a",), ["train", "val"]),
        (["train_256/a/1.avi", "TEST/b/2.avi"], ("a", "b"), ["train", "test"]),
        (["1.avi", "2.gif"], ("root",), ["train", "train"]),
        (["test/a/deep/1.avi"], ("a",), ["test"]),
    ],
)
def test_folders_are_splits_and_classes_or_classes_or_nothing(
    files: list[str], classes: tuple[str, ...], splits: list[str]
) -> None:
    catalog = folders_catalog(files, "root")
    assert catalog.classes == classes
    assert sorted(video.split for video in catalog.videos) == sorted(splits)
    assert sorted(video.path for video in catalog.videos) == sorted(files)


@pytest.mark.parametrize("top", ["extra", "replacement", "minival", "test_2"])
def test_splits_beside_other_top_folders_are_refused_and_both_named(top: str) -> None:
    files = ["train/a/1.avi", "val/a/2.avi", f"{top}/b/2.avi"]
    with pytest.raises(InputError) as caught:
        folders_catalog(files, "k400")
    assert str(caught.value) == (
        f"k400: top folders named like splits (train, val) beside others ({top}); expected "
        "SPLIT/CLASS for all or CLASS for all: leave some out, rename them, or give a list that "
        "names the class and split of each video"
    )


def test_two_top_folders_of_one_split_are_refused() -> None:
    with pytest.raises(InputError, match="k400: top folders train and train_256 are both of split"):
        folders_catalog(["train/a/1.avi", "train_256/a/1.avi"], "k400")


def test_a_file_beside_class_folders_is_left_out_with_a_word() -> None:
    catalog = folders_catalog(["a/1.avi", "loose.avi"], "root")
    assert [video.path for video in catalog.videos] == ["a/1.avi"]
    assert catalog.warnings == ("1 files (loose.avi) in no class folder, left out",)


def test_a_file_in_a_split_but_in_no_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"val/2\.avi: in a split's folder but in no class's"):
        folders_catalog(["train/a/1.avi", "val/2.avi"], "root")


def test_two_videos_with_one_key_are_both_named() -> None:
    with pytest.raises(InputError) as caught:
        folders_catalog(["a/v.1.avi", "a/v_1.mp4"], "root")
    assert (
        str(caught.value) == "two videos with one key 'a/v_1': a/v.1.avi and a/v_1.mp4; rename one"
    )


@pytest.mark.parametrize("names", [["key"], ["label", "key"], ["path"], None])
def test_keys_are_made_of_paths_when_they_are_looked_at(names: list[str] | None) -> None:
    listed = parse_csv("path,label\nb/v.2.avi,run\na/v.1.avi,run\nb/.avi,walk\n", "my.csv")
    videos = csv_catalog(listed, ["a/v.1.avi"]).videos
    assert isinstance(videos, Records)
    assert "key" not in videos.table.column_names
    rows = videos.rows(videos.by_key, names)
    assert rows.column_names == (names or VIDEO.names)
    for name in rows.column_names:
        assert values(rows[name]) == [getattr(video, name) for video in videos]
    assert [video.key for video in videos] == ["a/v_1", "b/_avi", "b/v_2"]


@pytest.mark.parametrize("first", range(6))
def test_two_of_one_key_are_found_in_blocks_of_any_size(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinstream.shards.format.columns.BLOCK_ROWS", 3)
    paths = [*(f"{number}.avi" for number in range(7)), f"{first}.mp4"]
    listed = parse_csv("path,label\n" + "".join(f"{path},run\n" for path in paths), "my.csv")
    with pytest.raises(InputError, match=f"one key '{first}': {first}.avi and {first}.mp4"):
        csv_catalog(listed, ())


def test_csv_labels_that_are_numbers_are_sorted_as_numbers() -> None:
    listed = parse_csv("path,label,split\na.avi,10,train\nb.avi,9,test\nc.avi,2,test\n", "my.csv")
    catalog = csv_catalog(listed, ["a.avi", "b.avi"])
    assert catalog.classes == ("2", "9", "10")
    assert catalog.videos[0] == Video("a", "a.avi", "10", 2, "train", True)
    assert rows(catalog)[1:] == [("b.avi", 1, "test", True), ("c.avi", 0, "test", False)]
    # More digits than int() reads.
    names = ["3" * 5000, "10", "09", "0"]
    listed = [Listed(f"{name[:9]}.avi", name, "train", "my.csv") for name in names]
    assert csv_catalog(listed, []).classes == ("0", "09", "10", "3" * 5000)


def test_sidecars_and_replacements_make_no_second_file_of_a_kinetics_clip() -> None:
    text = KINETICS_HEAD + "zumba,a,1,11,train\nzumba,b,2,12,val\n"
    files = [
        "audio/a_000001_000011.wav",
        "k400/train/a_000001_000011.mp4",
        "k400/replacement/replacement_for_corrupted_k400/a_000001_000011.mp4",
        "k400/val/b_000002_000012.mp4",
    ]
    catalog = kinetics_catalog(parse_kinetics(text, "k.csv"), files)
    assert [video.path for video in catalog.videos] == [files[2], files[3]]
    assert catalog.warnings == (
        f"1 files ({files[2]}) of a folder of replacements, taken rather than others of their "
        "names",
        f"2 files ({files[0]}, {files[1]}) that no list names, left out",
    )


@pytest.mark.real
def test_the_official_kinetics_csv_gives_400_classes_and_every_video_absent(
    real_data: Path,
) -> None:
    splits = real_data / "kinetics400" / "splits"
    listed = parse_kinetics((splits / "kinetics-400_val.csv").read_text(), "kinetics-400_val.csv")
    catalog = kinetics_catalog(listed, [])
    assert len(catalog.videos) == 19_906
    assert not any(video.present for video in catalog.videos)
    assert set(catalog.classes) == set((splits / "label_map_k400.txt").read_text().splitlines())
    assert len(catalog.classes) == 400


def test_csv_labels_of_one_number_have_one_order() -> None:
    labels = ["1", "0001", "01", "001", "00001", "0"]
    listed = [Listed(f"{name}.avi", name, "train", "my.csv line 2") for name in labels]
    assert csv_catalog(listed, []).classes == ("0", "00001", "0001", "001", "01", "1")
