"""Every branch of the pool, on a cluster of scripted workers where time passes only in waits."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Video
from twinstream.preprocess.cluster.nodes import NodeAnswer, NodeReport, NodeRequirements
from twinstream.preprocess.cluster.pool import Died, Failed, JobDone, Message, Pool, Ready
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.run_log import Event, EventKind
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job
from twinstream.shards.format.video_table import VideoError, VideoRow

MAX_MESSAGES, MAX_SECONDS = 1000, 1000.0
GONE = Died(RuntimeError("the actor is gone"))
ONE_NODE: dict[str, NodeAnswer | None] = {"node": None}

# What a worker has to say; None is a second without a word.
Script = Iterator[Message | None]


def job(number: int, *keys: str) -> Job:
    videos = [Video(key, f"{key}.avi", "a", 0, "train", True) for key in keys]
    return Job("train", f"train-{number:06d}", tuple(videos))


def done(key: str, reason: str | None = None) -> VideoDone:
    status = "skipped" if reason else "written"
    return VideoDone(VideoRow(key, f"{key}.avi", "a", 0, "train", status, reason), 10, {})


def hang() -> Script:
    while True:
        yield None


def slow(key: str, seconds: int) -> Script:
    """A video that takes its time and gives a sign of life each second."""
    for _ in range(seconds):
        yield VideoAt(key)
        yield None


def quiet(seconds: int) -> Script:
    yield from [None] * seconds


def late_ready(seconds: int) -> Script:
    yield from quiet(seconds)
    yield Ready("host/x", "node")


class FakeCluster:
    """Workers follow scripts: `starts` for the next that start, `tries` for a video's next tries,
    `writes` for a job's next ends. Without a script all goes well. `at` holds what happens when.
    """

    def __init__(
        self, *, cpus: float = 1, nodes: Mapping[str, NodeAnswer | None] = ONE_NODE
    ) -> None:
        self.cpus, self.alive, self.now = cpus, dict(nodes), 0.0
        self.starts: list[Script] = []
        self.tries: dict[str, list[Script]] = {}
        self.writes: dict[str, list[Script]] = {}
        self.at: dict[float, Callable[[], None]] = {}
        self.scripts: dict[int, Script] = {}
        self.killed: list[int] = []
        self.jobs: list[tuple[int, str, tuple[str, ...]]] = []
        self.num_started = self.num_messages = 0

    def clock(self) -> float:
        return self.now

    def start(self) -> int:
        self.num_started += 1
        worker = self.num_started
        self.scripts[worker] = (
            self.starts.pop(0) if self.starts else iter([Ready(f"host/{worker}", "node")])
        )
        return worker

    def run(self, worker: int, job: Job, given_up: Mapping[str, VideoError]) -> None:
        assert worker not in self.scripts, "a worker has one job at a time"
        self.jobs.append((worker, job.name, tuple(given_up)))
        self.scripts[worker] = self._steps(job, given_up)

    def _steps(self, job: Job, given_up: Mapping[str, VideoError]) -> Script:
        for video in job.items:
            yield VideoAt(video.key)
            if video.key in given_up:
                yield done(video.key, given_up[video.key].reason.value)
                continue
            if self.tries.get(video.key):
                yield from self.tries[video.key].pop(0)
            yield done(video.key)
        if self.writes.get(job.name):
            yield from self.writes[job.name].pop(0)
        yield JobDone()

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        is_silent = True
        for worker in list(self.scripts):
            message = next(self.scripts[worker])
            if message is not None:
                is_silent = False
                self.num_messages += 1
                assert self.num_messages < MAX_MESSAGES, "no end"
                if isinstance(message, Ready | JobDone | Died | Failed):
                    del self.scripts[worker]
                yield worker, message
        if is_silent:
            self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < MAX_SECONDS, "no end"
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()

    def kill(self, worker: int) -> None:
        assert worker not in self.killed, "a worker is killed once"
        self.killed.append(worker)
        if worker in self.scripts:
            self.scripts[worker] = iter([GONE])

    def nodes(self) -> Mapping[str, NodeAnswer | None]:
        return dict(self.alive)

    def resources(self) -> Mapping[str, float]:
        return {"CPU": self.cpus}


class Run:
    """A pool on a fake cluster, and the events it has reported."""

    def __init__(self, cluster: FakeCluster, *jobs: Job, **options: Any) -> None:
        self.cluster, self.events = cluster, list[Event]()
        defaults: dict[str, Any] = {"workers": None, "each": WorkerResources(), "max_tries": 3}
        defaults |= {"timeout_seconds": None, "on_event": self.events.append}
        self.pool = Pool(cluster, list(jobs), clock=cluster.clock, **defaults | options)

    def videos(self, check_stop: Callable[[], None] = lambda: None) -> list[tuple[str, str]]:
        """Make all jobs; key and reason (or status) of each video that was yielded."""
        rows = [video.row for video in self.pool.run(check_stop)]
        return [(row.key, row.reason or row.status) for row in rows]

    def count(self, kind: EventKind) -> int:
        return [event.kind for event in self.events].count(kind)

    def of_kind(self, kind: EventKind) -> list[tuple[str, str | None, str | None]]:
        """Worker, job and video of each event of this kind."""
        return [(event.worker, event.job, event.key) for event in self.events if event.kind is kind]


def test_one_worker_makes_the_jobs_in_order_and_is_let_go() -> None:
    run = Run(FakeCluster(), job(0, "a", "b"), job(1, "c"))
    assert run.videos() == [("a", "written"), ("b", "written"), ("c", "written")]
    assert run.events == [
        Event(EventKind.STARTED, "host/1"),
        Event(EventKind.VIDEO, "host/1", "train-000000", "a", done("a")),
        Event(EventKind.VIDEO, "host/1", "train-000000", "b", done("b")),
        Event(EventKind.VIDEO, "host/1", "train-000001", "c", done("c")),
        Event(EventKind.ENDED, "host/1", "train-000001"),
    ]
    assert run.cluster.killed == [1]


def test_without_jobs_no_worker_is_started() -> None:
    cluster = FakeCluster()
    assert Run(cluster).videos() == []
    assert cluster.num_started == 0


def test_a_video_in_which_workers_die_three_times_in_a_row_is_left_out_as_crashed() -> None:
    cluster = FakeCluster()
    cluster.tries["b"] = [iter([GONE]) for _ in range(3)]
    run = Run(cluster, job(0, "a", "b", "c"), job(1, "d"))
    assert run.videos() == [
        ("a", "written"),
        ("b", "crashed"),
        ("c", "written"),
        ("d", "written"),
    ]
    lost = [(f"host/{worker}", "train-000000", "b") for worker in (1, 2, 3)]
    assert run.of_kind(EventKind.LOST) == lost
    assert run.of_kind(EventKind.CRASHED) == lost[2:]
    first, again = (1, "train-000000", ()), (4, "train-000000", ("b",))
    assert cluster.jobs[0] == first
    assert cluster.jobs[3:] == [again, (4, "train-000001", ())]


def test_a_video_that_succeeds_at_its_third_try_is_written() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [iter([GONE]), iter([GONE])]
    run = Run(cluster, job(0, "a"))
    assert run.videos() == [("a", "written")]
    assert (run.count(EventKind.LOST), run.count(EventKind.CRASHED)) == (2, 0)


def test_deaths_count_in_a_row_and_not_over_the_whole_run() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [iter([GONE]), quiet(0), iter([GONE])]
    cluster.tries["b"] = [iter([GONE])]
    run = Run(cluster, job(0, "a", "b"), max_tries=2)
    assert run.videos() == [("a", "written"), ("b", "written")]
    assert [key for _, _, key in run.of_kind(EventKind.LOST)] == ["a", "b", "a"]
    assert run.count(EventKind.CRASHED) == 0


def test_each_video_is_yielded_once_however_often_its_job_is_made() -> None:
    cluster = FakeCluster()
    cluster.tries["c"] = [iter([GONE]), iter([GONE])]
    run = Run(cluster, job(0, "a", "b", "c"))
    assert [key for key, _ in run.videos()] == ["a", "b", "c"]
    assert [key for _, _, key in run.of_kind(EventKind.VIDEO)] == ["a", "b", "c"]
    assert [name for _, name, _ in cluster.jobs] == ["train-000000"] * 3


def test_a_worker_that_dies_each_time_it_writes_the_shard_ends_the_run() -> None:
    cluster = FakeCluster()
    cluster.writes["train-000000"] = [iter([GONE]), iter([GONE])]
    run = Run(cluster, job(0, "a"), max_tries=2)
    with pytest.raises(
        InputError, match=r"^train-000000: its worker died each time that it wrote the shard$"
    ):
        run.videos()
    assert run.of_kind(EventKind.LOST) == [(f"host/{n}", "train-000000", None) for n in (1, 2)]


def test_a_worker_that_dies_once_as_it_writes_the_shard_costs_nothing() -> None:
    cluster = FakeCluster()
    cluster.writes["train-000000"] = [iter([GONE])]
    assert Run(cluster, job(0, "a"), max_tries=2).videos() == [("a", "written")]


def test_a_lost_node_counts_against_no_video_and_its_jobs_go_on_as_soon_as_it_is_known() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [iter([GONE])]
    cluster.at[7] = cluster.alive.clear
    run = Run(cluster, job(0, "a"), max_tries=1, node_seconds=20)
    assert run.videos() == [("a", "written")]
    assert run.count(EventKind.LOST) == 1
    assert cluster.now == 7


def test_a_death_on_a_node_that_stays_is_counted_when_that_is_clear() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [iter([GONE])]
    run = Run(cluster, job(0, "a"), max_tries=1, node_seconds=20)
    assert run.videos() == [("a", "crashed")]
    assert cluster.now == 20


def test_a_hanging_video_is_left_out_at_once_and_its_worker_killed() -> None:
    cluster = FakeCluster()
    cluster.tries["b"] = [hang()]
    run = Run(cluster, job(0, "a", "b", "c"), timeout_seconds=6)
    assert run.videos() == [("a", "written"), ("b", "timed_out"), ("c", "written")]
    assert run.of_kind(EventKind.TIMED_OUT) == [("host/1", "train-000000", "b")]
    assert cluster.killed == [1, 2]
    assert 6 < cluster.now <= 8
    # Its death is no loss: it was killed.
    assert run.count(EventKind.LOST) == 0


def test_without_a_time_out_a_quiet_video_may_take_as_long_as_it_likes() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [quiet(500)]
    assert Run(cluster, job(0, "a")).videos() == [("a", "written")]


def test_a_slow_video_with_signs_of_life_does_not_time_out() -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [slow("a", 60)]
    assert Run(cluster, job(0, "a"), timeout_seconds=2).videos() == [("a", "written")]
    assert cluster.now == 60


def test_only_videos_time_out_and_neither_starts_nor_writing() -> None:
    cluster = FakeCluster()

    cluster.starts = [late_ready(20)]
    cluster.writes["train-000000"] = [quiet(20)]
    assert Run(cluster, job(0, "a"), timeout_seconds=6).videos() == [("a", "written")]
    assert cluster.now == 40


def test_time_that_the_caller_takes_for_itself_is_no_time_out_of_the_workers() -> None:
    cluster = FakeCluster(cpus=2)
    cluster.tries["b"] = [quiet(1)]
    run = Run(cluster, job(0, "a"), job(1, "b"), timeout_seconds=6)
    keys = []
    for video in run.pool.run(lambda: None):
        keys.append(video.row.key)
        cluster.pass_time(100)
    assert keys == ["a", "b"]
    assert run.count(EventKind.TIMED_OUT) == 0


def test_a_message_that_a_killed_worker_has_left_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster()
    cluster.tries["a"] = [hang()]
    run = Run(cluster, job(0, "a"), timeout_seconds=6)

    def kill(worker: int, kill: Callable[[int], None] = cluster.kill) -> None:
        kill(worker)
        if worker == 1:
            cluster.scripts[worker] = iter([done("a"), GONE])

    monkeypatch.setattr(cluster, "kill", kill)
    assert run.videos() == [("a", "timed_out")]


def test_workers_that_die_as_they_start_end_the_run_after_three_for_each_that_is_wanted() -> None:
    cluster = FakeCluster(cpus=2)
    cluster.starts = [iter([GONE]) for _ in range(100)]
    run = Run(cluster, *[job(n, str(n)) for n in range(9)])
    with pytest.raises(InputError, match=r"^workers die as they start \(the actor is gone\)$"):
        run.videos()
    assert run.of_kind(EventKind.LOST) == [("", None, None)] * 6


def test_failed_starts_count_in_a_row() -> None:
    cluster = FakeCluster()
    ready = [iter([Ready("host/x", "node")]) for _ in range(2)]
    for start in ready:
        cluster.starts += [iter([GONE]), iter([GONE]), start]
    cluster.tries["a"] = [iter([GONE])]
    run = Run(cluster, job(0, "a"))
    assert run.videos() == [("a", "written")]
    assert run.count(EventKind.LOST) == 5


def test_a_worker_without_memory_is_killed_and_counts_as_dead() -> None:
    cluster = FakeCluster()
    full = Failed(MemoryError("no room"), RuntimeError("the actor has no room"))
    cluster.tries["a"] = [iter([full])]
    run = Run(cluster, job(0, "a"))
    assert run.videos() == [("a", "written")]
    assert run.of_kind(EventKind.LOST) == [("host/1", "train-000000", "a")]
    assert cluster.killed[0] == 1
    cluster = FakeCluster()
    cluster.tries["a"] = [iter([full])]
    assert Run(cluster, job(0, "a"), max_tries=1).videos() == [("a", "crashed")]


def test_workers_without_memory_to_start_end_the_run() -> None:
    cluster = FakeCluster()
    full = Failed(MemoryError("no room"), RuntimeError("the actor has no room"))
    cluster.starts = [iter([full]) for _ in range(3)]
    with pytest.raises(InputError, match=r"workers die as they start \(no memory: no room\)"):
        Run(cluster, job(0, "a")).videos()
    assert cluster.killed == [1, 2, 3]


@pytest.mark.parametrize("cause", [InputError("no GPU"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["start", "video", "write"])
def test_a_fault_of_input_or_disk_ends_the_run_as_the_worker_met_it(
    cause: Exception, where: str
) -> None:
    cluster = FakeCluster()
    script: Script = iter([Failed(cause, RuntimeError("the actor's traceback"))])
    if where == "start":
        cluster.starts = [script]
    elif where == "video":
        cluster.tries["a"] = [script]
    else:
        cluster.writes["train-000000"] = [script]
    run = Run(cluster, job(0, "a"))
    with pytest.raises(type(cause)) as caught:
        run.videos()
    assert caught.value is cause
    assert run.count(EventKind.LOST) == 0
    run.pool.close()
    assert cluster.killed == [1]
    assert cluster.now == 0


def test_any_other_error_of_a_worker_ends_the_run_with_its_traceback() -> None:
    cluster = FakeCluster()
    error = RuntimeError("the actor's traceback")
    cluster.tries["a"] = [iter([Failed(ValueError("a bug"), error)])]
    with pytest.raises(RuntimeError) as caught:
        Run(cluster, job(0, "a")).videos()
    assert caught.value is error


@pytest.mark.parametrize(
    ("cpus", "workers", "num_jobs", "cores", "num_started"),
    [
        (4, None, 9, 1, 4),
        (4, None, 9, 2, 2),
        (4, None, 3, 1, 3),
        (0, None, 9, 1, 1),
        (4, 2, 9, 1, 2),
        (1, 3, 9, 1, 3),
    ],
)
def test_there_are_as_many_workers_as_are_wanted_or_fit_and_never_more_than_jobs(
    cpus: float, workers: int | None, num_jobs: int, cores: int, num_started: int
) -> None:
    cluster = FakeCluster(cpus=cpus)
    jobs = [job(n, str(n)) for n in range(num_jobs)]
    run = Run(cluster, *jobs, workers=workers, each=WorkerResources(cores))
    assert len(run.videos()) == num_jobs
    assert cluster.num_started == run.count(EventKind.ENDED) == num_started


def test_resources_that_grow_start_more_workers() -> None:
    cluster = FakeCluster()
    for number in range(3):
        cluster.tries[str(number)] = [slow(str(number), 20)]
    cluster.at[3] = lambda: setattr(cluster, "cpus", 3)
    run = Run(cluster, *[job(n, str(n)) for n in range(3)])
    started_at = []

    def note() -> None:
        if cluster.num_started > len(started_at):
            started_at.append(cluster.now)

    assert len(run.videos(note)) == 3
    assert cluster.num_started == 3
    # They are counted every 5 s.
    assert started_at == [0, 6, 6]


REQUIRED = NodeRequirements({"numpy": "2.4.6"})
FIT = NodeReport("gpu7", {"numpy": "2.4.6"})
UNFIT = NodeReport("gpu8", {"numpy": "1.0.0"})


def test_no_worker_starts_before_every_node_has_answered() -> None:
    cluster = FakeCluster(nodes={"node": None, "other": FIT})

    def answer() -> None:
        assert cluster.num_started == 0
        cluster.alive["node"] = FIT

    cluster.at[4] = answer
    assert Run(cluster, job(0, "a"), check_node=REQUIRED.check).videos() == [("a", "written")]
    assert cluster.now == 4


def test_a_node_that_comes_while_jobs_are_made_is_checked_before_it_gets_work() -> None:
    cluster = FakeCluster(nodes={"node": FIT})
    for key in "abc":
        cluster.tries[key] = [slow(key, 30)]

    def come() -> None:
        cluster.cpus, cluster.alive["new"] = 2, None

    def answer() -> None:
        assert cluster.num_started == 1
        cluster.alive["new"] = FIT

    cluster.at |= {3: come, 12: answer}
    run = Run(cluster, *[job(n, key) for n, key in enumerate("abc")], check_node=REQUIRED.check)
    assert len(run.videos()) == 3
    assert cluster.num_started == 2


def test_each_node_is_checked_once() -> None:
    cluster = FakeCluster(nodes={"node": FIT})
    cluster.tries["a"] = [slow("a", 30)]
    checked: list[NodeAnswer] = []
    Run(cluster, job(0, "a"), check_node=checked.append).videos()
    assert checked == [FIT]


@pytest.mark.parametrize("comes_at", [0, 8])
def test_a_node_that_is_not_fit_ends_the_run(comes_at: float) -> None:
    cluster = FakeCluster(nodes={"node": FIT})
    cluster.tries["a"] = [slow("a", 30)]
    cluster.at[comes_at] = lambda: cluster.alive.update(new=UNFIT)
    cluster.pass_time(0)
    run = Run(cluster, job(0, "a"), check_node=REQUIRED.check)
    with pytest.raises(InputError, match=r"node gpu8: numpy is 1\.0\.0 there and 2\.4\.6 here"):
        run.videos()
    assert cluster.num_started == (comes_at > 0)


def test_the_wait_for_a_first_worker_is_explained_once() -> None:
    cluster = FakeCluster(cpus=0)
    cluster.starts = [late_ready(100)]
    run = Run(cluster, job(0, "a"))
    run.videos()
    assert run.of_kind(EventKind.WAITING) == [("the cluster has 0 CPUs and 0 GPUs", None, None)]
    assert run.events[0].kind is EventKind.WAITING


def test_a_second_wait_is_explained_again_and_a_short_one_is_not() -> None:
    cluster = FakeCluster()
    cluster.starts = [late_ready(31), late_ready(30), late_ready(32)]
    cluster.tries["a"] = [iter([GONE]), iter([GONE])]
    run = Run(cluster, job(0, "a"))
    run.videos()
    kinds = [event.kind for event in run.events]
    assert kinds == [
        *(EventKind.WAITING, EventKind.STARTED, EventKind.LOST),
        *(EventKind.STARTED, EventKind.LOST),
        *(EventKind.WAITING, EventKind.STARTED, EventKind.VIDEO, EventKind.ENDED),
    ]


def test_close_kills_all_workers_and_waits_for_those_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster(cpus=3)
    cluster.starts = [
        iter([Ready("host/1", "node")]),
        iter([Ready("host/2", "node")]),
        hang(),
    ]
    run = Run(cluster, *[job(n, str(n), f"{n} b") for n in range(3)])
    running = run.pool.run(lambda: None)
    next(running)

    def kill(worker: int) -> None:
        cluster.killed.append(worker)
        # One has a last word, one dies late, and one that only starts never answers.
        cluster.scripts[worker] = {
            1: iter([done("0"), None, None, GONE]),
            2: iter([None, GONE]),
            3: hang(),
        }[worker]

    monkeypatch.setattr(cluster, "kill", kill)
    running.close()
    run.pool.close()
    assert cluster.killed == [1, 2, 3]
    assert set(cluster.scripts) == {3}
    assert cluster.now <= 3


def test_close_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = FakeCluster()
    run = Run(cluster, job(0, "a"))
    running = run.pool.run(lambda: None)
    next(running)
    monkeypatch.setattr(cluster, "kill", lambda worker: cluster.scripts.update({worker: hang()}))
    running.close()
    run.pool.close()
    assert cluster.now == 10


def test_close_after_the_end_has_nothing_to_do() -> None:
    cluster = FakeCluster(cpus=2)
    run = Run(cluster, job(0, "a"), job(1, "b"))
    run.videos()
    run.pool.close()
    assert cluster.killed == [1, 2]
    assert cluster.now == 0


def test_a_stop_is_raised_between_two_steps() -> None:
    cluster = FakeCluster()
    run = Run(cluster, job(0, "a", "b", "c"))

    def check_stop() -> None:
        if run.count(EventKind.VIDEO) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.videos(check_stop)
    assert [key for _, _, key in run.of_kind(EventKind.VIDEO)] == ["a", "b"]
    run.pool.close()
    assert cluster.killed == [1]


def test_no_message_is_taken_while_the_caller_has_a_video_in_hand() -> None:
    cluster = FakeCluster(cpus=2)
    run = Run(cluster, job(0, "a"), job(1, "b"))
    running = run.pool.run(lambda: None)
    assert next(running).row.key == "a"
    # Two that are ready and begin their video, and the first's end: the second's still waits.
    assert cluster.num_messages == 5
    assert next(running).row.key == "b"
    assert cluster.num_messages == 6
