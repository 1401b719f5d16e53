"""What a worker tells, and how often."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from twinstream.preprocess.cluster import worker as worker_module
from twinstream.preprocess.cluster.worker import Worker, sign_seconds
from twinstream.preprocess.job import VideoAt, VideoDone


@pytest.mark.parametrize(
    ("timeout_seconds", "seconds"), [(None, 10), (6000.0, 10), (600.0, 10), (60.0, 1), (3.0, 0.05)]
)
def test_signs_of_life_come_often_before_a_video_is_left_out(
    timeout_seconds: float | None, seconds: float
) -> None:
    assert sign_seconds(timeout_seconds) == pytest.approx(seconds)


def test_each_video_is_told_when_it_begins_and_ends_and_now_and_then_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None
    done = VideoDone(nothing, 0, {})
    # A step each second, with a timeout of 3 minutes.
    steps = [*([VideoAt("a")] * 8), done, VideoAt("b"), VideoAt("b"), done]
    clock = iter(range(len(steps)))
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    class Stepping(Worker):
        def _steps(self, job: Any, given_up: Any) -> Iterator[VideoAt | VideoDone]:
            yield from steps

    setup: Any = SimpleNamespace(preprocess=SimpleNamespace(timeout_seconds=180.0))
    told = [*Stepping(setup, lambda setup: nothing).run(nothing, {})]
    assert told == [VideoAt("a"), VideoAt("a"), done, VideoAt("b"), done]
