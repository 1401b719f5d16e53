"""When a video is given up."""

from twinstream.preprocess.cluster.retries import Retries
from twinstream.shards.format.video_table import Reason


def test_the_third_death_in_a_row_is_a_videos_last_try_and_none_before() -> None:
    retries = Retries(max_tries=3)
    assert [retries.died(key) for key in "abaa"] == [False, False, False, True]


def test_a_video_that_goes_through_has_all_its_tries_again() -> None:
    retries = Retries(max_tries=2)
    retries.died("a")
    retries.succeeded("a")
    retries.succeeded("never died")
    assert [retries.died("a"), retries.died("a")] == [False, True]


def test_what_is_given_up_says_the_same_on_every_machine() -> None:
    retries = Retries(max_tries=1)
    retries.give_up("a", Reason.CRASHED)
    retries.give_up("b", Reason.TIMED_OUT)
    assert {key: str(error) for key, error in retries.given_up.items()} == {
        "a": "crashed: its worker died each time it was tried",
        "b": "timed_out: no progress within preprocess.timeout_seconds",
    }
