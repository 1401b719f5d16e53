"""Progress of long work where nobody looks at a terminal."""

import pytest

from twinstream.progress import Progress, time_left


@pytest.mark.parametrize(
    ("num_done", "num_left", "seconds", "printed"),
    [
        (0, 10, 3.0, ""),
        (1, 10, 3.0, "0:00:30 left"),
        (10, 5, 100.0, "0:00:50 left"),
        (1, 100, 3600.0, "4 days, 4:00:00 left"),
        (5, 0, 9.0, "0:00:00 left"),
    ],
)
def test_time_left_goes_by_the_rate_so_far(
    num_done: int, num_left: int, seconds: float, printed: str
) -> None:
    assert time_left(num_done, num_left, seconds) == printed


def test_a_plain_line_tells_count_time_left_and_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 5.0, 20.0, 25.0])
    monkeypatch.setattr("twinstream.progress.time.monotonic", lambda: next(clock))
    with Progress("preprocess", 12, "video", done=2) as progress:
        progress.advance(note="too soon for a line")
        progress.advance(3, note="3 skipped")
        progress.advance(note="too soon after the last")
    assert capsys.readouterr().err == "preprocess: 6/12 video · 0:00:30 left · 3 skipped\n"
