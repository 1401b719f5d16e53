"""Split lists and CSVs: what they say, and a clear line for what they should not say."""

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.catalog.listings import (
    Listed,
    parse_class_index,
    parse_csv,
    parse_kinetics,
    parse_split_list,
)

KINETICS_HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"


def test_classes_are_ordered_by_their_numbers() -> None:
    assert parse_class_index("2 Jack\r\n1 Bend\n\n3 Long Jump\n", "classInd.txt") == (
        "Bend",
        "Jack",
        "Long Jump",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bend 1\n", "classInd.txt line 1: 'Bend 1'; expected NUMBER CLASS"),
        (
            "1 Bend\n1 Jack\n",
            "classInd.txt line 2: '1 Jack'; this number or class was there before",
        ),
        (
            "1 Bend\n2 Bend\n",
            "classInd.txt line 2: '2 Bend'; this number or class was there before",
        ),
        ("1 Bend\n3 Jack\n", "classInd.txt: class number 2 is not there; expected 1 to 2"),
        ("0 Bend\n1 Jack\n", "classInd.txt: class number 2 is not there; expected 1 to 2"),
    ],
)
def test_class_numbers_have_no_gaps_and_no_doubles(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_class_index(text, "classInd.txt")
    assert str(caught.value) == message


def test_a_split_list_has_paths_and_perhaps_class_numbers() -> None:
    listed = parse_split_list(
        "Bend/v_Bend_g01_c01.avi 1\n\nLong Jump/a b.avi\n", "list.txt", "train"
    )
    assert listed == [
        Listed("Bend/v_Bend_g01_c01.avi", "Bend", "train", "list.txt line 1", 1),
        Listed("Long Jump/a b.avi", "Long Jump", "train", "list.txt line 3", None),
    ]


@pytest.mark.parametrize("line", ["v_Bend_g01_c01.avi 1", "/v.avi", "a/b/c.avi", "Bend/"])
def test_a_split_list_line_that_is_no_path_is_named(line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_split_list(f"A/a.avi\n{line}\n", "testlist01.txt", "test")
    assert str(caught.value) == f"testlist01.txt line 2: {line!r}; expected CLASS/FILE.avi"


def test_a_kinetics_row_names_a_file_by_six_digit_seconds() -> None:
    rows = 'abseiling,-3B32lodo2M,59,69,val,0\n"air drumming",_dbcJuKJQNs,40.0,50,validate,0\n'
    assert parse_kinetics(KINETICS_HEAD + rows, "val.csv") == [
        Listed("-3B32lodo2M_000059_000069", "abseiling", "val", "val.csv line 2"),
        Listed("_dbcJuKJQNs_000040_000050", "air drumming", "val", "val.csv line 3"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end,split\n", "no column label; expected label,youtube_id"),
        (KINETICS_HEAD + ",a,1,2,test,0\n", "val.csv line 2: no label; lists without labels"),
        (
            KINETICS_HEAD + "x,a,one,2,val,0\n",
            "val.csv line 2: 'one' to '2'; expected time_start and",
        ),
        (KINETICS_HEAD + "x,a,1\n", "val.csv line 2: 3 cells; expected label,youtube_id"),
        (KINETICS_HEAD + "x,a,1,2,../val,0\n", "val.csv line 2: split '../val'; expected a word"),
    ],
)
def test_a_kinetics_file_without_its_columns_is_refused_in_one_line(
    text: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_kinetics(text, "val.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_without_splits_is_all_training() -> None:
    assert parse_csv('path,label\n./a/b.mp4,"x, y"\n', "my.csv") == [
        Listed("a/b.mp4", "x, y", "train", "my.csv line 2")
    ]
    with pytest.raises(InputError, match="no column label"):
        parse_csv("path,class\n", "my.csv")


def test_a_number_of_thousands_of_digits_is_no_class_number() -> None:
    digits = "1" * 5000
    with pytest.raises(InputError, match=r"^classInd.txt line 1: .*; expected NUMBER CLASS$"):
        parse_class_index(f"{digits} Bend\n", "classInd.txt")
    (listed,) = parse_split_list(f"Bend/v.avi {digits}\n", "trainlist01.txt", "train")
    assert (listed.name, listed.class_number) == (f"Bend/v.avi {digits}", None)
