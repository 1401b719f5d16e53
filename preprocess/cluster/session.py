"""Jobs on Ray: connecting, the worker actors, and what they and Ray say in the pool's words.

The only module that imports ray, and it does so within functions, because ray reads environment
variables when it is imported, which are set here first. Frames never enter Ray's object store: an
actor reads, computes and writes by itself, and streams back where it is. A pool of plain actors
starts in a second where a Ray Data pipeline takes seven, and its unit of retry is our shard.
"""

import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any

from twinstream.errors import InputError
from twinstream.preprocess.cluster.nodes import (
    NodeAnswer,
    NodeRequirements,
    node_requirements,
    node_task,
)
from twinstream.preprocess.cluster.pool import Died, Failed, JobDone, Message, Pool, Ready
from twinstream.preprocess.cluster.resources import Node, WorkerResources
from twinstream.preprocess.cluster.run_log import Event
from twinstream.preprocess.cluster.worker import WorkerSetup, decode_recipe, make_recipe
from twinstream.preprocess.job import (
    DecodeRecipe,
    Recipe,
    VideoAt,
    VideoDone,
    check_steps,
    job_steps,
)
from twinstream.preprocess.plan import Job
from twinstream.shards.format.video_table import VideoError
from twinstream.signals import noted_signals

# Signs of life within a video, at most so often: one driver hears all workers of a cluster.
SIGN_SECONDS = 1.0
# Ray notices that a silent node is dead only after some of its health checks have failed.
NODE_SECONDS = 20.0
CONNECT_SECONDS = 10.0
# A socket's path has at most 107 bytes, and Ray adds its own to the folder of temporary files.
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
MAX_TEMP_DIR_BYTES = 107 - len(RAY_SOCKET)

OpenRecipe = Callable[[WorkerSetup], DecodeRecipe]


def run_jobs(
    jobs: list[Job],
    setup: WorkerSetup,
    *,
    workers: int | None,
    address: str | None,
    max_tries: int = 1,
    timeout_seconds: float | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    open_recipe: OpenRecipe | None = None,
) -> Generator[VideoDone, None, None]:
    """Make every job with `workers` actors; yields each video's record once, as it comes.

    On the cluster at `address`, or on this machine; as many workers as fit when None. A video in
    which workers died `max_tries` times in a row, or that made no progress for `timeout_seconds`,
    is left out. InputError when no cluster is at `address`, or one of its nodes has other versions
    or does not see the disks.
    """
    _set_environment(address)
    import ray

    each = WorkerResources(setup.cores, setup.gpu_fraction)
    with (
        noted_signals() as stop,
        # Without an address this node is the only one.
        node_requirements(setup.root, setup.out)
        if address is not None
        else nullcontext() as required,
        short_temp_dir() if address is None else nullcontext() as temp_dir,
    ):
        pool = Pool(
            RayCluster(setup, open_recipe or _recipe_opener(setup), each, required),
            jobs,
            workers=workers,
            each=each,
            max_tries=max_tries,
            timeout_seconds=timeout_seconds,
            node_seconds=NODE_SECONDS if required else 0.0,
            check_node=required.check if required else None,
            on_event=on_event,
        )
        try:
            _start_ray(workers, address, setup.cores, temp_dir)
            # ray.init puts in a handler of its own, which would end us with another exit code.
            stop.listen()
            yield from pool.run(stop.check)
        finally:
            if ray.is_initialized():
                pool.close()
            ray.shutdown()


def _recipe_opener(setup: WorkerSetup) -> OpenRecipe:
    return decode_recipe if setup.out is None else make_recipe


def cluster_nodes(address: str) -> list[Node]:
    """What each node that is in the cluster now has; stays connected.

    InputError where no cluster answers.
    """
    _set_environment(address)
    import ray

    with noted_signals() as stop:
        _start_ray(None, address, 1)
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        stop.check()
    return [Node(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in resources]


class Worker:
    """The actor: runs jobs one after another; its engine is opened once."""

    def __init__(self, setup: WorkerSetup, open_recipe: OpenRecipe) -> None:
        self._setup, self._open_recipe = setup, open_recipe

    def open(self) -> Ready:
        """Open the decoder and the engine; InputError, with the host, where that cannot be done."""
        import ray

        host = socket.gethostname()
        try:
            self._recipe = self._open_recipe(self._setup)
        except InputError as error:
            raise InputError(f"{host}: {error}") from error
        return Ready(f"{host}/{os.getpid()}", ray.get_runtime_context().get_node_id())

    def run(self, job: Job, given_up: dict[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        """Make one shard; yields each video as it begins and ends, and now and then within it."""
        key, signed_at = "", 0.0
        for step in self._steps(job, given_up):
            now = time.monotonic()
            is_new = isinstance(step, VideoDone) or step.key != key
            if is_new or now - signed_at > SIGN_SECONDS:
                key, signed_at = "" if isinstance(step, VideoDone) else step.key, now
                yield step

    def _steps(self, job: Job, given_up: dict[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        root, out, recipe = self._setup.root, self._setup.out, self._recipe
        if out is None:
            return check_steps(job, root=root, recipe=recipe, given_up=given_up)
        assert isinstance(recipe, Recipe)
        return job_steps(job, root=root, out=out, recipe=recipe, given_up=given_up)


class RayCluster:
    """The pool's `Cluster` on Ray; `required` is None where nodes need no check."""

    def __init__(
        self,
        setup: WorkerSetup,
        open_recipe: OpenRecipe,
        each: WorkerResources,
        required: NodeRequirements | None,
    ) -> None:
        self._setup, self._open_recipe, self._each = setup, open_recipe, each
        self._required = required
        self._numbers = count()
        self._actors: dict[int, Any] = {}
        # Worker by what it is to say: the answer of one that starts, the stream of one at work.
        self._awaited: dict[Any, int] = {}
        self._asked: dict[Any, str] = {}
        self._answers: dict[str, NodeAnswer] = {}

    def start(self) -> int:
        """Start an actor; Ray keeps it waiting while there is no room."""
        import ray

        # A lost actor is replaced by the pool, which has to know of the loss.
        options: Any = {"num_cpus": self._each.cores, "num_gpus": self._each.gpu, "max_restarts": 0}
        actor_class: Any = ray.remote(**options)(Worker)
        worker = next(self._numbers)
        self._actors[worker] = actor_class.remote(self._setup, self._open_recipe)
        self._awaited[self._actors[worker].open.remote()] = worker
        return worker

    def run(self, worker: int, job: Job, given_up: Mapping[str, VideoError]) -> None:
        """Start a stream of the job's steps."""
        # The actor stops at each step until it has been taken, so that it is never ahead of what
        # the pool knows.
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
        stream = self._actors[worker].run.options(**options).remote(job, dict(given_up))
        self._awaited[stream] = worker

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """One message of each worker that has any; notes what nodes have answered, too."""
        import ray

        awaited = [*self._awaited, *self._asked]
        if not awaited:
            time.sleep(seconds)
            return
        ray.wait(awaited, timeout=seconds, fetch_local=False)
        # The first call returns with one that is ready, the second with all that are.
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)
        for ref in ready:
            if ref in self._asked:
                self._note_answer(ref)
            else:
                yield self._awaited[ref], self._message(ref)

    def kill(self, worker: int) -> None:
        """End the actor; its stream is awaited further and ends in its death."""
        import ray

        ray.kill(self._actors.pop(worker))

    def nodes(self) -> dict[str, NodeAnswer | None]:
        """Nodes alive that have CPUs; each that was not asked before is asked for its report."""
        import ray

        alive = [
            node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
        ]
        if self._required is not None:
            for node in alive:
                if node not in self._answers and node not in self._asked.values():
                    self._ask(node, self._required)
        return {node: self._answers.get(node) for node in alive}

    def resources(self) -> dict[str, float]:
        """CPU and GPU, among others, of all nodes together."""
        import ray

        found: dict[str, float] = ray.cluster_resources()
        return found

    def _message(self, ref: Any) -> Message:
        """What a worker says, with Ray's errors as plain values."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

        message: Message
        try:
            if not isinstance(ref, ray.ObjectRef):
                step: Message = ray.get(next(ref))
                return step
            message = ray.get(ref)
        except StopIteration:
            message = JobDone()
        except (RayActorError, OutOfMemoryError, WorkerCrashedError) as error:
            message = Died(error)
            # Ray ends an actor to which nobody has a handle: one that was only out of reach.
            self._actors.pop(self._awaited[ref], None)
        except RayTaskError as error:
            message = Failed(error.cause, error)
        # The last that comes from this stream; the worker's next one is another.
        del self._awaited[ref]
        return message

    def _ask(self, node: str, required: NodeRequirements) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote: Any = ray.remote
        # On that node or nowhere; no CPU, because workers may have taken all.
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(node_task())
        self._asked[task.remote(required.root, required.probe)] = node

    def _note_answer(self, ref: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        node = self._asked.pop(ref)
        try:
            self._answers[node] = ray.get(ref)
        except RayTaskError:
            raise  # A bug of ours, and a RayError as well.
        except RayError:
            return  # The node went; should it be back, it is asked again.


def _set_environment(address: str | None) -> None:
    """Set what ray reads when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # We report a worker's or a node's death ourselves, in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "died|killed|dead|terminated")
    if address is None:
        # Otherwise ray replaces 127.0.0.1 by the machine's address and listens on every interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if (
            not os.path.exists(os.path.expanduser("~/.ray/auth_token"))
            and "RAY_AUTH_TOKEN_PATH" not in os.environ
        ):
            # Ray would write one into a home that a container may lack.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def short_temp_dir() -> Iterator[str | None]:
    """A private folder for Ray where its own would be too long for its sockets; else None.

    It is removed at the end. InputError where none can be made.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(os.path.abspath(usual))) <= MAX_TEMP_DIR_BYTES:
        yield None
        return
    try:
        # Of mode 0700, as all of a user's temporary folders.
        folder = tempfile.mkdtemp(prefix="twinstream-", dir="/tmp")
    except OSError as error:
        raise InputError(
            f"TMPDIR {usual}: too long for the sockets of Ray, and /tmp: {error.strerror}; set "
            f"RAY_TMPDIR to a folder of at most {MAX_TEMP_DIR_BYTES} characters"
        ) from error
    try:
        yield folder
    finally:
        # Processes of Ray that are ending may still write there.
        shutil.rmtree(folder, ignore_errors=True)


def _start_ray(
    workers: int | None, address: str | None, cores: int, temp_dir: str | None = None
) -> None:
    """Connect to `address`, or start Ray on this machine, unless that has been done already."""
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
            _temp_dir=temp_dir,
        )
        return
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: Ray Client cannot stream what workers tell; start twinstream on "
            "a node of the cluster with --address auto, by hand or with `ray job submit`"
        )
    try:
        _check_listening(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there, or not to this token "
            f"({_first_line(error)})"
        ) from error


def _check_listening(address: str) -> None:
    """OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
