"""Jobs on Ray: connecting, the worker actors, and what they and Ray say in the pool's words.

The only module that imports ray, and it does so within functions, because ray reads environment
variables when it is imported, which are set here first. Frames never enter Ray's object store: an
actor reads, computes and writes by itself, and streams back where it is. A pool of plain actors
starts in a second where a Ray Data pipeline takes seven, and its unit of retry is our shard.
"""

import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.preprocess.cluster.local_ray import (
    FILES,
    OBJECT_STORE_BYTES,
    WITHOUT,
    end_leftovers,
    private_temp_dir,
    require_limits,
    set_environment,
    shm_has_room,
    was_too_busy,
    watched_start,
    what_it_lacked,
)
from twinstream.preprocess.cluster.nodes import (
    NodeAnswer,
    NodeRequirements,
    node_requirements,
    node_task,
)
from twinstream.preprocess.cluster.pool import Died, Failed, JobDone, Message, Ready
from twinstream.preprocess.cluster.resources import Node, WorkerResources
from twinstream.preprocess.cluster.worker import OpenRecipe, Worker, WorkerSetup
from twinstream.preprocess.plan import Job
from twinstream.progress import LOGGER
from twinstream.shards.format.video_table import VideoError
from twinstream.signals import noted_signals

START_TRIES = 3
# Ray notices that a silent node is dead only after some of its health checks have failed.
NODE_SECONDS = 20.0
CONNECT_SECONDS = 5.0
WITH_CLUSTERS = ("H100", "H200", "H20", "H800", "GH200", "B200", "B300", "GB200", "GB300")
"""GPUs for which `engines.sees_clusters` is true, as Ray names them."""
# A cluster's head speaks gRPC: either side begins with its settings (RFC 9113, 3.4). None are set.
HTTP2_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS


@contextmanager
def ray_cluster(
    setup: WorkerSetup,
    open_recipe: OpenRecipe,
    each: WorkerResources,
    *,
    workers: int | None,
    address: str | None,
) -> Iterator["RayCluster"]:
    """The cluster at `address`, or a Ray of this machine's own with room for `workers`.

    InputError when none is at `address`, or where none can be started.
    """
    ray = _imported_ray(address)
    with (
        # Without an address this node is the only one.
        node_requirements(setup.root, setup.out)
        if address is not None
        else nullcontext() as required,
        private_temp_dir() if address is None else nullcontext() as temp_dir,
    ):
        try:
            if temp_dir is not None:
                _start_here(temp_dir, workers * setup.cores if workers else None)
            elif address is not None:
                _connect(address)
            yield RayCluster(setup, open_recipe, each, required)
        finally:
            ray.shutdown()


def cluster_nodes(address: str) -> list[Node]:
    """What each node that is in the cluster now has; stays connected.

    InputError where no cluster answers.
    """
    ray = _imported_ray(address)
    with noted_signals() as stop:
        _connect(address)
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        stop.check()
    return [node_with(found) for found in resources]


def node_with(resources: Mapping[str, float]) -> Node:
    """A node by what Ray says that it has."""
    return Node(
        int(resources.get("CPU", 0)),
        int(resources.get("GPU", 0)),
        any(f"accelerator_type:{name}" in resources for name in WITH_CLUSTERS),
    )


class RayWorker(Worker):
    """The worker as an actor."""

    def ready(self) -> Ready:
        """Open it, and tell its name and node."""
        import ray

        return Ready(self.open(), ray.get_runtime_context().get_node_id())


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
        self.required = required
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
        actor_class: Any = ray.remote(**options)(RayWorker)
        worker = next(self._numbers)
        self._actors[worker] = actor_class.remote(self._setup, self._open_recipe)
        self._awaited[self._actors[worker].ready.remote()] = worker
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
        if self.required is not None:
            for node in alive:
                if node not in self._answers and node not in self._asked.values():
                    self._ask(node, self.required)
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


def _imported_ray(address: str | None) -> ModuleType:
    """Ray, imported when all that it reads then is set; InputError where that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # We report a worker's or a node's death ourselves, in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "died|killed|dead|terminated")
    if address is None:
        require_limits()
        set_environment()
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"Ray cannot be imported ({_first_line(error)}); install it, {WITHOUT}"
        ) from error
    return ray


def _start_here(temp_dir: Path, num_cpus: int | None) -> None:
    """Start Ray on this machine, unless that has been done; InputError where that fails."""
    import ray

    if ray.is_initialized():
        return
    # Ray opens the folder that it is given to everyone: one below ours.
    files = temp_dir / FILES
    for tries_left in reversed(range(START_TRIES)):
        try:
            with watched_start():
                ray.init(
                    "local",  # Never a cluster that happens to run on this machine.
                    num_cpus=num_cpus or usable_cores(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(files),
                    _plasma_directory=None if shm_has_room() else str(temp_dir),
                )
            return
        # Of every kind, Exception itself among them.
        except Exception as error:
            end_leftovers(temp_dir)
            reason = what_it_lacked(temp_dir) or _first_line(error)
            if was_too_busy(temp_dir):
                reason = f"the machine is too busy: it did not start in time, {START_TRIES} times"
                if tries_left:
                    LOGGER.warning("Ray did not start in time, as on a busy machine; again")
                    ray.shutdown()
                    shutil.rmtree(files, ignore_errors=True)
                    continue
            raise InputError(
                f"Ray cannot be started here ({reason}); mend that, {WITHOUT}"
            ) from error


def _connect(address: str) -> None:
    """Connect to the cluster at `address`, unless that has been done; InputError without one."""
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        return
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: Ray Client cannot stream what workers tell; start twinstream on "
            "a node of the cluster with --address auto, by hand or with `ray job submit`"
        )
    try:
        found = _found_address() if address == "auto" else address
        _check_listening(found)
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there, or not to this token "
            f"({_first_line(error)})"
        ) from error


def _found_address() -> str:
    """The cluster that Ray itself would take for `auto`; ConnectionError where there is none."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    found: str = canonicalize_bootstrap_address_or_die("auto")
    return found


def _check_listening(address: str) -> None:
    """OSError where no cluster answers: Ray itself would try for three minutes, and end us."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
        # With TLS the first word is another.
        if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
            connection.sendall(HTTP2_HELLO)
            answer = connection.recv(len(HTTP2_SETTINGS))
            if answer[3:4] != HTTP2_SETTINGS[3:4]:
                raise ConnectionError("what listens there is something else")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
