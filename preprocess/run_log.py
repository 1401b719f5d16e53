"""What a run tells of itself: one line an event in run.jsonl as it goes, run.json at the end.

Both lie beside dataset.json and are no part of the dataset: they hold clocks and hosts, and nothing
hashes them. The log grows over resumed runs; run.json speaks of the last run alone, and of every
video in its totals.
"""

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import IO, Any

from tqdm import tqdm

from twinstream.preprocess.job import PARTS, VideoDone
from twinstream.preprocess.nodes import versions_here
from twinstream.shards.atomic import write_atomically
from twinstream.shards.storage import Location
from twinstream.shards.videos import Status, VideoRow

LOG_NAME, REPORT_NAME = "run.jsonl", "run.json"
NUM_SLOWEST = 10


class Happening(StrEnum):
    """What can happen to a worker or in it."""

    STARTED = "worker started"
    ENDED = "worker ended"
    LOST = "worker lost"
    VIDEO = "video done"
    CRASHED = "video given up: crashed"
    TIMED_OUT = "video given up: timed out"
    WAITING = "no worker could start yet"


TOLD_AT_ONCE = {Happening.LOST, Happening.CRASHED, Happening.TIMED_OUT, Happening.WAITING}


@dataclass(frozen=True)
class Event:
    """Something that happened; `worker` is its host and process, `key` the video it is in."""

    happening: Happening
    worker: str
    job: str | None = None
    key: str | None = None
    done: VideoDone | None = None


@dataclass
class RunTally:
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
        if event.happening is Happening.STARTED:
            self.alive.add(event.worker)
        elif event.happening in (Happening.ENDED, Happening.LOST, Happening.TIMED_OUT):
            self.alive.discard(event.worker)
            self.num_lost += event.happening is not Happening.ENDED
        elif event.done is not None:
            self._add_video(event.worker, event.done)

    def _add_video(self, worker: str, done: VideoDone) -> None:
        self.num_frames += done.num_frames
        self.seconds.update(done.seconds)
        self.frames_by_host[worker.partition("/")[0]] += done.num_frames
        if done.row.status == Status.SKIPPED:
            self.skipped[str(done.row.reason)] += 1
        one = (sum(done.seconds.values()), done.row.key, done.num_frames)
        self.slowest = sorted([*self.slowest, one], reverse=True)[:NUM_SLOWEST]

    def note(self, now: float) -> str:
        """`48 frames/s · decode 1.2 · flow 31 · encode 2.0 ms/frame · 3 skipped: too_short 3 · 2
        workers`.
        """
        parts = [
            f"{part} {1e3 * self.seconds[part] / max(self.num_frames, 1):.3g}" for part in PARTS
        ]
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(self.skipped.items()))
        skipped = f"{self.skipped.total()} skipped" + (f": {told}" if told else "")
        rate = self.num_frames / max(now - self.started, 1e-9)
        workers = f"{len(self.alive)} worker{'' if len(self.alive) == 1 else 's'}"
        return f"{rate:.3g} frames/s · {' · '.join(parts)} ms/frame · {skipped} · {workers}"


def trouble(event: Event) -> str:
    """`worker lost: host/4711, train-000003, Run/v_Run_g01_c01`, as far as each is known."""
    return f"{event.happening}: " + ", ".join(
        part for part in (event.worker, event.job, event.key) if part
    )


class RunLog:
    """Writes each event to run.jsonl below `out` and keeps the sums."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.tally = RunTally(time.monotonic())

    def tell(self, event: Event) -> None:
        """One line: when, what, who, where, and of a video what became of it and how
        long it took.
        """
        if event.happening is Happening.STARTED and not self.tally.num_frames:
            # The rate is that of work; Ray's own start does not grow with the videos.
            self.tally.started = time.monotonic()
        self.tally.add(event)
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "event": event.happening,
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
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if event.happening in TOLD_AT_ONCE:
            tqdm.write(trouble(event), file=sys.stderr)

    def note(self) -> str:
        """The sums for the progress line."""
        return self.tally.note(time.monotonic())


def report(tally: RunTally, rows: list[VideoRow], seconds: float) -> dict[str, Any]:
    """run.json: throughput, hosts and slowest videos of this run of `seconds`, versions, totals of
    the dataset.
    """
    frames = max(tally.num_frames, 1)
    return {
        "seconds": round(seconds, 1),
        "num_frames": tally.num_frames,
        "frames_per_second": round(tally.num_frames / max(seconds, 1e-9), 2),
        "ms_per_frame": {part: round(1e3 * tally.seconds[part] / frames, 3) for part in PARTS},
        "frames_by_host": dict(sorted(tally.frames_by_host.items())),
        "workers_lost": tally.num_lost,
        "versions": dict(sorted((versions_here() | {"ray": version("ray")}).items())),
        "videos": dict(sorted(Counter(row.reason or row.status for row in rows).items())),
        "slowest": [
            {"key": key, "seconds": round(spent, 2), "num_frames": count}
            for spent, key, count in tally.slowest
        ],
    }


def write_report(out: Location, tally: RunTally, rows: list[VideoRow], seconds: float) -> None:
    """Write run.json below `out`; it is no part of the dataset."""
    text = json.dumps(report(tally, rows, seconds), indent=2, ensure_ascii=False)
    write_atomically(out / REPORT_NAME, (text + "\n").encode())
