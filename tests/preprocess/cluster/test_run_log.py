"""The log and the report of a run."""

import io
import json
from pathlib import Path

import pytest

from twinstream.preprocess.cluster.run_log import (
    Event,
    EventKind,
    RunLog,
    RunTotals,
    report,
    write_report,
)
from twinstream.preprocess.job import VideoDone
from twinstream.shards.format.video_table import VideoRow


def done(key: str, seconds: float, reason: str | None = None) -> VideoDone:
    status = "skipped" if reason else "written"
    row = VideoRow(key, f"{key}.avi", "a", 0, "train", status, reason)
    return VideoDone(row, 10, {"decode": 0.0, "flow": seconds, "encode": 0.0})


def totals_of(*events: Event) -> RunTotals:
    totals = RunTotals(started=0.0)
    for event in events:
        totals.add(event)
    return totals


def test_the_note_has_rate_parts_reasons_and_workers_alive() -> None:
    totals = totals_of(
        Event(EventKind.STARTED, "one/1"),
        Event(EventKind.STARTED, "two/2"),
        Event(EventKind.STARTED, "two/3"),
        Event(EventKind.VIDEO, "one/1", "train-000000", "a", done("a", 0.4)),
        Event(EventKind.VIDEO, "two/2", "train-000001", "b", done("b", 0.2, "too_short")),
        Event(EventKind.LOST, "two/2", "train-000001", "b"),
        Event(EventKind.TIMED_OUT, "two/3", "train-000002", "c"),
    )
    assert totals.note(2.0) == (
        "1 skipped · too_short 1 · 10 frames/s · flow 30 ms/frame · 1 worker"
    )


def test_the_report_names_hosts_losses_totals_and_the_ten_slowest(tmp_path: Path) -> None:
    events = [
        Event(EventKind.VIDEO, f"host{n % 2}/7", "j", str(n), done(str(n), n / 10))
        for n in range(12)
    ]
    totals = totals_of(*events, Event(EventKind.LOST, "host0/7"))
    rows = [done(str(n), 0).row for n in range(12)] + [done("x", 0, "crashed").row]
    found = report(totals, rows, seconds=4.0)
    assert (found["num_frames"], found["frames_per_second"], found["workers_lost"]) == (
        120,
        30.0,
        1,
    )
    assert found["frames_by_host"] == {"host0": 60, "host1": 60}
    assert found["videos"] == {"crashed": 1, "written": 12}
    assert [video["key"] for video in found["slowest"]] == [str(n) for n in range(11, 1, -1)]
    assert {"twinstream source", "numba", "opencv", "ffmpeg", "ray"} <= found["versions"].keys()
    write_report(tmp_path, totals, rows, 4.0)
    assert json.loads((tmp_path / "run.json").read_text()) == found


def test_every_event_is_a_line_of_the_log() -> None:
    file = io.StringIO()
    log = RunLog(file)
    log.write(Event(EventKind.STARTED, "one/1"))
    log.write(Event(EventKind.VIDEO, "one/1", "train-000000", "länge", done("länge", 0.5)))
    first, second = (json.loads(line) for line in file.getvalue().splitlines())
    assert (first["event"], first["worker"]) == ("worker started", "one/1")
    assert (second["key"], second["status"], second["seconds"]["flow"]) == ("länge", "written", 0.5)
    assert log.note().endswith("1 worker")


def test_a_lost_worker_is_printed_in_one_line_and_a_finished_video_in_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = RunLog(io.StringIO())
    log.write(Event(EventKind.VIDEO, "one/1", "train-000000", "a", done("a", 0.5)))
    log.write(Event(EventKind.LOST, "one/1", "train-000000", "b"))
    assert capsys.readouterr().err == "worker lost: one/1, train-000000, b\n"
