"""Split lists and CSVs: what they say, and a clear line for what they should not say."""

import pytest

from twinstream.errors import InputError
from twinstream.shards.format.listings import (
    Listed,
    parse_csv,
    parse_kinetics,
    parse_split_list,
)

KINETICS_HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"


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
        (
            "youtube_id,time_start,time_end,split\n",
            "no column label in 'youtube_id,time_start,time_end,split'; expected label,youtube_id",
        ),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label,split\na.mp4,jump,train\n\njump, slow.mp4,jump,train\n",
            "line 4: 4 cells; expected path,label,split; a cell with a comma stands in quotes",
        ),
        ("path,label,split\na.mp4,jump\n", "line 2: 2 cells; expected path,label,split;"),
        ("path,label\na.mp4,jump,\n", "line 2: 3 cells; expected path,label;"),
        ('path,label\n"Best.mp4,run\nb.mp4,run\n', "line 2: unexpected end of data; is a quote"),
        ('path,label\na.mp4,x\n"B.mp4,run\n"b.mp4,run\n', "line 3: ',' expected after '\"'; is"),
        ('path,label\n"B.mp4,run\nb.mp4",x\n', "line 2: a cell goes on to line 3; is a quote ope"),
        ('path,label\n"B' + "x/1.mp4,run\n" * 20_000, "line 2: field larger than field limit"),
        ("path,label\na\0.mp4,run\n", "line 2: 'a\\x00.mp4': not a usable path; expected"),
        ("path,label\n,run\n", "line 2: '.': not a usable path; expected"),
        ("path,label\n../a.mp4,run\n", "line 2: '../a.mp4': not a usable path; expected"),
        (
            "path,label,label\na.mp4,run,x\n",
            "two columns label in 'path,label,label'; expected path,label",
        ),
        ("", "no column path in ''; expected path,label"),
        ("path;label\na.mp4;run\n", "no column path in 'path;label'; expected path,label"),
    ],
)
def test_a_row_that_is_not_whole_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_csv(text, "my.csv")
    assert message in str(caught.value)
    assert str(caught.value).startswith("my.csv")
    assert len(str(caught.value).splitlines()) == 1


def test_quoted_commas_blank_lines_and_any_line_end_are_right() -> None:
    text = '\ufeffpath, label\r\n"jump, slow.mp4", "a ""b"""\r\n\r\n , \r\nc"d.mp4,e\r\n'
    listed = parse_csv(text.removeprefix("\ufeff"), "my.csv")
    assert [(one.name, one.class_name, one.where) for one in listed] == [
        ("jump, slow.mp4", 'a "b"', "my.csv line 2"),
        ('c"d.mp4', "e", "my.csv line 5"),
    ]


@pytest.mark.parametrize("time", ["inf", "nan", "-1", "1e300", "1_0", "1234567", "", "0x1"])
def test_a_time_that_is_no_second_is_refused_with_its_line(time: str) -> None:
    for row in (f"x,a,{time},2,val,0\n", f"x,a,1,{time},val,0\n"):
        with pytest.raises(InputError, match=r"^val\.csv line 2: .* expected time_start and"):
            parse_kinetics(KINETICS_HEAD + row, "val.csv")


def test_a_number_of_thousands_of_digits_is_no_class_number() -> None:
    digits = "1" * 5000
    (listed,) = parse_split_list(f"Bend/v.avi {digits}\n", "trainlist01.txt", "train")
    assert (listed.name, listed.class_number) == (f"Bend/v.avi {digits}", None)
