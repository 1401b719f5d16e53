"""The registry of flow engines: what there is, what `auto` takes, and how one is opened.

An engine is one file with a function `open_engine(options) -> Engine`, and one line in `ENGINES`.
Settings, the planning of workers and `twinstream doctor` learn all they need from that line. The
file is imported when the engine is opened, so that this module is cheap to import. An engine that
was asked for and cannot be had is an `InputError`, never another engine in silence: engines agree
closely but not to the bit, and no dataset mixes them.
"""

import os
from collections.abc import Callable
from ctypes import CDLL
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import (
    DEFAULT_GPU_BYTES,
    DEFINITION,
    Engine,
    EngineOptions,
    TvL1Params,
)

AUTO: Final = "auto"


@dataclass(frozen=True)
class EngineEntry:
    """What is known of an engine before its file is imported."""

    name: str
    module: str
    """Has `open_engine(options: EngineOptions) -> Engine`."""
    uses_gpu: bool = False
    """Whether a worker needs a GPU, or a part of one, instead of CPU cores alone."""
    needs_clusters: bool = False
    """Whether `auto` takes it only where all GPUs have clusters of multiprocessors."""
    requires: tuple[str, ...] = ()
    """Modules that may be absent where twinstream is installed."""
    is_automatic: bool = False
    """Whether `auto` may take it."""
    is_measured: bool = True
    """Whether `twinstream doctor` measures it: not where that would take minutes."""
    uses_tvl1: bool = True
    """Whether the settings `preprocess.tvl1` change what it computes."""
    definition: int | None = None
    """Version of the definition that it follows; None for an engine with versions of its own."""

    def open(self, options: EngineOptions) -> Engine:
        """The engine, ready; InputError where this machine cannot run it."""
        opened: Callable[[EngineOptions], Engine] = import_module(self.module).open_engine
        return opened(options)

    def why_absent(self) -> str | None:
        """Why this machine cannot run it, as far as known without opening it; None if it may."""
        # First what costs nothing to find out: to ask torch for a GPU takes seconds.
        for module in self.requires:
            if find_spec(module) is None:
                return f"engine: {self.name} needs {module}, which is not installed"
        if self.uses_gpu and not sees_gpu():
            return f"engine: {self.name} needs a GPU that torch can use, and there is none"
        return None

    def is_here(self) -> bool:
        """Whether nothing stands against it on this machine, and its GPUs are those it is for."""
        return self.why_absent() is None and (not self.needs_clusters or sees_clusters())


TVL1: Final = "twinstream.preprocess.flow.tvl1"
# In the order of preference: `auto` takes the first that is here.
ENGINES: tuple[EngineEntry, ...] = (
    EngineEntry(
        "resident",
        f"{TVL1}.resident_engine",
        uses_gpu=True,
        needs_clusters=True,
        requires=("torch", "triton"),
        is_automatic=True,
        definition=DEFINITION,
    ),
    EngineEntry(
        "cuda",
        f"{TVL1}.cuda_engine",
        uses_gpu=True,
        requires=("torch", "triton"),
        is_automatic=True,
        definition=DEFINITION,
    ),
    EngineEntry("numba", f"{TVL1}.numba_engine", is_automatic=True, definition=DEFINITION),
    EngineEntry("opencv", f"{TVL1}.opencv"),
    EngineEntry("reference", f"{TVL1}.reference", is_measured=False, definition=DEFINITION),
)


def engine_choices() -> tuple[str, ...]:
    """What `preprocess.engine` may be: `auto`, and every engine's name."""
    return (AUTO, *(entry.name for entry in ENGINES))


def measured_engines() -> tuple[str, ...]:
    """What `twinstream doctor` measures."""
    return tuple(entry.name for entry in ENGINES if entry.is_measured)


def find_engine(name: str) -> EngineEntry:
    """The entry of this name; InputError where there is none."""
    for entry in ENGINES:
        if entry.name == name:
            return entry
    raise InputError(f"no engine is called {name!r}; use {', '.join(engine_choices())}")


def resolve_engine(name: str, is_here: Callable[[EngineEntry], bool] = EngineEntry.is_here) -> str:
    """The name of the engine that `name` stands for.

    `auto` is the first automatic engine for which `is_here` is true, by default on this machine;
    every other name stands for itself.
    """
    if name != AUTO:
        return find_engine(name).name
    return next(entry.name for entry in ENGINES if entry.is_automatic and is_here(entry))


def cpu_engine() -> str:
    """The engine that `auto` would take on this machine without its GPUs."""
    return resolve_engine(AUTO, lambda entry: not entry.uses_gpu and entry.is_here())


def open_engine(
    name: str, params: TvL1Params, *, threads: int = 1, gpu_bytes: int = DEFAULT_GPU_BYTES
) -> Engine:
    """Open an engine, `auto` included.

    On a CPU one video uses `threads` cores, on a GPU a batch uses `gpu_bytes`. InputError where
    this machine cannot run it.
    """
    if threads < 1:
        raise InputError(f"threads is {threads}; an engine needs at least 1")
    entry = find_engine(resolve_engine(name))
    reason = entry.why_absent()
    # Triton's interpreter runs the same kernels on a CPU, for tests.
    if reason is not None and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"{reason}; use `engine: {cpu_engine()}`")
    return entry.open(EngineOptions(tvl1=params, threads=threads, gpu_bytes=gpu_bytes))


def sees_gpu() -> bool:
    """Whether torch can use a GPU here."""
    # To import torch takes seconds: only where a driver shows, as NVIDIA's library or AMD's device
    # file.
    if not (has_library("libcuda.so.1") or Path("/dev/kfd").exists()):
        return False
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def sees_clusters() -> bool:
    """Whether torch can use a GPU here, all have clusters and the shared memory for large levels
    (NVIDIA's H100 to B300), and NVRTC is there.
    """
    if not sees_gpu():
        return False
    import torch

    from twinstream.preprocess.flow.tvl1.nvrtc import nvrtc_library

    try:
        nvrtc_library()
    except InputError:
        return False  # As with torch for AMD's GPUs, which calls them CUDA too.
    numbers = range(torch.cuda.device_count())
    return all(torch.cuda.get_device_capability(number)[0] in (9, 10) for number in numbers)


def num_gpus() -> int:
    """How many GPUs torch can use here."""
    if not sees_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def has_library(name: str) -> bool:
    """Whether the system has this shared library."""
    try:
        CDLL(name)
    except OSError:
        return False
    return True
