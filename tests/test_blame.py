"""When a video is given up."""

from twinstream.preprocess.blame import Blame
from twinstream.shards.videos import Reason


def test_a_video_is_blamed_for_the_third_death_in_a_row_and_not_before() -> None:
    blame = Blame(max_tries=3)
    assert [blame.died("a"), blame.died("b"), blame.died("a"), blame.died("a")] == [
        False,
        False,
        False,
        True,
    ]


def test_a_video_that_goes_through_has_all_its_tries_again() -> None:
    blame = Blame(max_tries=2)
    blame.died("a")
    blame.survived("a")
    blame.survived("never died")
    assert [blame.died("a"), blame.died("a")] == [False, True]


def test_what_is_given_up_says_the_same_on_every_machine() -> None:
    blame = Blame(max_tries=1)
    blame.give_up("a", Reason.CRASHED)
    blame.give_up("b", Reason.TIMED_OUT)
    assert {key: str(error) for key, error in blame.given_up.items()} == {
        "a": "crashed: its worker died each time it was tried",
        "b": "timed_out: no progress within preprocess.timeout_seconds",
    }
