"""What one worker takes of a machine: CPU cores, a share of a GPU, and how many frames it holds at
a time.

With a CPU engine a worker takes `threads` cores. On GPUs a few workers share each one, and the
cores that stand beside it: to decode and encode a frame costs a core many times what its flow costs
a GPU, and while one worker does that another one's flow is computed. The price: each worker has its
own GPU context.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from twinstream.errors import InputError
from twinstream.preprocess.engines import cpu_engine, find_engine, num_gpus, resolve_engine

CPU_CHUNK_FRAMES = 32
GPU_CHUNK_FRAMES = 256
GPU_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Node:
    """A machine: CPU cores and GPUs."""

    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Share:
    """What a worker takes: CPU cores, and so much of a GPU."""

    cores: int = 1
    gpu: float = 0.0


def this_node() -> Node:
    """The cores this process may use, and the GPUs that torch sees."""
    return Node(len(os.sched_getaffinity(0)), num_gpus())


def cluster_engine(name: str, nodes: Sequence[Node]) -> str:
    """What `name` means for a cluster: `auto` uses GPUs if any node has one; InputError for an
    engine that needs one where there is none.
    """
    has_gpu = any(node.gpus for node in nodes)
    # By what the nodes have: the head may lack what an engine needs.
    engine = resolve_engine(name, lambda entry: has_gpu or not entry.uses_gpu)
    if find_engine(engine).uses_gpu and not has_gpu:
        raise InputError(
            f"engine: {engine} needs a GPU, and no node of the cluster has one; use "
            f"`engine: {cpu_engine()}`"
        )
    return engine


def worker_share(
    engine: str,
    nodes: Sequence[Node],
    *,
    threads: int,
    workers_per_gpu: int,
    cores_per_gpu: int | None,
) -> Share:
    """Such that it fits every node it could be on; with an engine on GPUs those that have one.

    cuda on 16 cores and 1 GPU, 4 workers a GPU -> 4 cores and 1/4; on 3 cores -> 3 workers of 1
    core and 1/3.
    """
    if not find_engine(engine).uses_gpu:
        most = max(node.cores for node in nodes)
        if threads > most:
            raise InputError(
                f"preprocess.threads is {threads}; no node has more than {most} CPU cores"
            )
        return Share(threads)
    with_gpu = [node for node in nodes if node.gpus]
    if not with_gpu:
        return Share()  # Triton's interpreter stands for one.
    beside = max(1, min(node.cores // node.gpus for node in with_gpu))
    cores = min(beside, cores_per_gpu or beside)
    workers = min(workers_per_gpu, cores)
    return Share(cores // workers, 1 / workers)


def default_chunk_frames(engine: str, width: int, height: int) -> int:
    """Frames of that size a worker holds: a GPU needs many at once, 256 at 256x256, 128
    at 512x340.
    """
    if not find_engine(engine).uses_gpu:
        return CPU_CHUNK_FRAMES
    fitting = GPU_CHUNK_BYTES // (3 * width * height)
    return max(CPU_CHUNK_FRAMES, min(GPU_CHUNK_FRAMES, fitting))
