"""Weight files of other tools and of our own runs, read as the state_dict of one branch.

`.safetensors`, `.caffemodel`, or what torch.save wrote, read with `weights_only=True`: opening
somebody's file runs no code. Wrappers (`state_dict`, `model`) and prefixes (`module.`, `backbone.`)
are found by names of a family's first layers; a ResNet's torchvision, timm and we have in common.
The price: a file with two networks of which none is called rgb or flow is refused: which is meant
is not known.
"""

import json
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.storage.location import is_regular
from twinstream.train.choices import BOTH, BranchName
from twinstream.train.network.caffemodel import read_caffemodel

State = Mapping[str, Tensor]
Marks = Sequence[Sequence[str]]

SAFETENSORS = ".safetensors"
# Of our own files: the metadata that holds all but tensors as JSON, and the name of the one tensor
# that is no weight
OWN, TRAINED_ON = "twinstream", "trained_on"
MAX_DEPTH = 3
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights")
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
    RecursionError,
    MemoryError,
    OverflowError,
)


@dataclass(frozen=True)
class Adapted:
    """What a file holds, as the weights of a branch."""

    state: State
    said: tuple[str, ...] = ()
    """What was done to it, for the line on the branch's first weights"""
    is_whole: bool = True
    """Whether all layers are the file's, none new"""


def read_state(path: Path) -> dict[str, Any]:
    """A dict of tensors and plain values; InputError for a file that is or holds anything else."""
    try:
        is_regular(path)
        loaded = _load(path)
    except OSError as error:
        renamed = path.with_suffix(SAFETENSORS)
        hint = f"; {renamed.name} is there" if renamed != path and renamed.exists() else ""
        raise InputError(f"{path}: cannot be read: {error.strerror or error}{hint}") from error
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path}: {_fault(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, expected a state_dict")
    if name := _unstored(loaded):
        raise InputError(f"{path}: {name} has more numbers than the file holds")
    return loaded


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a dense tensor of real numbers that are all there."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta or value.is_complex())
    )


def _unstored(loaded: Mapping[Any, Any], depth: int = 0) -> str | None:
    """The key of a tensor that would take more memory than its file: one number, repeated."""
    for key, value in loaded.items():
        if is_plain(value) and value.nbytes > value.untyped_storage().nbytes():
            return str(key)
        if isinstance(value, dict) and depth < MAX_DEPTH and (name := _unstored(value, depth + 1)):
            return name
    return None


def branch_state(loaded: Mapping[str, Any], branch: BranchName, where: str, marks: Marks) -> State:
    """The network for that branch in what a file holds, its keys without wrapper and prefix.

    `marks` are groups of keys, of which each network of its family has one, whatever stands before
    them. Of our own checkpoints the branch of that name, its attention blocks included. What stands
    beside a prefix (another tool's head beside `backbone.`) is left out. InputError where the
    branch is not there, or where several networks are.
    """
    table, prefixes = _table(loaded, marks)
    own = [prefix for prefix in prefixes if _last_part(prefix) == branch]
    if any(_last_part(prefix) in BOTH for prefix in prefixes):
        prefixes = own
        if not own:
            raise InputError(f"{where}: a checkpoint without a {branch} branch")
    if len(prefixes) > 1:
        raise InputError(
            f"{where}: holds several networks, {first_few(prefixes)}; save one of them alone"
        )
    # Without a network the table goes on as it is: what is missing is told by name.
    prefix = prefixes[0] if prefixes else ""
    named = ((str(key), value) for key, value in table.items())
    return {key.removeprefix(prefix): value for key, value in named if key.startswith(prefix)}


def has_network(loaded: Mapping[str, Any], marks: Marks) -> bool:
    """Whether a network with these marks is found in what a file holds."""
    return bool(_table(loaded, marks)[1])


def has_bias(state: Mapping[str, Any], prefix: str = "") -> bool:
    """Whether a classifier was trained: a new one's bias is zero for every class."""
    bias = state.get(f"{prefix}fc.bias")
    return is_plain(bias) and bool(bias.any())


def safetensors_bytes(state: Mapping[str, Any]) -> bytes:
    """A checkpoint, with its tensors in `model`, as a file that `read_state` gives back the same.

    Tensors have the names of the network's state_dict, so that any reader of safetensors finds
    them; all else is JSON in the metadata `twinstream`.
    """
    model, trained_on = state["model"], state.get(TRAINED_ON)
    tensors = model if trained_on is None else {**model, TRAINED_ON: trained_on}
    plain = {key: value for key, value in state.items() if key not in ("model", TRAINED_ON)}
    # "format" is what other libraries look for.
    return safetensors.torch.save(
        {key: value.contiguous() for key, value in tensors.items()},
        {"format": "pt", OWN: json.dumps(plain)},
    )


def _load(path: Path) -> Any:
    if path.suffix == ".caffemodel":
        return read_caffemodel(path)
    if path.suffix == SAFETENSORS:
        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
                own = (file.metadata() or {}).get(OWN)
        # A file cut short raises an error that is no ValueError.
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        if own is None:
            return tensors
        return {
            **dict(json.loads(own)),
            TRAINED_ON: tensors.pop(TRAINED_ON, None),
            "model": tensors,
        }
    with warnings.catch_warnings():
        # torch warns of a TorchScript archive before it refuses it.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _fault(error: BaseException) -> str:
    """What is wrong with a file that cannot be loaded, and how to save it instead."""
    advice = "save the tensors alone: torch.save(model.state_dict(), FILE)"
    if found := re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", str(error)):
        return f"holds a {found[1]} beside tensors, and to load it could run code; {advice}"
    if "TorchScript" in str(error):
        return f"a TorchScript archive, which is a program; {advice}"
    return f"damaged, or not written by torch.save ({type(error).__name__})"


def _table(loaded: Mapping[str, Any], marks: Marks) -> tuple[Mapping[str, Any], list[str]]:
    """The dict of tensors in which such a network is found, and its prefixes there."""
    for table in _tables(loaded):
        if prefixes := _prefixes(table, marks):
            return table, prefixes
    # Our own checkpoint of something else, or no network at all.
    inner = loaded.get("model")
    return (inner if isinstance(inner, dict) else loaded), []


def _tables(loaded: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The dict itself, then what it wraps: known names first, so that `model` goes before `ema`."""
    yield loaded
    # A dict can hold itself.
    if depth == MAX_DEPTH:
        return
    for key in [*(key for key in WRAPPERS if key in loaded), *loaded]:
        if isinstance(loaded[key], dict):
            yield from _tables(loaded[key], depth + 1)


def _prefixes(table: Mapping[str, Any], marks: Marks) -> list[str]:
    """What stands before the marks of each network: "", `module.`, `rgb.` and `flow.` ..."""
    return [
        prefix
        for first, *others in marks
        for key in table
        if isinstance(key, str) and key.endswith(first)
        for prefix in [key.removesuffix(first)]
        if all(prefix + other in table for other in others)
    ]


def _last_part(prefix: str) -> str:
    """`module.rgb.` -> rgb."""
    return prefix.rstrip(".").rpartition(".")[2]
