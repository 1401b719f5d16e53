"""CUDA C++ that is compiled when it is needed, by ctypes alone: NVRTC makes the machine code, the
driver loads and launches it.

NVRTC comes with torch's packages for CUDA, so nothing is compiled at installation and no header is
read. Machine code is kept in Triton's cache. Kernels may be launched in clusters of CTAs, which
torch's and Triton's launchers do not offer for kernels of one's own. Compiling needs no GPU.
"""

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.runtime.cache import get_cache_manager

from twinstream.errors import InputError

# Of cuda.h
MAX_DYNAMIC_SHARED_BYTES, NON_PORTABLE_CLUSTERS = 8, 14
CLUSTER_DIMENSION, CLUSTER_SCHEDULING, LOAD_BALANCING = 4, 5, 2
SHARED_BYTES_OF_CTA = 97
INVALID_CLUSTER_SIZE = 912

LARGEST_CLUSTER = 16
"""CTAs; above 8 a GPU may refuse."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute; as many numbers as its largest value has."""

    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


@cache
def nvrtc_library() -> ctypes.CDLL:
    """The library that belongs to this torch; InputError where there is none."""
    if torch.version.cuda is None:
        raise InputError(
            "engine: resident needs CUDA, and this torch was built without it; use `engine: cuda` "
            "or `engine: numba`"
        )
    name = f"libnvrtc.so.{torch.version.cuda.partition('.')[0]}"
    packages = find_spec("nvidia")
    for folder in packages.submodule_search_locations or () if packages else ():
        for path in Path(folder).glob(f"*/lib/{name}"):
            # It looks for them by name only, where nothing says that they lie beside it.
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(path))
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise InputError(
            f"engine: resident needs {name} (the package nvidia-cuda-nvrtc), which is not "
            "installed; use `engine: cuda`"
        ) from None


def compiled(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Machine code (a cubin), and what the compiler said; InputError where it refuses."""
    library, program = nvrtc_library(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), words)
    log = _text_of(library, program, "ProgramLog").rstrip(b"\0").decode()
    if failed:
        raise InputError(
            f"NVRTC of CUDA {torch.version.cuda} failed with {' '.join(options)}: "
            f"{log.strip().splitlines()[0]}; use `engine: cuda`"
        )
    code = _text_of(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log


def _text_of(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """What NVRTC made of the program: its log or its code."""
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    memory = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, memory)
    return memory.raw


@dataclass(frozen=True)
class Kernel:
    """A kernel by its name, as it is compiled and launched."""

    name: str
    options: tuple[str, ...]
    ctas: int
    """Of a cluster."""
    threads: int
    """Of a CTA."""
    shared_bytes: int
    """Of a CTA."""


class Chip:
    """The current GPU, with one source of kernels, each compiled when it is first asked for.

    What is launched runs on torch's current stream.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        # Makes torch's context current, which the driver's calls below are for.
        torch.empty(1, device="cuda")
        self._driver = ctypes.CDLL("libcuda.so.1")
        major, minor = torch.cuda.get_device_capability()
        self.arch = f"sm_{major}{minor}"
        self.largest_cluster = LARGEST_CLUSTER if major >= 9 else 1
        shared = ctypes.c_int()
        self._call(
            "cuDeviceGetAttribute",
            ctypes.byref(shared),
            SHARED_BYTES_OF_CTA,
            torch.cuda.current_device(),
        )
        self.shared_bytes = shared.value
        self._functions: dict[Kernel, ctypes.c_void_p] = {}

    def num_clusters(self, kernel: Kernel) -> int:
        """How many clusters of a kernel the GPU holds at a time; 0 where it cannot hold one."""
        num, function = ctypes.c_int(), self._function(kernel)
        if kernel.ctas > 1:
            is_possible = self._call(
                "cuOccupancyMaxActiveClusters",
                ctypes.byref(num),
                function,
                ctypes.byref(_config(kernel, 1)),
                allowed=INVALID_CLUSTER_SIZE,
            )
            return num.value if is_possible else 0
        self._call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            ctypes.byref(num),
            function,
            kernel.threads,
            ctypes.c_size_t(kernel.shared_bytes),
        )
        return num.value * torch.cuda.get_device_properties().multi_processor_count

    def launch(self, kernel: Kernel, num_clusters: int, arguments: Sequence[Any]) -> None:
        """Launch clusters of a kernel."""
        config = _config(kernel, num_clusters)
        config.stream = torch.cuda.current_stream().cuda_stream
        values = [kernel_value(argument) for argument in arguments]
        self._call(
            "cuLaunchKernelEx",
            ctypes.byref(config),
            self._function(kernel),
            addresses(values),
            None,
        )

    def _function(self, kernel: Kernel) -> ctypes.c_void_p:
        """The kernel, allowed all that it is launched with."""
        if kernel not in self._functions:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            code = cached_code(self.source, (f"-arch={self.arch}", *kernel.options))
            self._call("cuModuleLoadData", ctypes.byref(module), code)
            self._call("cuModuleGetFunction", ctypes.byref(function), module, kernel.name.encode())
            self._call(
                "cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_BYTES, kernel.shared_bytes
            )
            if kernel.ctas > 1:
                self._call("cuFuncSetAttribute", function, NON_PORTABLE_CLUSTERS, 1)
            self._functions[kernel] = function
        return self._functions[kernel]

    def _call(self, name: str, *arguments: Any, allowed: int = 0) -> bool:
        """Call the driver; False for an error that is allowed, RuntimeError for any other."""
        failed = getattr(self._driver, name)(*arguments)
        if failed not in (0, allowed):
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(failed, ctypes.byref(words))
            said = words.value.decode() if words.value else f"error {failed}"
            raise RuntimeError(f"{name}: {said}")
        return not failed


def cached_code(source: str, options: tuple[str, ...]) -> bytes:
    """`compiled`, once a machine."""
    parts = (source, *options, str(torch.version.cuda))
    manager = get_cache_manager(hashlib.sha256("\n".join(parts).encode()).hexdigest())
    path = manager.get_file("kernels.cubin")
    if path is None:
        path = manager.put(compiled(source, options)[0], "kernels.cubin", binary=True)
    return Path(path).read_bytes()


def _config(kernel: Kernel, num_clusters: int) -> _Config:
    """A launch in one dimension, on the default stream."""
    attributes = (_Attribute * 2)(
        _Attribute(CLUSTER_DIMENSION, 0, (kernel.ctas, 1, 1)),
        # CTAs of a cluster may share a multiprocessor, so more clusters find room: on an H200 15
        # of 16 CTAs, two of which a multiprocessor holds, and 14 where they are spread.
        _Attribute(CLUSTER_SCHEDULING, 0, (LOAD_BALANCING,)),
    )
    return _Config(
        (num_clusters * kernel.ctas, 1, 1),
        (kernel.threads, 1, 1),
        kernel.shared_bytes,
        None,
        attributes,
        # A GPU without clusters does not know them.
        len(attributes) if kernel.ctas > 1 else 0,
    )


def kernel_value(argument: Any) -> Any:
    """A kernel's argument in C: a tensor is the address of its memory, an int has 32 bits."""
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else argument


def addresses(values: Sequence[Any]) -> Any:
    """As the driver takes arguments: an array of pointers to the values, which must live on."""
    return (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
