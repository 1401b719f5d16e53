"""Weights of other networks and tools as those of a P3D branch: Caffe's, the PyTorch port's, 2-D.

The official P3D takes BGR gray levels less a mean by channel, and flow levels less 128; ours takes
normalised RGB, and flow in [-1, 1]. Both are linear in the pixels, so the difference goes into the
first convolution and the mean of its BatchNorm (`fold_input`). It is exact but where the
convolution reads padding, which is 0 in both: the mean colour, and the means differ by less than a
gray level. The port (qijiezhao/pseudo-3d-pytorch) has the official weights under other names; it
does not say its input, which is taken to be Caffe's. A 2-D ResNet gives its 3x3 convolutions to
the spatial ones (Qiu et al., 2017).
"""

import re
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE
from twinstream.train.choices import IMAGENET_MEAN, IMAGENET_STD
from twinstream.train.network.weight_files import Adapted, State

RGB_CHANNELS = 3
# Of red, green, blue, in gray levels: the official input is less by them.
CAFFE_MEAN = (123.0, 117.0, 104.0)
# Of layer1, layer2 and layer3 alone: layer4 has no time.
TEMPORAL = (".conv2_t.", ".bn2_t.")

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
LINEAR = ("weight", "bias")
# What the port calls its first convolution, and by what it is found in a file
PORT_STEM = "conv1_custom.weight"
PORT_MARKS = (PORT_STEM, "bn1.weight", "layer1.0.conv1.weight")
CAFFE_KEY = re.compile(r".+\.[0-9]{1,3}")
# res3b12_branch2b_t -> stage 3, block b12, part 2b_t; both a b c and a b1 b2 count blocks.
CAFFE_BLOCK = re.compile(r"(res|bn)([2-5])(?:([a-z])|b([1-9]\d?))_branch(1|2a|2b|2b_t|2c)")
CAFFE_PARTS = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2b_t": ("conv2_t", "bn2_t"),
    "2c": ("conv3", "bn3"),
}
PORT_PARTS = {
    **{"conv3": "conv2_t", "bn3": "bn2_t", "conv4": "conv3", "bn4": "bn3"},
    **{"conv_normal": "conv2", "bn_normal": "bn2", "conv1_custom": "conv1"},
}


def adapt_to_p3d(state: State, own: State, where: str) -> Adapted:
    """`state` by the names, and for the input, of the P3D branch whose state_dict is `own`.

    What it lacks, and what is of another shape, stays so. InputError for a Caffe network that is
    no P3D.
    """
    if is_caffe(state):
        named, said = caffe_state(state, where), "names and input of Caffe's P3D"
    elif PORT_STEM in state:
        named, said = port_state(state), "names of P3D's PyTorch port, input taken to be Caffe's"
    elif isinstance(stem := state.get("conv1.weight"), Tensor) and stem.ndim == 4:
        return Adapted(
            inflated(state, own), ("2-D weights in space, temporal convolutions new",), False
        )
    else:
        return Adapted(state)
    is_flow = _is_plain(stem := named.get("conv1.weight")) and stem.shape[1:2] != (RGB_CHANNELS,)
    return Adapted(fold_input(named), (said, *(["bound of its flow not known"] if is_flow else [])))


def is_p3d(state: State) -> bool:
    """Whether these are weights of a P3D network, of whatever tool."""
    return PORT_STEM in state or any(
        key.endswith(".conv2_t.weight") or "_branch2b_t." in key for key in state
    )


def is_caffe(state: Mapping[str, object]) -> bool:
    """Whether the keys are a .caffemodel's: blobs have numbers there, and names elsewhere."""
    return bool(state) and all(
        CAFFE_KEY.fullmatch(key) and isinstance(value, Tensor) for key, value in state.items()
    )


def caffe_state(blobs: State, where: str) -> dict[str, Tensor]:
    """Blobs by layer and number (`bn2a_branch1.3`) -> by our names (`layer1.0.downsample.1...`).

    InputError for layers that no P3D has, for two of one meaning, and for a file that ends before
    the last layer.
    """
    state: dict[str, Tensor] = {}
    unknown = []
    for key, blob in blobs.items():
        layer, _, number = key.rpartition(".")
        module, entries = caffe_module(layer)
        if int(number) >= len(entries):
            unknown.append(key)
            continue
        name = entries[int(number)]
        if f"{module}.{name}" in state:
            raise InputError(f"{where}: {layer} is there under another name too")
        # Vectors have axes of length 1 before theirs.
        is_vector = entries == BATCH_NORM or name == "bias"
        state[f"{module}.{name}"] = blob.flatten() if is_vector else blob
    if unknown:
        raise InputError(f"{where}: no P3D network, whose layers are not {first_few(unknown)}")
    # The last layer is not taken over, but a file cut before it would not be noticed otherwise.
    if "fc.weight" not in state:
        raise InputError(f"{where}: a P3D network without its last layer, fc_...; is it cut?")
    return state


def caffe_module(layer: str) -> tuple[str, tuple[str, ...]]:
    """res3b1_branch2a -> layer2.1.conv1, and what its blobs are; no blobs for another layer."""
    if layer == "conv1":
        return "conv1", ("weight",)
    if layer == "bn_conv1":
        return "bn1", BATCH_NORM
    if layer.startswith("fc_"):
        return "fc", LINEAR
    found = CAFFE_BLOCK.fullmatch(layer)
    if found is None:
        return layer, ()
    kind, stage, letter, number, part = found.groups()
    block = int(number) if number else ord(letter) - ord("a")
    is_norm = kind == "bn"
    entries = BATCH_NORM if is_norm else ("weight",)
    return f"layer{int(stage) - 1}.{block}.{CAFFE_PARTS[part][is_norm]}", entries


def port_state(state: State) -> dict[str, Tensor]:
    """The port's names -> ours: there conv3 is the temporal convolution, conv4 a block's last."""
    return {
        ".".join(PORT_PARTS.get(part, part) for part in key.split(".")): value
        for key, value in state.items()
    }


def fold_input(state: State) -> State:
    """Weights for Caffe's input as those for ours, in float64.

    Levels u less means m, in the order BGR, are (std_c z_c + mean_c) * 255 - m_c of our RGB z_c.
    So the weights times 255 std_c take z, and what W makes of 255 mean_c - m_c, which is less
    than a gray level, is taken from the mean that BatchNorm subtracts. Flow: levels less 128 are
    127 times our values.
    """
    weight, mean = state.get("conv1.weight"), state.get("bn1.running_mean")
    # What fits no branch is refused by name when it is loaded.
    if not _is_stem(weight) or not _is_plain(mean) or mean.shape != weight.shape[:1]:
        return state
    weight, mean = weight.double(), mean.double()
    if weight.shape[1] != RGB_CHANNELS:
        return {**state, "conv1.weight": weight * LEVELS_PER_SIDE}
    rgb = weight.flip(1)
    scale = 255 * torch.tensor(IMAGENET_STD, dtype=torch.float64)
    rest = 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64) - torch.tensor(CAFFE_MEAN)
    return {
        **state,
        "conv1.weight": rgb * scale[:, None, None, None],
        "bn1.running_mean": mean - rgb.sum((2, 3, 4)) @ rest,
    }


def inflated(state: State, own: State) -> dict[str, Tensor]:
    """2-D weights with an axis of time of length 1; the temporal layers are those of `own`.

    torchvision has the stride of a stage in its 3x3 convolution, P3D in the 1x1 before it: the
    weights fit, and what they compute is shifted by that.
    """
    temporal = {key: value for key, value in own.items() if any(part in key for part in TEMPORAL)}
    return temporal | {
        key: value[:, :, None] if _gets_time(value, own.get(key)) else value
        for key, value in state.items()
    }


def _is_stem(value: object) -> TypeGuard[Tensor]:
    return _is_plain(value) and value.ndim == 5


def _gets_time(value: object, own: Tensor | None) -> bool:
    """Whether a kernel (out, in, h, w) stands here for one with an axis of time."""
    return own is not None and own.ndim == 5 and _is_plain(value) and value.ndim == 4


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether one can compute with it; what is not is refused when it is loaded."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and not value.is_quantized
    )
