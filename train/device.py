"""Where the network computes, and how a batch of bytes gets there."""

import os

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.train.loader import Batch
from twinstream.train.normalise import network_inputs


def choose_device(name: str) -> torch.device:
    """The GPU where `auto` finds one, each of torchrun's processes its own; InputError when cuda is
    not there.
    """
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
    """Bfloat16 on a GPU, nothing elsewhere: CPUs without bfloat16 units would only lose by it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K, C, S, S) bytes -> normalised (B*K, C, S, S) floats of both modalities, and the (B,)
    numbers.
    """
    rgb, flow, scale, numbers = (tensor.to(device, non_blocking=True) for tensor in batch)
    return *network_inputs(rgb, flow, scale), numbers
