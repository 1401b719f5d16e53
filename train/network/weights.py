"""First weights of a branch: random, ImageNet, a ResNet file, or one of our checkpoints.

Weights trained on RGB fit the flow branch except for its first convolution, which takes their mean
over the three channels, repeated (paper, section 4.1). The classifier is taken only where the
classes can be those of the model: never from ImageNet, and not when their number differs.
Everything else must fit or is refused. Otherwise a branch could be half random and still train,
with worse results and no message.
"""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.choices import IMAGENET
from twinstream.train.network.branch import RGB_CHANNELS, Branch

State = Mapping[str, Tensor]

# What may be absent or left over: torchvision's older files have no counters, plain ResNets no
# attention blocks.
OPTIONAL_PARTS = ("cma.", "non_local.", "fc.")
OPTIONAL_END = "num_batches_tracked"
NAMED_KEYS = 3
# torch.load has no single error for a damaged file: each of these was raised for a file with a few
# bytes changed.
DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AssertionError,
    TypeError,
    AttributeError,
)


def initialise(branch: Branch, source: str | Path | None, name: str) -> None:
    """Load `source` (None: leave as it is, "imagenet", or a file) into the branch called `name`.

    A file holds the state_dict of a torchvision ResNet, or {"model": that of a TwoBranch}.
    InputError if it does not fit.
    """
    if source is None:
        return
    if source == IMAGENET:
        where, state = "ImageNet weights", without_classifier(imagenet_state(branch.depth, name))
    else:
        where, state = str(source), branch_state(read_state(Path(source)), name, str(source))
    # Not strict: `fitted` has refused all that must be there, with a message of one line.
    branch.load_state_dict(fitted(state, branch, where), strict=False)


def imagenet_state(depth: int, name: str) -> State:
    """torchvision's ImageNet weights (IMAGENET1K_V1), from its cache or the network."""
    weights = models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"ImageNet weights for resnet{depth} cannot be downloaded ({_first_line(error)}); "
            f"name a file instead: model.{name}_weights=FILE, or null to start from random weights"
        ) from error
    return state


def read_state(path: Path) -> dict[str, Any]:
    """A dict that torch.save wrote, tensors and plain values only; InputError for another file."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise InputError(
            f"{path}: damaged, or not written by torch.save ({type(error).__name__})"
        ) from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, expected a state_dict")
    return loaded


def branch_state(loaded: dict[str, Any], name: str, where: str) -> State:
    """One branch's own entries, without prefix, of a checkpoint; a plain state_dict as it is."""
    inner = loaded.get("model")
    if not isinstance(inner, dict):
        return loaded
    own = {
        key.removeprefix(f"{name}."): value
        for key, value in inner.items()
        if key.startswith(f"{name}.")
    }
    if not own:
        raise InputError(f"{where}: a checkpoint without a {name} branch")
    return own


def fitted(state: State, branch: Branch, where: str) -> State:
    """The entries of `state` that go into the branch, the first convolution adapted to its input.

    InputError naming up to three keys where one is missing, left over or of another shape.
    """
    own: State = branch.state_dict()
    # Before the shapes are compared: a first convolution for RGB fits the flow branch after it.
    state = with_stem(state, branch.conv1.in_channels)
    wrong = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            key for key in own if key in state and not _same_shape(state[key], own[key])
        ],
    }
    for fault, keys in wrong.items():
        refused = [key for key in keys if not _is_optional(key)]
        if refused:
            raise InputError(
                f"{where}: does not fit resnet{branch.depth}: {fault} {_listed(refused)}"
            )
    return {key: state[key] for key in own if key in state and _same_shape(state[key], own[key])}


def with_stem(state: State, in_channels: int) -> dict[str, Any]:
    """`state` with its first convolution adapted to `in_channels`, where it is one for RGB."""
    weight = state.get("conv1.weight")
    # A state that is no ResNet's passes here unchanged; `fitted` then names its keys.
    is_rgb = isinstance(weight, Tensor) and weight.ndim == 4 and weight.shape[1] == RGB_CHANNELS
    if not is_rgb or in_channels == RGB_CHANNELS:
        return dict(state)
    return {**state, "conv1.weight": flow_stem(state["conv1.weight"], in_channels)}


def flow_stem(rgb_weight: Tensor, in_channels: int) -> Tensor:
    """(64, 3, 7, 7) -> (64, in_channels, 7, 7): the mean over the colours, repeated."""
    return rgb_weight.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)


def without_classifier(state: State) -> State:
    """`state` without the entries of the last layer."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _is_optional(key: str) -> bool:
    return key.startswith(OPTIONAL_PARTS) or key.endswith(OPTIONAL_END)


def _same_shape(value: object, expected: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == expected.shape


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return ", ".join(keys[:NAMED_KEYS]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
