"""Copies between host and device that run beside the kernels, from and to page-locked memory.

They have streams of their own. Memory on the device always comes from the stream that computes, and
only that stream gives it back: a copy waits for what was launched there before it, and the host's
references keep its memory until that stream has waited for the copy. On a CPU the streams are
torch's stand-ins, which do nothing, so the same code runs there.
"""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


class Copies:
    """Two lanes beside the current stream: one to the device, one back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)
        self._up, self._down = self._module.Stream(), self._module.Stream()
        self._leaving: Tensor | None = None

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised; page-locked where there is a device to copy from."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type != "cpu")

    def upload(self, array: npt.NDArray[Any], dtype: torch.dtype) -> Tensor:
        """The array on the device: begun on return, to be used after `arrive`."""
        # A copy from memory that can be paged out would make the host wait for it.
        staging = self.host_memory(array.shape, dtype)
        staging.numpy()[...] = array
        target = torch.empty(array.shape, dtype=dtype, device=self.device)
        self._up.wait_stream(self._module.current_stream())
        with self._module.stream(self._up):
            target.copy_(staging, non_blocking=True)
        return target

    def arrive(self) -> None:
        """What is launched from now on waits for the uploads so far, and for no later ones."""
        self._module.current_stream().wait_stream(self._up)

    def download(self, source: Tensor, out: Tensor) -> None:
        """Copy what has been launched into host memory: begun on return, there after `finish`."""
        current = self._module.current_stream()
        current.wait_stream(self._down)
        # Without this reference torch could hand its memory to the next batch during the copy.
        self._leaving = source
        self._down.wait_stream(current)
        with self._module.stream(self._down):
            out.copy_(source, non_blocking=True)

    def finish(self) -> None:
        """Wait for everything."""
        self._module.current_stream().wait_stream(self._down)
        self._module.synchronize()
        self._leaving = None
