"""Weights in a .caffemodel, read by the fields of its protobuf message, without caffe or protobuf.

    NetParameter    layer 100 (repeated)
    LayerParameter  name 1, blobs 7 (repeated)
    BlobProto       num channels height width 1 to 4 (old), data 5, shape 7, double_data 8
    BlobShape       dim 1

All other fields are passed over. The file is mapped and lengths are checked against it, so that a
false one costs no memory. The trap: a file cut between two layers is a whole message; who asks for
all layers of a network notices.
"""

import mmap
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinstream.errors import InputError

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
FIXED = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
# Fields of NetParameter, LayerParameter, BlobProto and BlobShape
OLD_LAYERS, LAYER = 2, 100
NAME, BLOBS = 1, 7
OLD_SIDES, DATA, SHAPE, DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8
DIM = 1
NUMBERS: dict[int, np.dtype[Any]] = {DATA: np.dtype("<f4"), DOUBLE_DATA: np.dtype("<f8")}
# Caffe's own limit; numpy's is not lower.
MAX_AXES = 32
# No protobuf message is longer.
MAX_BYTES = 2**31 - 1


class DamagedError(ValueError):
    """What is wrong with the message; `read_caffemodel` says in which file."""


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Each blob by its layer's name and its number there: `conv1.0`; float32, or float64 if stored.

    OSError where the file cannot be read; InputError where it is anything else than a .caffemodel
    with weights.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        if length > MAX_BYTES:
            raise InputError(f"{path}: {length} bytes, a .caffemodel has at most {MAX_BYTES}")
        # Nothing of length 0 can be mapped.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if length else b""
    try:
        blobs = _net(memoryview(mapped))
    except DamagedError as error:
        raise InputError(f"{path}: damaged, cut or no .caffemodel: {error}") from error
    if not blobs:
        raise InputError(f"{path}: no .caffemodel with weights: no layer of it has any")
    return blobs


def _net(message: memoryview) -> dict[str, Tensor]:
    """The blobs of all layers of a NetParameter."""
    found: dict[str, Tensor] = {}
    for number, value in _fields(message):
        if number == OLD_LAYERS and isinstance(value, memoryview):
            raise DamagedError(
                "layers of Caffe's old format (V1); its upgrade_net_proto_binary makes a new one"
            )
        if number == LAYER:
            name, blobs = _layer(_bytes(value))
            if blobs and f"{name}.0" in found:
                raise DamagedError(f"two layers are called {name}")
            found |= {f"{name}.{at}": blob for at, blob in enumerate(blobs)}
    return found


def _layer(message: memoryview) -> tuple[str, list[Tensor]]:
    """Name and blobs of a LayerParameter."""
    name, blobs = "", []
    for number, value in _fields(message):
        if number == NAME:
            name = bytes(_bytes(value)).decode("ascii", "replace")
        elif number == BLOBS:
            blobs.append(_blob(_bytes(value)))
    # Names are told in messages of one line.
    if blobs and not re.fullmatch(r"[\w./-]+", name, re.ASCII):
        raise DamagedError(f"a layer with weights is called {name!r:.40}")
    return name, blobs


def _blob(message: memoryview) -> Tensor:
    """The numbers of a BlobProto in its shape: num, channels, height, width where it has none."""
    old = dict.fromkeys(OLD_SIDES, 0)
    shape: list[int] | None = None
    numbers = {field: bytearray() for field in NUMBERS}
    for number, value in _fields(message):
        if number in NUMBERS:
            # Packed or one by one: the bytes are the same.
            numbers[number] += _bytes(value)
        elif number in old and isinstance(value, int):
            old[number] = value
        elif number == SHAPE:
            shape = [*(shape or []), *_dims(_bytes(value))]
    if shape is None:
        shape = [*old.values()]
    field = DOUBLE_DATA if numbers[DOUBLE_DATA] else DATA
    found, dtype = numbers[field], NUMBERS[field]
    # A blob without numbers, whose shape may hold a zero and anything beside it, is no weight.
    if not found or len(shape) > MAX_AXES or prod(shape) * dtype.itemsize != len(found):
        raise DamagedError(f"a blob of {len(found)} bytes for the shape {shape!s:.60}")
    return torch.from_numpy(np.frombuffer(found, dtype).reshape(shape))


def _dims(message: memoryview) -> Iterator[int]:
    """The numbers of a BlobShape, packed or one by one."""
    for number, value in _fields(message):
        if number == DIM and isinstance(value, int):
            yield value
        elif number == DIM:
            at, packed = 0, _bytes(value)
            while at < len(packed):
                dim, at = _varint(packed, at)
                yield dim


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an int for a varint, else the bytes, not copied."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise DamagedError("a field has number 0")
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in FIXED:
            length = FIXED[wire]
        else:
            raise DamagedError(f"field {number} is of wire type {wire}")
        if length > len(message) - at:
            raise DamagedError(f"field {number} has {len(message) - at} bytes of {length}")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = 0
    # 64 bits are ten times seven and a little.
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise DamagedError("a number does not end")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise DamagedError("a number in the place of bytes")
    return value
