"""A `Chip` without a GPU: the kernels of resident.cu, built by g++ with the emulator's header."""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from twinstream.preprocess.flow.tvl1.nvrtc import Kernel, addresses, kernel_value
from twinstream.preprocess.flow.tvl1.resident_engine import SOURCE

H100_SHARED_BYTES = 227 << 10


class EmulatedChip:
    """Launches run at once and to their end; AssertionError for what a GPU would not forgive.

    The order in which threads run is drawn from the seed.
    """

    largest_cluster = 16
    shared_bytes = H100_SHARED_BYTES

    def __init__(self, folder: Path) -> None:
        if shutil.which("g++") is None:
            pytest.skip("the emulator of resident.cu needs g++")
        self.folder = folder
        self.seed = 0
        self.clusters = 2
        self.libraries: dict[tuple[str, ...], ctypes.CDLL] = {}

    def compiled(self, options: Sequence[str]) -> ctypes.CDLL:
        """The kernels, compiled with these constants."""
        constants = tuple(option for option in options if option.startswith("-D"))
        if constants not in self.libraries:
            path = self.folder / f"resident{len(self.libraries)}.so"
            here = Path(__file__).parent
            flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{SOURCE.parent}"]
            command = ["g++", *flags, *constants, here / "emulator.cpp", "-o", path]
            subprocess.run(command, check=True)
            self.libraries[constants] = ctypes.CDLL(str(path))
        return self.libraries[constants]

    def num_clusters(self, kernel: Kernel) -> int:
        """As many as were set."""
        return self.clusters

    def launch(self, kernel: Kernel, num_clusters: int, arguments: Sequence[Any]) -> None:
        """Run clusters of a kernel."""
        launch = self.compiled(kernel.options)[f"launch_{kernel.name}"]
        launch.restype = ctypes.c_char_p
        values = [kernel_value(argument) for argument in arguments]
        sizes = (num_clusters * kernel.ctas, kernel.ctas, kernel.threads)
        shared_bytes = ctypes.c_size_t(kernel.shared_bytes)
        fault = launch(self.seed, *sizes, shared_bytes, addresses(values))
        assert not fault, f"{kernel.name}: {fault.decode()}"
