"""Files of class names, and one line that shows where two lists of them differ."""

import pytest

from twinstream.errors import InputError
from twinstream.shards.format.classes import class_difference, parse_classes

UCF = ["Handball", "HandstandPushups", "HandstandWalking", "HeadMassage"]


@pytest.mark.parametrize(
    ("found", "wanted", "line"),
    [
        (["a", "b"], ["a", "b"], "no difference"),
        ([], [], "no difference"),
        (
            ["a", "b", "c"],
            ["a", "c", "b"],
            "the same 3 classes in another order: label 1 is b there, c here (and 1 more place)",
        ),
        (
            ["a", "b", "c"],
            ["c", "a", "b"],
            "the same 3 classes in another order: label 0 is a there, c here (and 2 more places)",
        ),
        (["a", "b"], ["a", "b", "c"], "1 class is only here (c)"),
        (["a", "b", "c", "d"], ["b", "a"], "2 classes are only there (c, d)"),
        (["a", "b"], ["c", "d", "e"], "2 classes are only there (a, b), 3 only here (c, d, e)"),
        (["a", "b"], ["b", "c", "d"], "1 class is only there (a), 2 only here (c, d)"),
        ([], ["a"], "1 class is only here (a)"),
        ([*"abcdefgh"], ["h"], "7 classes are only there (a, b, c, d, e and 2 more)"),
        (
            UCF,
            [UCF[0], "HandStandPushups", *UCF[2:]],
            "the same 4 classes in another spelling: label 1 is HandstandPushups there, "
            "HandStandPushups here",
        ),
        (
            ["brush_hair", "shake-hands", "wave"],
            ["brush hair", "shake hands", "wave"],
            "the same 3 classes in another spelling: label 0 is brush_hair there, brush hair here "
            "(and 1 more place)",
        ),
        (
            ["wave", "brush_hair"],
            ["brush hair", "wave"],
            "the same 2 classes in another spelling and another order: label 0 is wave there, "
            "brush hair here (and 1 more place)",
        ),
        (
            ["run fast", "walk", "jump"],
            ["Run_Fast", "walk"],
            "1 class is only there (jump); run fast there is Run_Fast here",
        ),
        (
            ["run fast", "run_fast"],
            ["RunFast", "walk"],
            "2 classes are only there (run fast, run_fast), 2 only here (RunFast, walk)",
        ),
        (["a", "b", "a"], ["a", "b"], "a is named 2 times there"),
        (["a", "b"], ["a", "b", "b", "b"], "b is named 3 times here"),
    ],
)
def test_the_first_difference_of_two_lists_of_classes_is_one_line(
    found: list[str], wanted: list[str], line: str
) -> None:
    assert class_difference(found, wanted) == line
    assert class_difference(tuple(found), tuple(wanted)) == line


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["walk ", "", "hand stand"], ["walk", "hand stand"]),
        (["2 Biking", "1 Archery"], ["Archery", "Biking"]),
        (["0 Archery", "1 Hand Stand"], ["Archery", "Hand Stand"]),
        (["1\tArchery"], ["Archery"]),
        (["abseiling 0", "air drumming 1"], ["abseiling", "air drumming"]),
        (["1,abseiling", "2, x, y"], ["abseiling", "x, y"]),
        (["x, y,1", "abseiling,0"], ["abseiling", "x, y"]),
        (["01 a", "10 j", *(f"{n:02} {n}" for n in range(2, 10))], ["a", *"23456789", "j"]),
        (["level 1", "level 2"], ["level 1", "level 2"]),
        (["gesture 3", "gesture 7"], ["gesture 3", "gesture 7"]),
        (["0", "1", "2"], ["0", "1", "2"]),
        (["level 1"], ["level 1"]),
        (["abseiling 0"], ["abseiling 0"]),
        (["1 level 1"], ["level 1"]),
        (["1 Squat 90", "2 Lunge 45", "3 Jump 10"], ["Squat 90", "Lunge 45", "Jump 10"]),
        (["1 400 m", "2 800 m"], ["400 m", "800 m"]),
        (["walk", "2 hands"], ["walk", "2 hands"]),
        (["walk", "walk 1"], ["walk", "walk 1"]),
        (["2 hands", "3 hands", "walk"], ["2 hands", "3 hands", "walk"]),
        ([f"{'9' * 5000} a"], [f"{'9' * 5000} a"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_classes_has_a_name_or_a_number_and_a_name_a_line(
    lines: list[str], names: list[str], end: str
) -> None:
    assert parse_classes(end.join(lines) + end, "f") == tuple(names)


EVERY = "every line has a number, but none"
NUMBER_THEM = "number the lines from 1, as in 1 NAME, if these numbers belong to the names"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no class name"),
        ([" "], "holds no class name"),
        (["a", "b", "a "], "class 'a' is there 2 times; expected each once"),
        (["1 a", "2 a"], "class 'a' is there 2 times; expected each once"),
        (["a 0", "b 1", "a 2"], "class 'a' is there 2 times; expected each once"),
        (["1 a", "1 b"], f"{EVERY} has 2; expected 1 to 2, each once; {NUMBER_THEM}"),
        (["a 0", "b 2"], f"{EVERY} has 1; expected 0 to 1, each once; {NUMBER_THEM}"),
        (["5 a", "6 b"], f"{EVERY} has 1; expected 1 to 2, each once; {NUMBER_THEM}"),
        (["400 m", "800 m"], f"{EVERY} has 1; expected 1 to 2, each once; {NUMBER_THEM}"),
        (["400 m"], f"{EVERY} has 1; expected 1 to 1, each once; {NUMBER_THEM}"),
        (
            ["Squat 90", "Lunge 45", "Jump 10"],
            f"{EVERY} has 1; expected 1 to 3, each once; {NUMBER_THEM}",
        ),
        (
            ["id,name", "0,a", "1,b"],
            f"'id,name' has no number, 2 other lines have one; {NUMBER_THEM}",
        ),
        (["a 1", "b 2", "c"], f"'c' has no number, 2 other lines have one; {NUMBER_THEM}"),
    ],
)
def test_a_file_of_classes_that_leaves_open_what_is_meant_is_refused(
    lines: list[str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_classes("\n".join(lines), "f")
    assert str(caught.value) == f"f: {message}"
