"""A pool of workers that makes every job, on machines that may come, go and fail.

The pool keeps each worker busy with one job, a shard, at a time, and decides what a fault means:
the job is made again, a video is left out, or the run ends. It knows no Ray: what it asks of
machines is the protocol `Cluster`, and the clock is an argument, so that every branch is tested
without processes and without waiting. A worker goes on to its next step only when its last message
has been taken; hence the pool knows in which video a worker died or hangs.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from twinstream.errors import InputError
from twinstream.preprocess.cluster.nodes import NodeAnswer
from twinstream.preprocess.cluster.resources import WorkerResources, num_workers_that_fit
from twinstream.preprocess.cluster.retries import Retries
from twinstream.preprocess.cluster.run_log import Event, EventKind
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job
from twinstream.shards.format.video_table import Reason, VideoError

POLL_SECONDS = 1.0
RESOURCES_SECONDS = 5.0
CLOSE_SECONDS = 10.0
# An autoscaler needs minutes for a node; a line explains why nothing happens until then.
WAITING_SECONDS = 30.0
MAX_FAILED_STARTS = 3


@dataclass(frozen=True)
class Ready:
    """A worker has started: its name, host/process, and the id of its node."""

    name: str
    node: str


@dataclass(frozen=True)
class JobDone:
    """A worker has written its shard."""


@dataclass(frozen=True)
class Died:
    """A worker is gone; `error` is the cluster's account of it."""

    error: Exception


@dataclass(frozen=True)
class Failed:
    """A worker is there, but its code has raised `cause`; `error` holds its traceback as text."""

    cause: Exception
    error: Exception


Message = Ready | VideoAt | VideoDone | JobDone | Died | Failed


class Cluster(Protocol):
    """Machines and their workers; a worker is known by the number that `start` returned."""

    def start(self) -> int:
        """Start a worker as soon as there is room for it; it answers Ready, Died or Failed."""

    def run(self, worker: int, job: Job, given_up: Mapping[str, VideoError]) -> None:
        """Give a job to a worker that has none; its messages end with JobDone, Died or Failed.

        Videos in `given_up`, by key, are not opened.
        """

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """One message of each worker that has any, after at most so many seconds.

        Each is taken from its worker only when the iterator comes to it.
        """

    def kill(self, worker: int) -> None:
        """End a worker at once; if it was at work, Died follows, perhaps after a last message."""

    def nodes(self) -> Mapping[str, NodeAnswer | None]:
        """The nodes alive that can have workers, by id, with each node's answer to the check.

        The check is of versions and disks; None before the answer, or where none is needed.
        """

    def resources(self) -> Mapping[str, float]:
        """CPU and GPU of all nodes together."""


@dataclass
class WorkerState:
    """Where a worker is, which job it has, which video it is in, and when it was heard last."""

    name: str = ""
    node: str = ""
    job: Job | None = None
    key: str | None = None
    heard_at: float = 0.0


class Pool:
    """Makes all `jobs` by workers that take `each` of a machine; `run` may be called once.

    `workers` is their number, None for as many as fit. A video without progress for
    `timeout_seconds` is left out (None: never). A worker's death counts as a try of its video, but
    not if its node turns out to be gone within `node_seconds`. `check_node` raises InputError for a
    node that is not fit; where it is None, nodes are not checked.
    """

    def __init__(
        self,
        cluster: Cluster,
        jobs: list[Job],
        *,
        workers: int | None,
        each: WorkerResources,
        max_tries: int,
        timeout_seconds: float | None,
        node_seconds: float = 0.0,
        check_node: Callable[[NodeAnswer], None] | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._clock, self._on_event = cluster, clock, on_event
        self._num_workers, self._each = workers, each
        self._retries = Retries(max_tries)
        self._timeout_seconds, self._node_seconds = timeout_seconds, node_seconds
        self._check_node = check_node
        # The end is what is taken next: the plan's order, and a job that is made again goes first.
        self._waiting = list(reversed(jobs))
        self._workers: dict[int, WorkerState] = {}
        self._lost: list[tuple[float, WorkerState]] = []
        # Of each job that is not made yet: of all videos of a run they would be a gigabyte.
        self._done: dict[str, set[str]] = {}
        self._fit_nodes: set[str] = set()
        self._nodes_due = check_node is not None
        self._failed_starts = 0
        self._num_wanted, self._counted_at = 1, float("-inf")
        self._busy_at: float | None = None

    def run(self, check_stop: Callable[[], None]) -> Iterator[VideoDone]:
        """Make every job; yields each video once, however often its job was tried.

        `check_stop` raises when the run is to end.
        """
        while self._waiting or self._lost or self._num_busy():
            check_stop()
            self._judge_losses()
            self._start_workers()
            self._explain_waiting()
            waited_from = self._clock()
            for worker, message in self._cluster.wait(POLL_SECONDS):
                # A worker that was killed may have left a message.
                if worker in self._workers:
                    yield from self._hear(worker, message)
            self._kill_hanging(waited_from)

    def close(self) -> None:
        """Kill every worker, and wait until those at work are gone: they could go on writing."""
        for worker in self._workers:
            self._cluster.kill(worker)
        left = {worker for worker, state in self._workers.items() if state.job is not None}
        self._workers.clear()
        deadline = self._clock() + CLOSE_SECONDS
        while left and self._clock() < deadline:
            for worker, message in self._cluster.wait(POLL_SECONDS):
                if isinstance(message, JobDone | Died | Failed):
                    left.discard(worker)

    def _num_busy(self) -> int:
        return sum(state.job is not None for state in self._workers.values())

    def _judge_losses(self) -> None:
        """Start the jobs of dead workers again.

        A death counts as a try of the video, unless the worker's node is gone too.
        """
        if not self._lost:
            return
        alive = self._cluster.nodes()
        now = self._clock()
        judged = [(at, state) for at, state in self._lost if at <= now or state.node not in alive]
        self._lost = [entry for entry in self._lost if entry not in judged]
        for _, state in judged:
            assert state.job is not None
            self._waiting.append(state.job)
            # Between two videos it was writing, and what died is counted by the job's name.
            if state.node in alive and self._retries.died(state.key or state.job.name):
                if state.key is None:
                    raise InputError(
                        f"{state.job.name}: its worker died each time that it wrote the shard"
                    )
                self._give_up(state, state.key, Reason.CRASHED)

    def _start_workers(self) -> None:
        """Start as many as there is room and work for, once every node has been found fit."""
        now = self._clock()
        if now - self._counted_at > RESOURCES_SECONDS:
            self._counted_at = now
            # At least one, even if nothing fits yet: an autoscaler adds nodes for what waits.
            self._num_wanted = self._num_workers or max(
                1, num_workers_that_fit(self._cluster.resources(), self._each)
            )
            # After the count, so that no node is counted that is not checked.
            self._nodes_due = self._check_node is not None
        if self._nodes_due:
            self._nodes_due = not self._all_nodes_fit()
        if self._nodes_due:
            return
        num_useful = min(self._num_wanted, self._num_busy() + len(self._waiting))
        for _ in range(len(self._workers), num_useful):
            self._workers[self._cluster.start()] = WorkerState()

    def _all_nodes_fit(self) -> bool:
        """False while a node has yet to answer; InputError when one is not fit."""
        assert self._check_node is not None
        nodes = self._cluster.nodes()
        for node, answer in nodes.items():
            if answer is not None and node not in self._fit_nodes:
                self._check_node(answer)
                self._fit_nodes.add(node)
        return None not in nodes.values()

    def _explain_waiting(self) -> None:
        """Say it once when nothing has been at work for long."""
        now = self._clock()
        if self._busy_at is None or self._num_busy():
            self._busy_at = now
        elif now - self._busy_at > WAITING_SECONDS:
            self._busy_at = float("inf")  # Until the next worker is busy.
            has = self._cluster.resources()
            text = f"the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
            self._on_event(Event(EventKind.WAITING, text))

    def _hear(self, worker: int, message: Message) -> Iterator[VideoDone]:
        state = self._workers[worker]
        state.heard_at = self._clock()
        match message:
            case Ready(name, node):
                state.name, state.node = name, node
                self._failed_starts = 0
                self._emit(EventKind.STARTED, state)
                self._next_job(worker)
            case VideoAt(key):
                state.key = key
            case VideoDone():
                yield from self._video_done(state, message)
            case JobDone():
                assert state.job is not None
                self._done.pop(state.job.path, None)
                self._next_job(worker)
            case Died(error):
                self._lose(worker, error)
            case Failed(cause, error):
                self._cluster.kill(worker)
                # Memory may have run out anywhere in it, so that it is not to be used again.
                if isinstance(cause, MemoryError):
                    self._lose(worker, MemoryError(f"no memory: {cause}"))
                    return
                del self._workers[worker]
                # A fault of the user's input or disk is one line, without the way it took.
                raise cause if isinstance(cause, InputError | OSError) else error

    def _next_job(self, worker: int) -> None:
        """Give a worker without work its next job, or let it go."""
        state = self._workers[worker]
        if not self._waiting:
            # Its CPUs may be what another run or the autoscaler waits for.
            self._cluster.kill(worker)
            self._emit(EventKind.ENDED, state)
            del self._workers[worker]
            return
        state.job = self._waiting.pop()
        given_up = self._retries.given_up
        # A job's videos are made for this look, and most runs give none up.
        keys = [video.key for video in state.job.items if video.key in given_up] if given_up else ()
        self._cluster.run(worker, state.job, {key: given_up[key] for key in keys})

    def _video_done(self, state: WorkerState, done: VideoDone) -> Iterator[VideoDone]:
        key = done.row.key
        self._retries.succeeded(key)
        assert state.job is not None
        done_before = self._done.setdefault(state.job.path, set())
        # A job that is made again comes to its first videos again.
        if key not in done_before:
            done_before.add(key)
            self._emit(EventKind.VIDEO, state, done)
            yield done
        state.key = None

    def _lose(self, worker: int, error: Exception) -> None:
        """A worker died.

        At work: later it is judged whether its node died too. While it started: it is started
        again; InputError after too many times in a row.
        """
        state = self._workers.pop(worker)
        self._emit(EventKind.LOST, state)
        if state.job is not None:
            self._lost.append((self._clock() + self._node_seconds, state))
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS * self._num_wanted:
            # Of Ray's words, which are pages, the first line.
            told = str(error).partition("\n")[0]
            raise InputError(f"workers die as they start ({told})") from error

    def _kill_hanging(self, waited_from: float) -> None:
        """Kill workers that made no progress for too long, and leave out the videos they were in.

        The measure is when the wait began, not now: the caller of `run` may take its time with each
        video, and messages that came meanwhile have not been taken yet.
        """
        if self._timeout_seconds is None:
            return
        for worker, state in list(self._workers.items()):
            is_late = waited_from - state.heard_at > self._timeout_seconds
            if is_late and state.job is not None and state.key is not None:
                self._cluster.kill(worker)
                self._give_up(state, state.key, Reason.TIMED_OUT)
                self._waiting.append(state.job)
                del self._workers[worker]

    def _give_up(self, state: WorkerState, key: str, reason: Reason) -> None:
        self._retries.give_up(key, reason)
        kind = EventKind.CRASHED if reason is Reason.CRASHED else EventKind.TIMED_OUT
        self._emit(kind, state)

    def _emit(self, kind: EventKind, state: WorkerState, done: VideoDone | None = None) -> None:
        job = state.job.name if state.job else None
        self._on_event(Event(kind, state.name, job, state.key, done))
