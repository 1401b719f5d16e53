"""Workers as processes of this machine, for a laptop or where no Ray can run.

Each is a new interpreter: a fork would copy locks that the threads of our libraries hold. It has a
socket to the driver and no other channel, and waits at each step until the driver has taken it. It
ends with the driver, however that ends: the kernel then closes the socket. The price: nobody
watches the machine's memory, as Ray does; when it is full, the kernel ends a worker first.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from twinstream.errors import InputError
from twinstream.preprocess.cluster.nodes import NodeAnswer
from twinstream.preprocess.cluster.pool import Died, Failed, JobDone, Message, Ready
from twinstream.preprocess.cluster.resources import WorkerResources, this_node
from twinstream.preprocess.cluster.worker import OpenRecipe, Worker, WorkerSetup
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job
from twinstream.shards.format.video_table import VideoError

HERE = "this machine"
SERVE = "from twinstream.preprocess.cluster.processes import serve; serve({})"


class ProcessCluster:
    """The pool's `Cluster` of this machine alone; workers that are killed are waited for."""

    # One machine needs no check against itself.
    required = None

    def __init__(self, setup: WorkerSetup, open_recipe: OpenRecipe, each: WorkerResources) -> None:
        self._worker, self._each = Worker(setup, open_recipe), each
        self._node = this_node()
        self._gpus = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), self._node.gpus)
        self._numbers = count()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._connections: dict[Connection, int] = {}
        self._gpu_of: dict[int, str] = {}
        # What it writes to stderr, a file without a name: its last line may be all that a death
        # leaves.
        self._said: dict[int, int] = {}

    def start(self) -> int:
        """Start a process at once; InputError where the machine has no room for one."""
        worker = next(self._numbers)
        variables = {"PYTHONPATH": os.pathsep.join(sys.path)}
        # As Ray does: libraries would take all cores for each worker.
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(self._each.cores))
        if self._each.gpu:
            used = [*self._gpu_of.values()]
            self._gpu_of[worker] = min(self._gpus, key=used.count)
            variables["CUDA_VISIBLE_DEVICES"] = self._gpu_of[worker]
        try:
            said, name = tempfile.mkstemp(prefix="twinstream-")
            os.unlink(name)
            ours, theirs = Pipe()
            with theirs:
                process = subprocess.Popen(
                    # -P: no folder before ours on the path.
                    [sys.executable, "-P", "-c", SERVE.format(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=os.environ | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    # Else Ctrl-C on a terminal would reach it, too.
                    start_new_session=True,
                )
        except OSError as error:
            raise InputError(f"no worker can be started here ({error.strerror})") from error
        self._processes[worker], self._connections[ours] = process, worker
        self._said[worker] = said
        _send(ours, self._worker)
        return worker

    def run(self, worker: int, job: Job, given_up: Mapping[str, VideoError]) -> None:
        """Send the job; the worker answers step by step."""
        (ours,) = (one for one, number in self._connections.items() if number == worker)
        _send(ours, (job, dict(given_up)))

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """One message of each worker that has any; Died when its end of the socket is closed."""
        if not self._connections:
            time.sleep(seconds)
        for ours in wait([*self._connections], seconds):
            assert isinstance(ours, Connection)
            yield self._connections[ours], self._message(ours)

    def kill(self, worker: int) -> None:
        """End the process; its socket tells when it is gone."""
        self._gpu_of.pop(worker, None)
        self._processes[worker].kill()

    def nodes(self) -> dict[str, NodeAnswer | None]:
        """This machine."""
        return {HERE: None}

    def resources(self) -> dict[str, float]:
        """Its cores and GPUs."""
        return {"CPU": self._node.cores, "GPU": self._node.gpus}

    def close(self) -> None:
        """End every process and wait until it is gone."""
        for worker in self._processes:
            self.kill(worker)
        for ours in [*self._connections]:
            self._bury(ours)

    def _message(self, ours: Connection) -> Message:
        try:
            message: Message = ours.recv()
        # OSError: it went in the middle of a message.
        except (EOFError, OSError):
            return Died(RuntimeError(self._bury(ours)))
        if isinstance(message, VideoAt | VideoDone):
            _send(ours, None)
        return message

    def _bury(self, ours: Connection) -> str:
        """Wait for the end of a process and forget it; what became of it."""
        worker = self._connections.pop(ours)
        ours.close()
        self._gpu_of.pop(worker, None)
        code = self._processes.pop(worker).wait()
        end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        with open(self._said.pop(worker), "rb") as said:
            # The process has left it at its end.
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
        return ": ".join([end, *[line for line in lines if line.strip()][-1:]])


@contextmanager
def process_cluster(
    setup: WorkerSetup, open_recipe: OpenRecipe, each: WorkerResources
) -> Iterator[ProcessCluster]:
    """Processes of this machine, which are gone at the end of the block."""
    cluster = ProcessCluster(setup, open_recipe, each)
    try:
        yield cluster
    finally:
        cluster.close()


def visible_gpus(variable: str | None, num_gpus: int) -> list[str]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES: `2,3` and 2 GPUs -> 2 and 3; None -> 0 and 1."""
    names = variable.split(",") if variable else [str(number) for number in range(num_gpus)]
    return names[:num_gpus]


def serve(descriptor: int) -> None:
    """The worker's side: open what the driver has sent, then make one job after another."""
    theirs = Connection(descriptor)
    threading.Thread(target=_end_with_driver, args=[descriptor], daemon=True).start()
    # What nothing here catches is for the driver to judge.
    sys.excepthook = lambda kind, error, trace: theirs.send(failure(error))
    # The kernel frees memory by ending this process, not the driver.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    worker: Worker = theirs.recv()
    theirs.send(Ready(worker.open(), HERE))
    while True:
        for step in worker.run(*theirs.recv()):
            theirs.send(step)
            theirs.recv()
        theirs.send(JobDone())


def failure(error: BaseException) -> Failed:
    """An exception as a message: what the pool tells apart keeps its kind, all keep their trace."""
    told = RuntimeError("".join(traceback.format_exception(error)))
    # Subclasses of libraries need not survive the way.
    match error:
        case InputError():
            return Failed(InputError(str(error)), told)
        case MemoryError():
            return Failed(MemoryError(str(error)), told)
        case OSError():
            cause = OSError(*error.args)
            if error.filename is not None:
                cause.filename = error.filename
            return Failed(cause, told)
    return Failed(told, told)


def _end_with_driver(descriptor: int) -> None:
    """Even out of a video that hangs."""
    poller = select.poll()
    # The other end is closed: that is told without being asked for.
    poller.register(descriptor, 0)
    poller.poll()
    os._exit(1)


def _send(ours: Connection, message: Any) -> None:
    # Of a worker that has gone the closed socket tells.
    with suppress(BrokenPipeError, ConnectionResetError):
        ours.send(message)
