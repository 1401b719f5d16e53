"""Splits: one spelling each, whatever a list, a CSV or a folder calls them."""

from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.shards.format.split_names import (
    alike_but_for_split,
    known_split,
    split_name,
    split_of_list,
)

ALIASES = {
    "train": ["train", "training", "Train", "TRAINING", "videos_train", "train_256", "trainlist01"],
    "val": ["val", "valid", "validate", "validation", "Validation", "rawframes_val", "val-340x256"],
    "test": ["test", "testing", "TEST", "videos_test", "Test Set", "test_720p", "k400_test"],
}


@pytest.mark.parametrize(
    ("word", "split"), [(word, split) for split, words in ALIASES.items() for word in words]
)
def test_a_split_has_one_spelling(word: str, split: str) -> None:
    assert known_split(word) == split
    assert split_name(f" {word} ", "my.csv line 2") == split
    assert split_of_list(Path(f"lists/ucf101_{word}_split_1_rawframes.txt")) == split
    assert split_of_list(Path(f"{word}.txt")) == split


@pytest.mark.parametrize("word", ["test_2", "minival", "holdout", "test_drive", "train_val"])
def test_a_word_that_is_no_alias_stays(word: str) -> None:
    assert known_split(word) is None
    assert split_name(word.title(), "my.csv line 2") == word


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["train_1", "test_1"], ("train_1", "test_1")),
        (["run", "TrainVideos", "ValVideos"], ("TrainVideos", "ValVideos")),
        (["my_data_train", "my_data_validation"], ("my_data_train", "my_data_validation")),
        (["00_train.zip", "01_val.zip"], ("00_train.zip", "01_val.zip")),
        (["trainval 1", "test 1"], ("trainval 1", "test 1")),
        (["train_1", "train_2", "training_3"], None),
        (["training dog", "testifying", "playing with trains", "carnival", "run"], None),
        ([], None),
    ],
)
def test_names_that_differ_in_the_words_of_splits_only_are_found(
    names: list[str], pair: tuple[str, str] | None
) -> None:
    assert alike_but_for_split(names) == pair


def test_a_list_with_the_words_of_two_splits_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"train_val_list\.txt: its name says train and val; expec"
    ):
        split_of_list(Path("lists/train_val_list.txt"))


def test_a_list_without_the_name_of_a_split_is_one_itself() -> None:
    assert split_of_list(Path("lists/Holdout_rawframes.txt")) == "holdout"


@pytest.mark.parametrize("text", ["", "../val", "a b", "a\nb"])
def test_a_split_that_could_not_name_a_folder_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        split_name(text, "my.csv line 2")
    assert str(caught.value) == (
        f"my.csv line 2: split {text!r}; expected a word such as train, val or test"
    )


def test_a_list_whose_name_could_not_name_a_folder_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        split_of_list(Path("lists/x y.txt"))
    assert str(caught.value) == (
        "lists/x y.txt: split 'x y'; expected a word such as train, val or test"
    )
