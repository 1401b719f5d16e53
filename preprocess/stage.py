"""Jobs over a pool of Ray actors: the only module that imports ray.

An actor takes one job at a time and streams back where it is; frames never enter Ray's object
store. A plain actor pool starts in a second where a Ray Data pipeline takes seven, and its unit of
retry is our shard. The stream lets the actor go on only when the last word has been heard, so the
driver knows which video a dead or hanging actor was in. Exceptions of the job itself end the run.
Nodes may come and go: the pool follows the CPUs of the cluster, and asks every node first whether
it has the versions and sees the disks that this one does.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from twinstream.errors import InputError
from twinstream.preprocess.blame import Blame
from twinstream.preprocess.job import Recipe, VideoAt, VideoDone, job_steps
from twinstream.preprocess.nodes import CommonGround, common_ground, node_task, num_places
from twinstream.preprocess.plan import Job
from twinstream.preprocess.run_log import Event, Happening
from twinstream.preprocess.shares import Node
from twinstream.preprocess.worker_setup import WorkerSetup, make_recipe
from twinstream.shards.videos import Reason, VideoError
from twinstream.signals import noted_signals

__all__ = ["WorkerSetup", "make_recipe", "run_jobs"]

POLL_SECONDS = 1.0
RESOURCES_SECONDS = 5.0
# Signs of life within a video, at most so often: one driver hears all of a cluster.
SIGN_SECONDS = 1.0
GOODBYE_SECONDS = 10.0
# A cluster notices the death of a node that fell silent only after its health checks have failed.
NODE_SECONDS = 20.0
MAX_FAILED_STARTS = 3
CONNECT_SECONDS = 10.0
# An autoscaler needs minutes for a node; until then the silence is explained.
WAITING_SECONDS = 30.0

OpenRecipe = Callable[[WorkerSetup], Recipe]


class Worker:
    """Runs jobs one after another; its engine is opened once."""

    def __init__(self, setup: WorkerSetup, open_recipe: OpenRecipe) -> None:
        self._setup, self._open_recipe = setup, open_recipe

    def open(self) -> tuple[str, str]:
        """Its name, host and process, and the id of its Ray node; answers as soon as it
        can work.
        """
        import ray

        host = socket.gethostname()
        try:
            self._recipe = self._open_recipe(self._setup)
        except InputError as error:
            raise InputError(f"{host}: {error}") from error
        return f"{host}/{os.getpid()}", ray.get_runtime_context().get_node_id()

    def run(self, job: Job, given_up: dict[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        """Make one shard, telling of each video, and now and then that one goes on."""
        setup = self._setup
        key, told = "", 0.0
        for step in job_steps(
            job, root=setup.root, out=setup.out, recipe=self._recipe, given_up=given_up
        ):
            now = time.monotonic()
            if isinstance(step, VideoDone) or step.key != key or now - told > SIGN_SECONDS:
                key, told = "" if isinstance(step, VideoDone) else step.key, now
                yield step


def run_jobs(
    jobs: list[Job],
    setup: WorkerSetup,
    *,
    workers: int | None,
    address: str | None,
    max_tries: int = 1,
    timeout_seconds: float | None = None,
    tell: Callable[[Event], None] = lambda event: None,
    open_recipe: OpenRecipe = make_recipe,
) -> Generator[VideoDone, None, None]:
    """Run every job on `workers` actors (one a CPU when None); yields each video's record once, as
    it comes.

    A video in which workers died `max_tries` times, or that made no progress for `timeout_seconds`,
    is left out. InputError when no cluster is at `address`, or one of its nodes has other versions
    or does not see the disks.
    """
    _set_environment(address)
    import ray

    pool = Pool(jobs, setup, open_recipe, workers, Blame(max_tries), timeout_seconds, tell)
    with (
        noted_signals() as stop,
        common_ground(setup.root, setup.out, on=address is not None) as ground,
    ):
        if ground is not None:
            pool.node_seconds, pool.nodes = NODE_SECONDS, Nodes(ground)
        try:
            _start_ray(workers, address, setup.cores)
            # ray.init puts a handler of its own in place, which would end us with another exit
            # code.
            stop.listen()
            yield from pool.run(stop.check)
        finally:
            if ray.is_initialized():
                pool.close()
            ray.shutdown()


def cluster_nodes(address: str) -> list[Node]:
    """What each node of the cluster has that is there now, connected from now on; InputError where
    none answers.
    """
    _set_environment(address)
    import ray

    with noted_signals() as stop:
        _start_ray(None, address, 1)
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        stop.check()
    return [Node(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in resources]


def _set_environment(address: str | None) -> None:
    """What ray reads when it is imported, which is why no import of it stands at the head of this
    module.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A worker's or a node's death is told by us, in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "died|killed|dead|terminated")
    if address is None:
        # Without this ray replaces 127.0.0.1 by the machine's address and then listens on every
        # interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if (
            not os.path.exists(os.path.expanduser("~/.ray/auth_token"))
            and "RAY_AUTH_TOKEN_PATH" not in os.environ
        ):
            # Ray would write one into a home that a container may lack.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _start_ray(workers: int | None, address: str | None, cores: int) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        return
    if address is None:
        ray.init(
            "local",  # Never a cluster that happens to run on this machine.
            num_cpus=workers * cores if workers else len(os.sched_getaffinity(0)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
        return
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: Ray Client cannot stream what workers tell; start twinstream on "
            "a node of the "
            "cluster with --address auto, by hand or with `ray job submit`"
        )
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there, or not to this token "
            f"({_first_line(error)})"
        ) from error


def _knock(address: str) -> None:
    """OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@dataclass
class Member:
    """An actor of the pool: where it is, which job it has, which video it is in and when it was
    last heard.
    """

    actor: Any
    name: str = ""
    node: str = ""
    job: Job | None = None
    key: str | None = None
    heard: float = 0.0


@dataclass
class Nodes:
    """The nodes of a cluster: which were found fit to work, and which were asked and have not
    answered yet.
    """

    ground: CommonGround
    known: set[str] = field(default_factory=set)
    asked: dict[Any, str] = field(default_factory=dict)

    def ask(self) -> None:
        """Ask each that can work and was not asked before; workers wait until it has answered."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote: Any = ray.remote
        for node in ray.nodes():
            name = node["NodeID"]
            if (
                node["Alive"]
                and node["Resources"].get("CPU")
                and name not in self.known | {*self.asked.values()}
            ):
                there = NodeAffinitySchedulingStrategy(name, soft=False)
                task = remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(node_task())
                self.asked[task.remote(self.ground.root, self.ground.sign)] = name

    def hear(self) -> None:
        """Take note of who has answered; InputError names the first that is not fit."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        ready, _ = (
            ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)
            if self.asked
            else ([], [])
        )
        for ref in ready:
            name = self.asked.pop(ref)
            try:
                self.ground.check(ray.get(ref))
                self.known.add(name)
            except RayTaskError:
                raise
            except RayError:
                continue  # The node went; should it be back, it is asked again.


class Pool:
    """Keeps every actor busy with one job until none is left; `run` may be called once."""

    def __init__(
        self,
        jobs: list[Job],
        setup: WorkerSetup,
        open_recipe: OpenRecipe,
        workers: int | None,
        blame: Blame,
        timeout_seconds: float | None,
        tell: Callable[[Event], None],
    ) -> None:
        self.node_seconds = 0.0
        self.nodes: Nodes | None = None
        self._waiting = list(reversed(jobs))
        self._setup, self._open_recipe, self._workers, self._blame = (
            setup,
            open_recipe,
            workers,
            blame,
        )
        self._timeout_seconds, self._tell = timeout_seconds, tell
        # By what is awaited of it: the answer of one that starts, the stream of one that works.
        self._members: dict[Any, Member] = {}
        self._lost: list[tuple[float, Member]] = []
        self._told: set[str] = set()
        self._failed_starts = 0
        self._num_wanted, self._counted_at = 1, float("-inf")
        self._worked_at: float | None = None

    def run(self, check: Callable[[], None]) -> Iterator[VideoDone]:
        """Every job; yields each video once, however often its job was tried; `check` raises when
        it is to stop.
        """
        import ray

        while self._waiting or self._lost or self._at_work():
            check()
            self._judge()
            self._grow()
            self._explain()
            members = list(self._members)
            awaited = [*members, *(self.nodes.asked if self.nodes else ())]
            if not awaited:
                time.sleep(POLL_SECONDS)
                continue
            ray.wait(awaited, timeout=POLL_SECONDS, fetch_local=False)
            if not members:
                continue
            ready, silent = ray.wait(
                members, num_returns=len(members), timeout=0, fetch_local=False
            )
            for ref in ready:
                yield from self._hear(ref)
            for ref in silent:
                self._check_progress(ref)

    def close(self) -> None:
        """Kill what still works, and wait until it is gone: it could write for a while
        otherwise.
        """
        import ray

        for member in self._members.values():
            ray.kill(member.actor)
        streams = [ref for ref, member in self._members.items() if member.job is not None]
        if streams:
            ray.wait(streams, num_returns=len(streams), timeout=GOODBYE_SECONDS, fetch_local=False)

    def _at_work(self) -> int:
        return sum(member.job is not None for member in self._members.values())

    def _grow(self) -> None:
        """Start actors while there are CPUs and jobs for more, and no node that has yet to say
        whether it is fit.
        """
        import ray

        now = time.monotonic()
        if now - self._counted_at > RESOURCES_SECONDS:
            self._counted_at = now
            if self.nodes:
                self.nodes.ask()
            self._num_wanted = self._workers or max(1, self._places(ray.cluster_resources()))
        if self.nodes:
            self.nodes.hear()
            if self.nodes.asked:
                return
        for _ in range(
            len(self._members), min(self._num_wanted, self._at_work() + len(self._waiting))
        ):
            needs: dict[str, Any] = {
                "num_cpus": self._setup.cores,
                "num_gpus": self._setup.gpu_share,
            }
            actor_class: Any = ray.remote(**needs, max_restarts=0)(Worker)
            actor = actor_class.remote(self._setup, self._open_recipe)
            self._members[actor.open.remote()] = Member(actor)

    def _places(self, resources: dict[str, float]) -> int:
        return num_places(resources, self._setup.gpu_share, self._setup.cores)

    def _explain(self) -> None:
        """Say it once when nothing has been at work for long."""
        import ray

        now = time.monotonic()
        if self._worked_at is None or self._at_work():
            self._worked_at = now
        elif now - self._worked_at > WAITING_SECONDS:
            self._worked_at = float("inf")
            resources = ray.cluster_resources()
            has = (
                f"the cluster has {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs"
            )
            self._tell(Event(Happening.WAITING, has))

    def _hear(self, ref: Any) -> Iterator[VideoDone]:
        """What the actor behind `ref` has to say: that it is ready, where it is, that its job is
        done, or its death.
        """
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

        member = self._members[ref]
        try:
            if member.job is None:
                member.name, member.node = ray.get(ref)
                self._failed_starts = 0
                self._say(Happening.STARTED, member)
                self._begin(ref)
            else:
                yield from self._note(member, ray.get(next(ref)))
        except StopIteration:
            self._begin(ref)
        except (RayActorError, OutOfMemoryError, WorkerCrashedError) as error:
            self._bury(ref, error)
        except RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                # Nothing tells what else is broken in there.
                ray.kill(member.actor)
                self._bury(ref, error)
                return
            if isinstance(error.cause, InputError | OSError):
                # The fault as the worker met it, without Ray's account of the way it took.
                raise error.cause from None
            raise

    def _begin(self, ref: Any) -> None:
        """Give the actor behind `ref` its next job, or let it go."""
        import ray

        member = self._members.pop(ref)
        member.key = None
        if not self._waiting:
            ray.kill(member.actor)
            self._say(Happening.ENDED, member)
            return
        member.job = self._waiting.pop()
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
        given_up = {video.key: self._blame.given_up.get(video.key) for video in member.job.items}
        known = {key: error for key, error in given_up.items() if error is not None}
        self._members[member.actor.run.options(**options).remote(member.job, known)] = member

    def _note(self, member: Member, step: VideoAt | VideoDone) -> Iterator[VideoDone]:
        """Keep account of where the actor is."""
        member.heard = time.monotonic()
        if isinstance(step, VideoAt):
            member.key = step.key
            return
        self._blame.survived(step.row.key)
        if step.row.key not in self._told:
            self._told.add(step.row.key)
            self._say(Happening.VIDEO, member, step)
            yield step
        member.key = None

    def _check_progress(self, ref: Any) -> None:
        """Kill the actor behind `ref`, and give its video up, when nothing was heard of it for too
        long.
        """
        import ray

        member = self._members[ref]
        if self._timeout_seconds is None or member.key is None or member.job is None:
            return
        if time.monotonic() - member.heard > self._timeout_seconds:
            ray.kill(member.actor)
            self._give_up(member, member.key, Reason.TIMED_OUT)
            self._waiting.append(member.job)
            del self._members[ref]

    def _bury(self, ref: Any, error: Exception) -> None:
        """Take note that the actor behind `ref` died; what that means for its job is
        judged later.
        """
        member = self._members.pop(ref)
        self._say(Happening.LOST, member)
        if member.job is not None:
            self._lost.append((time.monotonic() + self.node_seconds, member))
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS * self._num_wanted:
            raise RuntimeError(f"workers die as they start: {error}") from error

    def _judge(self) -> None:
        """Put the jobs of actors that died back: unblamed if a node went away, else when that has
        become clear.
        """
        import ray

        gone = (
            {node["NodeID"] for node in ray.nodes() if not node["Alive"]} if self._lost else set()
        )
        now = time.monotonic()
        known = [entry for entry in self._lost if entry[1].node in gone or entry[0] <= now]
        self._lost = [entry for entry in self._lost if entry not in known]
        for _, member in known:
            assert member.job is not None
            self._waiting.append(member.job)
            if member.node not in gone and self._blame.died(member.key or member.job.name):
                if member.key is None:
                    raise InputError(
                        f"{member.job.name}: its worker died each time that it wrote the shard"
                    )
                self._give_up(member, member.key, Reason.CRASHED)

    def _give_up(self, member: Member, key: str, reason: Reason) -> None:
        self._blame.give_up(key, reason)
        self._say(Happening.CRASHED if reason is Reason.CRASHED else Happening.TIMED_OUT, member)

    def _say(self, happening: Happening, member: Member, done: VideoDone | None = None) -> None:
        self._tell(
            Event(happening, member.name, member.job.name if member.job else None, member.key, done)
        )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
