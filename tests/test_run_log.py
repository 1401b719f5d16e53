"""What a run tells of itself."""

import io
import json
from pathlib import Path

import pytest

from twinstream.preprocess.job import VideoDone
from twinstream.preprocess.run_log import Event, Happening, RunLog, RunTally, report, write_report
from twinstream.shards.videos import VideoRow


def done(key: str, seconds: float, reason: str | None = None) -> VideoDone:
    status = "skipped" if reason else "written"
    row = VideoRow(key, f"{key}.avi", "a", 0, "train", status, reason)
    return VideoDone(row, 10, {"decode": 0.0, "flow": seconds, "encode": 0.0})


def tally_of(*events: Event) -> RunTally:
    tally = RunTally(started=0.0)
    for event in events:
        tally.add(event)
    return tally


def test_the_note_tells_rate_parts_reasons_and_workers_alive() -> None:
    tally = tally_of(
        Event(Happening.STARTED, "one/1"),
        Event(Happening.STARTED, "two/2"),
        Event(Happening.STARTED, "two/3"),
        Event(Happening.VIDEO, "one/1", "train-000000", "a", done("a", 0.4)),
        Event(Happening.VIDEO, "two/2", "train-000001", "b", done("b", 0.2, "too_short")),
        Event(Happening.LOST, "two/2", "train-000001", "b"),
        Event(Happening.TIMED_OUT, "two/3", "train-000002", "c"),
    )
    assert tally.note(2.0) == (
        "10 frames/s · decode 0 · flow 30 · encode 0 ms/frame · 1 skipped: too_short 1 · 1 worker"
    )


def test_the_report_names_hosts_losses_totals_and_the_ten_slowest(tmp_path: Path) -> None:
    events = [
        Event(Happening.VIDEO, f"host{n % 2}/7", "j", str(n), done(str(n), n / 10))
        for n in range(12)
    ]
    tally = tally_of(*events, Event(Happening.LOST, "host0/7"))
    rows = [done(str(n), 0).row for n in range(12)] + [done("x", 0, "crashed").row]
    told = report(tally, rows, seconds=4.0)
    assert (told["num_frames"], told["frames_per_second"], told["workers_lost"]) == (120, 30.0, 1)
    assert told["frames_by_host"] == {"host0": 60, "host1": 60}
    assert told["videos"] == {"crashed": 1, "written": 12}
    assert [video["key"] for video in told["slowest"]] == [str(n) for n in range(11, 1, -1)]
    assert {"twinstream source", "numba", "opencv", "ffmpeg", "ray"} <= told["versions"].keys()
    write_report(tmp_path, tally, rows, 4.0)
    assert json.loads((tmp_path / "run.json").read_text()) == told


def test_every_event_is_a_line_of_the_log() -> None:
    file = io.StringIO()
    log = RunLog(file)
    log.tell(Event(Happening.STARTED, "one/1"))
    log.tell(Event(Happening.VIDEO, "one/1", "train-000000", "länge", done("länge", 0.5)))
    first, second = (json.loads(line) for line in file.getvalue().splitlines())
    assert (first["event"], first["worker"]) == ("worker started", "one/1")
    assert (second["key"], second["status"], second["seconds"]["flow"]) == ("länge", "written", 0.5)
    assert log.note().endswith("1 worker")


def test_a_lost_worker_is_told_in_one_line_and_a_finished_video_in_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = RunLog(io.StringIO())
    log.tell(Event(Happening.VIDEO, "one/1", "train-000000", "a", done("a", 0.5)))
    log.tell(Event(Happening.LOST, "one/1", "train-000000", "b"))
    assert capsys.readouterr().err == "worker lost: one/1, train-000000, b\n"
