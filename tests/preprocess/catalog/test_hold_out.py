"""hold_out: by a hash, stable, on either side of each class, and no group on both."""

import re
from pathlib import Path

import pytest

from tests.support.catalogs import LISTS, touch
from twinstream.errors import InputError
from twinstream.preprocess.catalog.hold_out import hashed_part, held_groups
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from twinstream.section import build_settings
from twinstream.shards.settings import ShardSettings


def splits(root: Path, fraction: float = 0.2, group: str | None = None) -> dict[str, str]:
    catalog = read_catalog("folders", str(root), held_out=fraction, group=group)
    return {video.key: video.split for video in catalog.videos}


def videos(*numbers: int) -> list[str]:
    return [f"{name}/v{number}.avi" for name in ("run", "walk") for number in numbers]


def test_a_video_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    few = splits(touch(tmp_path / "few", *videos(*range(60))))
    many = splits(touch(tmp_path / "many", *videos(*range(300)), "bow/x.avi"))
    assert few.items() <= many.items()
    counts = [[*many.values()].count(split) for split in ("train", "test")]
    assert counts[0] + counts[1] == 601
    assert 0.15 < counts[1] / 601 < 0.25
    # The same on every machine and in every version.
    held = [key for key, split in few.items() if split == "test"]
    assert held[:4] == ["run/v1", "run/v12", "run/v13", "run/v16"]


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("number", [2, 3])
def test_a_class_of_two_videos_has_one_on_either_side(
    tmp_path: Path, fraction: float, number: int
) -> None:
    found = splits(touch(tmp_path, *videos(*range(number)), "bow/only.avi"), fraction)
    sides = {(key.split("/")[0], split) for key, split in found.items()}
    assert sides == {
        *(("run", "train"), ("run", "test"), ("walk", "train"), ("walk", "test")),
        # A class that nothing is learned of could not be tested either.
        ("bow", "train"),
    }


def test_a_group_is_on_one_side_in_all_classes(tmp_path: Path) -> None:
    people = ["ann", "bob", "cid", "dan", "eve", "fay"]
    touch(tmp_path, *(f"{name}/{who}_{name}.avi" for name in ("run", "walk") for who in people))
    found = splits(tmp_path, 0.3, "/([a-z]+)_")
    of_person: dict[str, set[str]] = {}
    for key, split in found.items():
        of_person.setdefault(key.split("/")[1].split("_")[0], set()).add(split)
    assert all(len(sides) == 1 for sides in of_person.values())
    assert {split for sides in of_person.values() for split in sides} == {"train", "test"}


def test_what_is_held_out_is_told_with_classes_that_have_none(tmp_path: Path) -> None:
    touch(tmp_path, *videos(0, 1, 2, 3), "bow/only.avi")
    found = splits(tmp_path, 0.001)
    assert [*found.values()].count("test") == 2
    (told,) = read_catalog("folders", str(tmp_path), held_out=0.001).warnings
    assert told == (
        "dataset.hold_out 0.001: 2 of 9 videos are held out as split test; none of 1 classes "
        "(bow): too few groups"
    )
    (told,) = read_catalog("folders", str(tmp_path), held_out=0.001, group="(v|only)").warnings
    assert "0 of 9 videos are held out as split test, 0 of 2 groups; none of 3 classes" in told


def test_classes_that_share_their_groups_are_not_left_without_one_to_learn_from() -> None:
    # Each two classes share a group: not all three can have one on either side.
    triangle = {"a": ("1", "2"), "b": ("2", "3"), "c": ("1", "3")}
    for fraction in (0.001, 0.999):
        test = held_groups(triangle, fraction)
        assert test
        assert all({*groups} - test for groups in triangle.values())


def test_the_hash_is_even() -> None:
    parts = sorted(hashed_part(f"run/{number}") for number in range(1000))
    assert all(abs(part - place / 1000) < 0.05 for place, part in enumerate(parts))


@pytest.mark.parametrize(
    ("paths", "kind", "group", "message"),
    [
        (["train/a/1.avi", "val/a/2.avi"], "folders", None, "have splits already (train, val)"),
        ([*LISTS, "Bend/v_Bend_g01.avi"], "ucf101", None, "lists of kind ucf101 name the splits"),
        (["a/1.avi"], "folders", "g([0-9]+)", "g([0-9]+): finds no group in a/1, the key"),
        (["a/1.avi"], "folders", "([a-z]*)1", "finds no group in a/1, the key of a video"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(
    tmp_path: Path, paths: list[str], kind: str, group: str | None, message: str
) -> None:
    touch(tmp_path, *paths)
    for name in {*paths} & {*LISTS}:
        (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(InputError, match=re.escape(message)):
        read_catalog(kind, str(tmp_path), held_out=0.2, group=group)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hold_out=1"], "hold_out: Input should be less than 1"),
        (["hold_out=0.2", "group=g01"], "with a group in parentheses, not 'g01'"),
        (["hold_out=0.2", "group=(g"], "expected a regular expression (missing )"),
        (["group=(g01)"], "group is for hold_out, which is not set"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as told:
        build_settings(DatasetSettings, {}, overrides)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_dataset_records_what_it_held_out_and_one_from_before_records_nothing() -> None:
    def recorded(**settings: object) -> dict[str, object]:
        dataset = DatasetSettings(kind="folders", **settings)
        return byte_settings(dataset, PreprocessSettings(), ShardSettings(), "numba")

    before = recorded()
    assert not {"dataset.hold_out", "dataset.group"} & before.keys()
    assert recorded(hold_out=0.2) == before | {"dataset.hold_out": 0.2}
    both = {"dataset.hold_out": 0.2, "dataset.group": "(a)"}
    assert recorded(hold_out=0.2, group="(a)") == before | both
