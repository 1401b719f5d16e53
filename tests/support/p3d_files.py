"""A small P3D network as Caffe's layers, with a literal evaluation, and under the port's names."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Layers = dict[str, list[NDArray[np.float32]]]
WIDTHS = (64, 128, 256, 512)
# One block a stage: A, B, C, and one without time
SMALL = (1, 1, 1, 1)


def block_names(counts: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Stage and name of each block: 2a 2b 2c, and in stages of more 3a 3b1 3b2 ..."""
    for stage, count in enumerate(counts, 2):
        letters = [*"abc"][:count] if count <= 3 else ["a", *(f"b{n}" for n in range(1, count))]
        yield from ((stage, f"{stage}{letter}") for letter in letters)


def shapes(counts: Sequence[int], channels: int) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the blobs of each layer, in the order of the official network."""
    found: dict[str, list[tuple[int, ...]]] = {}

    def add(name: str, norm: str, *shape: int) -> None:
        found[name] = [shape]
        found[norm] = [(1, shape[0])] * 4

    add("conv1", "bn_conv1", 64, channels, 1, 7, 7)
    width_in = 64
    for stage, name in block_names(counts):
        width = WIDTHS[stage - 2]
        kernels = {"1": (), "2a": (1, 1, 1), "2b": (1, 3, 3), "2b_t": (3, 1, 1), "2c": (1, 1, 1)}
        sides = {"2a": (width, width_in), "2c": (4 * width, width)}
        if name.endswith("a"):
            add(f"res{name}_branch1", f"bn{name}_branch1", 4 * width, width_in, *(1,) * 3)
        for part, kernel in kernels.items():
            if kernel and not (stage == 5 and part == "2b_t"):
                of = sides.get(part, (width, width))
                add(f"res{name}_branch{part}", f"bn{name}_branch{part}", *of, *kernel)
        width_in = 4 * width
    for name, blobs in found.items():
        if name.startswith("res5"):
            found[name] = [(*blobs[0][:2], *blobs[0][3:])]
    return found | {"fc_kinetics": [(400, 2048), (400,)]}


@cache
def random_layers(channels: int, counts: tuple[int, ...] = SMALL) -> Layers:
    """Layers whose logits hang on every one of their numbers, as trained ones do."""
    rng = np.random.default_rng(channels)
    layers: Layers = {}
    for name, of in shapes(counts, channels).items():
        fan_in = int(np.prod(of[0][1:]))
        blobs = [
            rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5) for shape in of
        ]
        if len(of) == 4:
            # Slope, bias, mean, variance
            spreads = ((1.0, 0.2), (0.1, 0.1), (0.0, 0.3), (1.0, 0.2))
            blobs = [rng.normal(*spread, of[0]) for spread in spreads]
            # The first layer's input is 255 gray levels.
            scale = 100 if name == "bn_conv1" else 1
            blobs[2], blobs[3] = blobs[2] * scale, abs(blobs[3]) * scale**2
        layers[name] = [blob.astype(np.float32, copy=False) for blob in blobs]
    return layers


def caffe_logits(layers: Layers, x: Tensor, padding: Sequence[float]) -> Tensor:
    """The small network as its prototxt says: (N, C, T, H, W) of Caffe's input -> (N, 400).

    `padding` is what conv1 reads beside the picture, by channel; Caffe's is 0.
    """
    weights = {
        name: [torch.from_numpy(blob).double() for blob in blobs] for name, blobs in layers.items()
    }

    def norm(x: Tensor, name: str) -> Tensor:
        slope, bias, mean, variance = (
            blob.view(1, -1, *(1,) * (x.ndim - 2)) for blob in weights[name]
        )
        return (x - mean) / (variance + 1e-5).sqrt() * slope + bias

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"res{name}"][0]
        pad = [side // 2 for side in weight.shape[2:]]
        steps = [1, stride, stride][-len(pad) :]
        run = F.conv3d if weight.ndim == 5 else F.conv2d
        return norm(run(x, weight, stride=steps, padding=pad), f"bn{name}")

    def halved(x: Tensor) -> Tensor:
        return F.max_pool3d(x, (2, 1, 1), ceil_mode=True)

    beside = torch.tensor(padding, dtype=torch.float64).view(1, -1, 1, 1, 1)
    x = F.pad(x - beside, (3, 3, 3, 3)) + beside
    x = F.conv3d(x, weights["conv1"][0], stride=(1, 2, 2))
    x = F.max_pool3d(norm(x, "bn_conv1").relu(), (2, 3, 3), 2, ceil_mode=True)
    for name, kind, stride in (("2a", "A", 1), ("3a", "B", 2), ("4a", "C", 2), ("5a", "2-D", 2)):
        x = halved(x) if name in ("3a", "4a") else x
        x = halved(x).squeeze(2) if name == "5a" else x
        a = conv(x, f"{name}_branch2a", stride).relu()
        s = conv(a, f"{name}_branch2b").relu()
        if kind == "A":
            s = conv(s, f"{name}_branch2b_t").relu()
        elif kind == "B":
            s = (s + conv(a, f"{name}_branch2b_t")).relu()
        elif kind == "C":
            s = (0.5 * s + 0.5 * conv(s, f"{name}_branch2b_t")).relu()
        shortcut = conv(x, f"{name}_branch1", stride)
        x = (shortcut + conv(s, f"{name}_branch2c")).relu()
    weight, bias = weights["fc_kinetics"]
    return F.linear(x.mean((2, 3)), weight, bias)


def port_checkpoint(layers: Layers) -> dict[str, Tensor]:
    """The small network's layers as a state_dict of the PyTorch port, behind DataParallel."""
    parts = {"1": "downsample.{}", "2a": "{}1", "2b": "{}2", "2b_t": "{}3", "2c": "{}4"}
    entries = {
        1: ["weight"],
        2: ["weight", "bias"],
        4: ["weight", "bias", "running_mean", "running_var"],
    }
    ends = {"conv1": "conv1_custom", "bn_conv1": "bn1", "fc_kinetics": "fc"}
    state = {}
    for name, blobs in layers.items():
        module = ends.get(name, "")
        if not module:
            head, _, part = name.partition("_branch")
            is_norm = head.startswith("bn")
            if "5a_branch2b" in name:
                part_name = "bn_normal" if is_norm else "conv_normal"
            else:
                word = int(is_norm) if part == "1" else ("bn" if is_norm else "conv")
                part_name = parts[part].format(word)
            module = f"layer{int(head[-2]) - 1}.0.{part_name}"
        for entry, blob in zip(entries[len(blobs)], blobs, strict=True):
            is_vector = len(blobs) == 4
            value = torch.from_numpy(blob.ravel() if is_vector else blob)
            state[f"module.{module}.{entry}"] = value
    return state
