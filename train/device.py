"""The device on which the network computes, and the way of a batch of bytes to it."""

import os
from typing import get_args

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.train.choices import DeviceName
from twinstream.train.data.batch import Batch
from twinstream.train.data.normalise import network_inputs


def choose_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one. InputError for cuda without.

    Each of torchrun's processes takes the GPU of its own local rank.
    """
    # A caller from Python can pass any string; settings and command line have checked theirs.
    if name not in get_args(DeviceName):
        raise InputError(f"device {name!r}: expected {', '.join(get_args(DeviceName))}")
    if name == "cpu" or not torch.cuda.is_available():
        if name == "cuda":
            raise InputError("train.device: cuda, but torch sees no GPU here; use cpu or auto")
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise InputError(
            f"process {number} of this machine has no GPU of its own, torch sees "
            f"{torch.cuda.device_count()}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def half_precision(device: torch.device) -> torch.autocast:
    """Bfloat16 on a GPU, float32 elsewhere: CPUs without bfloat16 units would be slower."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def network_input(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, K, C, S, S) bytes -> (B*K, C, S, S) normalised float32 of RGB and of flow.

    Of clips (B, K, T, C, S, S) -> (B*K, C, T, S, S).
    """
    # From page-locked memory the copies run while the host goes on; kernels of the same stream wait
    # for them.
    rgb, flow, scale = (
        part.to(device, non_blocking=True) for part in (batch.rgb, batch.flow, batch.flow_scale)
    )
    return network_inputs(rgb, flow, scale)
