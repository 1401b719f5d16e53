"""Bytes of a batch to the normalised floats that the networks take, on the device of the bytes.

RGB: ImageNet's mean and standard deviation, as torchvision's weights expect. Flow: codec levels to
[-1, 1], zero motion is exactly 0, then times the scale of the view: so a value means the same
motion in the network's input for every crop. Bytes are copied to the device, not floats, because
they are a quarter of the size. The price: the floats are computed anew in every step.
"""

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.train.choices import IMAGENET_MEAN, IMAGENET_STD


def refuse_other_codec(dataset: str, zero: float, levels: float) -> None:
    """InputError for a flow codec other than the one `normalise_flow` and mirroring assume."""
    if (zero, levels) != (ZERO_LEVEL, LEVELS_PER_SIDE):
        raise InputError(
            f"{dataset}: flow codec with zero {zero} and {levels} levels, training reads zero "
            f"{ZERO_LEVEL} and {LEVELS_PER_SIDE} levels; `twinstream shards convert-codec "
            f"{dataset} --out OUT` makes such a dataset"
        )


def network_inputs(rgb: Tensor, flow: Tensor, flow_scale: Tensor) -> tuple[Tensor, Tensor]:
    """A batch of snippets as `twinstream.snippets` gives it -> what the network takes, normalised.

    (B, K, 3, S, S) uint8, (B, K, 2L, S, S) uint8, (B, 2) float32 -> (B * K, 3, S, S) and
    (B * K, 2L, S, S) float32, a video's K snippets one after another. Of clips (B, K, T, 3, S, S)
    and (B, K, T, 2, S, S) -> (B * K, 3, T, S, S) and (B * K, 2, T, S, S).
    """
    # One scale for each video, but one row for each of its snippets.
    scale = flow_scale.repeat_interleave(rgb.shape[1], dim=0)
    rgb, flow = rgb.flatten(0, 1), flow.flatten(0, 1)
    if rgb.dim() == 5:
        # Channels before time, for 3-D convolutions; bytes cost a quarter of what floats would.
        rgb, flow = (clips.transpose(1, 2).contiguous() for clips in (rgb, flow))
    return normalise(rgb, flow, scale)


def normalise(
    rgb: Tensor, flow: Tensor, flow_scale: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8, (N, 2L, H, W) uint8, (N, 2) float -> the same shapes in `dtype`.

    Clips are (N, 3, T, H, W) and (N, 2, T, H, W).
    """
    return normalise_rgb(rgb, dtype), normalise_flow(flow, flow_scale, dtype)


def normalise_rgb(rgb: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, 3, ...) uint8 -> the same shape in `dtype`, with about zero mean and unit variance."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype, device=rgb.device)
    std = torch.tensor(IMAGENET_STD, dtype=dtype, device=rgb.device)
    return (rgb.to(dtype) / 255 - by_channel(mean, rgb)) / by_channel(std, rgb)


def normalise_flow(flow: Tensor, flow_scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, 2L, ...) uint8 levels, (N, 2) scale of dx and dy -> the same shape in `dtype`.

    At scale 1 a value of 1 is `bound` pixels. Scaled values may leave [-1, 1].
    """
    # Level 0, which the codec never writes but JPEG can give, would be less than -1.
    motion = ((flow.to(dtype) - ZERO_LEVEL) / LEVELS_PER_SIDE).clamp(min=-1)
    # Channels are dx0 dy0 dx1 ..., so the pair of scales repeats.
    scale = flow_scale.to(dtype).repeat(1, flow.shape[1] // 2)
    return motion * by_channel(scale, flow)


def by_channel(values: Tensor, images: Tensor) -> Tensor:
    """(C,) or (N, C) with an axis for each of (N, C, ...) behind the channels."""
    return values.reshape(*values.shape, *[1] * (images.dim() - 2))
