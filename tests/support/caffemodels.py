"""Writes small .caffemodel files: the wire format of protobuf, as much of it as they need."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def varint(value: int) -> bytes:
    """A number of 64 bits, seven of them a byte, the lowest first."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field: a varint, four bytes of a float, or bytes behind their length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(values: NDArray[np.float32], *, is_packed: bool = True, is_old: bool = False) -> bytes:
    """A BlobProto: packed numbers and shape as Caffe writes them, one by one, or with old sides."""
    numbers = values.astype("<f4").ravel()
    if is_packed:
        data = field(5, numbers.tobytes())
    else:
        data = b"".join(field(5, float(each)) for each in numbers)
    if is_old:
        sides = (1,) * (4 - values.ndim) + values.shape
        return b"".join(field(at + 1, side) for at, side in enumerate(sides)) + data
    dims = b"".join(field(1, side) for side in values.shape)
    if is_packed:
        dims = field(1, b"".join(varint(side) for side in values.shape))
    return field(7, dims) + data


def layer(name: str, kind: str, blobs: Sequence[bytes]) -> bytes:
    """A LayerParameter as a field of the net: name, type, a bottom, its blobs, and a parameter."""
    parts = [field(1, name.encode()), field(2, kind.encode()), field(3, b"data")]
    # ParamSpec lr_mult: a float that the reader passes over.
    parts += [field(7, each) for each in blobs] + [field(6, field(3, 10.0))]
    return field(100, b"".join(parts))


def caffemodel(layers: Mapping[str, Sequence[NDArray[np.float32]]]) -> bytes:
    """A NetParameter with a name, an input layer, and these layers with their blobs."""
    kinds = {1: "Convolution", 2: "InnerProduct", 4: "BN"}
    parts = [field(1, b"net"), layer("data", "VideoData", [])]
    for name, blobs in layers.items():
        kind = kinds.get(len(blobs), "Python")
        parts += [layer(name, kind, [blob(each) for each in blobs]), layer(f"{name}_x", "ReLU", [])]
    return b"".join(parts)
