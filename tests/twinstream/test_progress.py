"""Progress of long work on terminals of some widths and without one, and what is told beside it."""

import logging
import os
import pty
import sys
import termios
from collections import Counter
from contextlib import suppress

import pytest

from twinstream.preprocess.cluster.run_log import RunTotals
from twinstream.progress import (
    FIRST_LINE_SECONDS,
    LOGGER,
    Progress,
    fitted,
    log_to_stderr,
    time_left,
)


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
    clock = iter([0.0, 1.0, 20.0, 25.0, 30.0])
    monkeypatch.setattr("twinstream.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("twinstream.progress.FIRST_LINE_SECONDS", FIRST_LINE_SECONDS)
    # Of a terminal that nobody looks at.
    monkeypatch.setenv("COLUMNS", "20")
    with Progress("preprocess", 13, "video", done=2) as progress:
        progress.advance(note="too soon for a line")
        progress.advance(3, note="3 skipped · too_short 3 · 48 frames/s")
        progress.advance(note="too soon after the last")
        progress.advance(note="4 skipped")
    assert capsys.readouterr().err == (
        "preprocess: 6/13 video · 0:00:44 left · 3 skipped · too_short 3 · 48 frames/s\n"
        "preprocess: 8/13 video · 0:00:29 left · 4 skipped\n"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (200, "preprocess 3/9 · 12 skipped · too_short 12 · 48 frames/s"),
        (57, "preprocess 3/9 · 12 skipped · too_short 12 · 48 frames/s"),
        (56, "preprocess 3/9 · 12 skipped · too_short 12"),
        (28, "preprocess 3/9 · 12 skipped"),
        (27, "preprocess 3/9 · 12 skipp…"),
        (24, "preprocess 3/9"),
        (10, "preproces"),
    ],
)
def test_what_has_no_room_is_left_out_from_the_end(columns: int, line: str) -> None:
    parts = ("preprocess 3/9", "12 skipped", "too_short 12", "48 frames/s")
    assert fitted(parts, columns) == line


def test_a_wide_name_is_measured_in_columns() -> None:
    assert fitted(["export 1/2", "走る/動画動画動画"], 23) == "export 1/2 · 走る/動…"


def lines_on_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a terminal of that width shows of a run with many skipped videos, one line a time."""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, columns))
    monkeypatch.delenv("COLUMNS", raising=False)
    totals = RunTotals(started=0.0, num_frames=10_000, skipped=Counter(too_short=1100))
    totals.skipped["decode_error"] = 134
    totals.seconds.update({"decode": 12.0, "flow": 310.0, "encode": 20.0})
    with open(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with Progress("preprocess", 240_000, "video", done=123_000) as progress:
            progress.advance(note=totals.note(200.0))
            LOGGER.info("flow 1/40 · loss 1.234")
            progress.advance(note=totals.note(200.0))
    shown = b""
    # Linux says so where the other end is closed and nothing is left.
    with suppress(OSError):
        while more := os.read(reader, 4096):
            shown += more
    os.close(reader)
    return [line for line in shown.decode().replace("\r", "\n").split("\n") if line.strip()]


@pytest.mark.parametrize("columns", [80, 60])
def test_the_bar_shows_the_whole_number_of_skipped_videos_and_fits_its_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_on_terminal(columns, monkeypatch)
    assert all(len(line) < columns for line in lines)
    (bar,) = {line.rstrip() for line in lines if "123001/240000" in line}
    assert bar.startswith("preprocess ")
    assert " left · 1234 skipped" in bar
    assert "flow 1/40 · loss 1.234" in lines


def test_where_only_warnings_are_wanted_there_is_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(logging.WARNING)
    clock = iter([0.0, 20.0])
    monkeypatch.setattr("twinstream.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("twinstream.progress.FIRST_LINE_SECONDS", FIRST_LINE_SECONDS)
    with Progress("preprocess", 12, "video") as progress:
        progress.advance()
    LOGGER.info("flow 1/40 · loss 1.234")
    LOGGER.warning("out: cannot be locked")
    assert capsys.readouterr().err == "out: cannot be locked\n"
