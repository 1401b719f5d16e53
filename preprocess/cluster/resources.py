"""What one worker takes of a machine: CPU cores, a part of a GPU, and frames held at a time.

With a CPU engine a worker takes `threads` cores. Otherwise several workers use one GPU together,
and the cores of its machine: a core needs many times as long to decode and encode a frame as a GPU
to compute its flow, and while one worker does that, the flow of another is computed. The price:
each worker has its own GPU context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.preprocess.flow.engines import (
    EngineEntry,
    cpu_engine,
    find_engine,
    num_gpus,
    resolve_engine,
    sees_clusters,
)

CPU_CHUNK_FRAMES = 32
GPU_CHUNK_FRAMES = 256
GPU_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Node:
    """A machine: CPU cores and GPUs."""

    cores: int
    gpus: int = 0
    has_clusters: bool = False
    """Whether its GPUs have clusters of multiprocessors."""


@dataclass(frozen=True)
class WorkerResources:
    """What a worker takes: CPU cores, and a number of GPUs, 0.25 where four workers use one."""

    cores: int = 1
    gpu: float = 0.0


def this_node() -> Node:
    """The cores this process may use, and the GPUs that torch sees."""
    return Node(usable_cores(), num_gpus(), sees_clusters())


def cluster_engine(name: str, nodes: Sequence[Node]) -> str:
    """What `name` means for a cluster: `auto` uses GPUs if any node has one, by what all can run.

    InputError for an engine that needs a GPU where there is none.
    """
    with_gpu = [node for node in nodes if node.gpus]
    has_gpu, has_clusters = bool(with_gpu), all(node.has_clusters for node in with_gpu)

    def is_there(entry: EngineEntry) -> bool:
        # By what the nodes have: the head may lack what an engine needs.
        return (has_gpu or not entry.uses_gpu) and (has_clusters or not entry.needs_clusters)

    engine = resolve_engine(name, is_there)
    if find_engine(engine).uses_gpu and not has_gpu:
        raise InputError(
            f"engine: {engine} needs a GPU, and no node of the cluster has one; use "
            f"`engine: {cpu_engine()}`"
        )
    return engine


def worker_resources(
    engine: str,
    nodes: Sequence[Node],
    *,
    threads: int,
    workers_per_gpu: int,
    cores_per_gpu: int | None,
) -> WorkerResources:
    """What fits on every node a worker could be on; with an engine on GPUs those that have one.

    cuda on 16 cores and 1 GPU with 4 workers a GPU -> 4 cores and 1/4 GPU each; on 3 cores -> 3
    workers of 1 core and 1/3 GPU. InputError for more `threads` than any node has cores.
    """
    if not find_engine(engine).uses_gpu:
        most = max(node.cores for node in nodes)
        if threads > most:
            raise InputError(
                f"preprocess.threads is {threads}; no node has more than {most} CPU cores"
            )
        return WorkerResources(threads)
    with_gpu = [node for node in nodes if node.gpus]
    if not with_gpu:
        return WorkerResources()  # Triton's interpreter stands for a GPU.
    # The node with the fewest cores a GPU decides: Ray may put a worker on any of them.
    beside = max(1, min(node.cores // node.gpus for node in with_gpu))
    cores = min(beside, cores_per_gpu or beside)
    # A worker without a core of its own would wait for another one's.
    workers = min(workers_per_gpu, cores)
    return WorkerResources(cores // workers, 1 / workers)


def num_workers_that_fit(resources: Mapping[str, float], each: WorkerResources) -> int:
    """How many workers there is room for.

    16 CPUs and 1 GPU, for 1 core and 0.25 GPU each -> 4, for 1 core alone -> 16.
    """
    by_cores = int(resources.get("CPU", 1)) // each.cores
    if each.gpu == 0:
        return by_cores
    # Rounded first: a division of floats can end just below a whole number.
    return min(by_cores, int(round(resources.get("GPU", 0) / each.gpu, 6)))


def default_chunk_frames(engine: str, width: int, height: int) -> int:
    """Frames in a worker's chunk: many for a GPU, else 256 at 256x256, 128 at 512x340."""
    if not find_engine(engine).uses_gpu:
        return CPU_CHUNK_FRAMES
    # 3 bytes a pixel, because a chunk is of RGB frames.
    fitting = GPU_CHUNK_BYTES // (3 * width * height)
    return max(CPU_CHUNK_FRAMES, min(GPU_CHUNK_FRAMES, fitting))
