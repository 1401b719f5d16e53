"""The log of a run: run.jsonl, one line an event as it happens, and run.json, a report at the end.

Both lie beside dataset.json and are no part of the dataset: they hold times and hosts, and no
digest covers them. Resumed runs append to the log; run.json is of the last run alone, but for its
counts of videos, which are of the whole dataset.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Any

from twinstream.preprocess.cluster.nodes import package_version, versions_here
from twinstream.preprocess.job import PARTS, VideoDone
from twinstream.progress import LOGGER
from twinstream.shards.format.video_table import Status, VideoRow, counts_of
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import Location

LOG_NAME, REPORT_NAME = "run.jsonl", "run.json"
NUM_SLOWEST = 10
NOTE_SECONDS = 0.1
# `json.dumps` would make an encoder for each line.
_spelt = json.JSONEncoder(ensure_ascii=False).encode


class EventKind(StrEnum):
    """What can happen to a worker or in it; the values are the words of run.jsonl."""

    STARTED = "worker started"
    ENDED = "worker ended"
    LOST = "worker lost"
    VIDEO = "video done"
    CRASHED = "video given up: crashed"
    TIMED_OUT = "video given up: timed out"
    WAITING = "no worker could start yet"


# Printed when they happen; the progress line has room for numbers alone.
SHOWN_AT_ONCE = {EventKind.LOST, EventKind.CRASHED, EventKind.TIMED_OUT, EventKind.WAITING}


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    `worker` is its host/process, `key` the video it is in, `done` that video when it is finished.
    """

    kind: EventKind
    worker: str
    job: str | None = None
    key: str | None = None
    done: VideoDone | None = None


@dataclass
class RunTotals:
    """Sums over the videos of this run, and the workers that are alive."""

    started: float
    num_frames: int = 0
    num_lost: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    alive: set[str] = field(default_factory=set)
    frames_by_host: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, str, int]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count one event."""
        if event.kind is EventKind.STARTED:
            self.alive.add(event.worker)
        elif event.kind in (EventKind.ENDED, EventKind.LOST, EventKind.TIMED_OUT):
            self.alive.discard(event.worker)
            # A worker that hangs is killed, which is as much of a loss.
            self.num_lost += event.kind is not EventKind.ENDED
        elif event.done is not None:
            self._add_video(event.worker, event.done)

    def _add_video(self, worker: str, done: VideoDone) -> None:
        self.num_frames += done.num_frames
        self.seconds.update(done.seconds)
        self.frames_by_host[worker.partition("/")[0]] += done.num_frames
        if done.row.status == Status.SKIPPED:
            self.skipped[str(done.row.reason)] += 1
        one = (sum(done.seconds.values()), done.row.key, done.num_frames)
        if len(self.slowest) < NUM_SLOWEST or one > self.slowest[-1]:
            self.slowest = sorted([*self.slowest, one], reverse=True)[:NUM_SLOWEST]

    def note(self, now: float) -> str:
        """One line for the progress bar, whose end a narrow terminal leaves out.

        `3 skipped · too_short 3 · 48 frames/s · decode 1.2, flow 31, encode 2.0 ms/frame · 2
        workers`
        """
        parts = [
            f"{part} {1e3 * self.seconds[part] / max(self.num_frames, 1):.3g}"
            for part in PARTS
            # A check decodes and does no more.
            if self.seconds[part]
        ]
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.skipped.items()))
        skipped = [f"{self.skipped.total()} skipped", *([reasons] if reasons else [])]
        rate = self.num_frames / max(now - self.started, 1e-9)
        workers = f"{len(self.alive)} worker{'' if len(self.alive) == 1 else 's'}"
        return " · ".join(
            (*skipped, f"{rate:.3g} frames/s", f"{', '.join(parts)} ms/frame", workers)
        )


def event_line(event: Event) -> str:
    """`worker lost: host/4711, train-000003, Run/v_Run_g01_c01`, as far as each is known."""
    return f"{event.kind}: " + ", ".join(
        part for part in (event.worker, event.job, event.key) if part
    )


class RunLog:
    """Writes each event to an open run.jsonl and keeps the sums."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.totals = RunTotals(time.monotonic())
        self._note, self._noted_at = "", float("-inf")

    def write(self, event: Event) -> None:
        """Append a line: time, kind, worker, job, video; print it too if it is trouble.

        The line of a finished video also has its status, reason, frames and seconds.
        """
        if event.kind is EventKind.STARTED and not self.totals.num_frames:
            # Frames/s is the rate of work: Ray's start takes as long for few videos as for many.
            self.totals.started = time.monotonic()
        self.totals.add(event)
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "event": event.kind,
            "worker": event.worker,
        }
        line |= {"job": event.job, "key": event.key}
        if event.done is not None:
            row = event.done.row
            line |= {
                "status": row.status,
                "reason": row.reason,
                "num_frames": event.done.num_frames,
            }
            line["seconds"] = {
                part: round(seconds, 3) for part, seconds in event.done.seconds.items()
            }
        self._file.write(_spelt(line) + "\n")
        # At once, so that the log of a run that is killed is complete.
        self._file.flush()
        level = logging.WARNING if event.kind in SHOWN_AT_ONCE else logging.DEBUG
        if LOGGER.isEnabledFor(level):
            LOGGER.log(level, event_line(event))

    def note(self) -> str:
        """The sums for the progress line, a tenth of a second old at most."""
        now = time.monotonic()
        # Thousands of workers tell of more videos than a line can show.
        if now - self._noted_at > NOTE_SECONDS:
            self._noted_at, self._note = now, self.totals.note(now)
        return self._note


def report(totals: RunTotals, rows: Iterable[VideoRow], seconds: float) -> dict[str, Any]:
    """The content of run.json, for a run of `seconds`.

    Throughput, hosts and slowest videos of this run; versions; totals of the dataset.
    """
    frames = max(totals.num_frames, 1)
    videos: Counter[str] = Counter()
    for (status, reason), count in counts_of(rows).items():
        videos[reason or status] += count
    return {
        "seconds": round(seconds, 1),
        "num_frames": totals.num_frames,
        "frames_per_second": round(totals.num_frames / max(seconds, 1e-9), 2),
        "ms_per_frame": {part: round(1e3 * totals.seconds[part] / frames, 3) for part in PARTS},
        "frames_by_host": dict(sorted(totals.frames_by_host.items())),
        "workers_lost": totals.num_lost,
        "versions": dict(sorted((versions_here() | {"ray": package_version("ray")}).items())),
        "videos": dict(sorted(videos.items())),
        "slowest": [
            {"key": key, "seconds": round(spent, 2), "num_frames": count}
            for spent, key, count in totals.slowest
        ],
    }


def write_report(
    out: Location, totals: RunTotals, rows: Iterable[VideoRow], seconds: float
) -> None:
    """Write run.json below `out`; it is no part of the dataset."""
    text = json.dumps(report(totals, rows, seconds), indent=2, ensure_ascii=False)
    write_atomically(out / REPORT_NAME, (text + "\n").encode())
