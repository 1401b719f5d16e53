"""Two lists of classes: one line that shows where they differ."""

import pytest

from twinstream.shards.format.classes import class_difference

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
