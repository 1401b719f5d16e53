"""Structure-aware changes of a file's bytes: JSON trees, Parquet columns, tar headers, JPEGs, zips.

Each is a pure function of the bytes and a random generator. What it returns still parses, as far
as the kind allows: half of all faults lie behind a parser that random bytes never pass.
"""

import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.videos import mutated
from twinstream.shards.format.image import encode_jpeg

BLOCK = tarfile.BLOCKSIZE
ODD: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x1b[31mred", "two\nlines", "\u202eright", "x" * 100_000),
    *("../../outside", "/absolute/path", "pipe:true", "http://127.0.0.1:1/x", "<script>", "a|b"),
    *(-1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**63, 10**12, 10**400, -(2**63), 0.5, -1.5, 1e308),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], {"a": 1}, [1, 2], [None], ["x"]),
)


def odd_tree(tree: Any, rng: random.Random, odd: Callable[[random.Random], Any]) -> Any:
    """A tree of dicts and lists after one change: a value, or a key that goes, comes or moves."""
    paths: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            keys = list(node)
        elif isinstance(node, list):
            keys = list(range(len(node)))
        else:
            return
        paths.extend((node, key) for key in keys)
        # Of a long list a few entries stand for all.
        for key in keys[:4] + keys[-2:] if len(keys) > 6 else keys:
            walk(node[key])

    walk(tree)
    if not paths or rng.random() < 0.02:
        return odd(rng)
    node, key = rng.choice(paths)
    change = rng.random()
    if change < 0.65:
        node[key] = odd(rng)
    elif change < 0.8:
        del node[key]
    elif isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), node[rng.randrange(len(node))])
    elif change < 0.9:
        node[str(odd(rng))] = node[key]
    else:
        node[key] = node[rng.choice(list(node))]
    return tree


def odd_value(rng: random.Random) -> Any:
    """A value that stands where it does not belong."""
    return rng.choice(ODD)


def odd_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON text after one change; now and then one that is too deep, or no UTF-8."""
    kind = rng.random()
    if kind < 0.05:
        return rng.choice((b"[", b'{"a":')) * rng.choice((1_000, 200_000))
    if kind < 0.1:
        at = rng.randrange(len(data))
        return data[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0")) + data[at:]
    if kind < 0.15:
        return data[: rng.randrange(len(data))]
    tree = odd_tree(json.loads(data), rng, odd_value)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        tree = odd_tree(tree, rng, odd_value)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")


def odd_parquet(data: bytes, rng: random.Random) -> bytes:
    """A Parquet table after one change of its columns, rows, types or metadata."""
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    metadata = dict(table.schema.metadata or {})
    if metadata and rng.random() < 0.3:
        name = rng.choice(sorted(metadata))
        metadata[name] = odd_json(metadata[name], rng)
        if rng.random() < 0.1:
            del metadata[name]
    else:
        table = _odd_table(table, rng)
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata or None), out)
    return out.getvalue()


def _odd_table(table: pa.Table, rng: random.Random) -> pa.Table:
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    rows = list(range(table.num_rows))
    change = rng.randrange(9)
    if change == 0:
        return table.remove_column(place)
    if change == 1:
        return table.append_column(name, column)
    if change == 2:
        return table.append_column("extra", pa.array([b"\0" * 100_000] * len(rows), pa.binary()))
    if change == 3:
        rng.shuffle(rows)
        picked = rng.choice([rows, rows[:-1], [], rows + rows[:1], rows * 2_000])
        return table.take(pa.array(picked, pa.int64()))
    if change == 4:
        return table.set_column(place, name, pa.nulls(len(rows), column.type))
    values = column.to_pylist()
    if change == 5:
        # One type for all, whatever it was
        kind, fill = rng.choice(
            [(pa.string(), "7"), (pa.float64(), 1.5), (pa.binary(), b"\xff"), (pa.bool_(), True)]
        )
        return table.set_column(place, name, pa.array([fill] * len(rows), kind))
    if change == 6 and pa.types.is_integer(column.type):
        return table.set_column(place, name, pa.array(values, pa.int64()).cast(pa.float64()))
    row = rng.randrange(max(len(rows), 1))
    if rows:
        values[row] = _odd_cell(values[row], column.type, rng)
    return table.set_column(place, name, pa.array(values, column.type))


def _odd_cell(value: Any, kind: pa.DataType, rng: random.Random) -> Any:
    if rng.random() < 0.15:
        return None
    if pa.types.is_list(kind):
        value = list(value or [])
        least = kind.value_type
        changes = [
            [],
            value[:-1],
            value + value[-1:],
            value[::-1],
            [0] * len(value),
            value * 1_000,
            [_odd_cell(one, least, rng) if n == 1 else one for n, one in enumerate(value)],
            [(one or 0) + 10_000 for one in value],
        ]
        return rng.choice(changes)
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        numbers = (-1, 0, 1, 2, 5, 99, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 10**9, 2 * 10**9)
        return rng.choice([*numbers, (value or 0) + 1])
    if pa.types.is_floating(kind):
        return rng.choice([float("nan"), float("inf"), -1.0, 0.0, 3e38])
    if pa.types.is_string(kind):
        return rng.choice([one for one in ODD if isinstance(one, str)])
    return value


def odd_tar(data: bytes, rng: random.Random) -> bytes:
    """A tar after one change of its members or of a field of a header."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        begins = [(member.offset, member.offset_data, member.size) for member in tar]
    at, begin, size = rng.choice(begins)
    end = begin + size + -size % BLOCK
    member, change = data[at:end], rng.randrange(8)
    if change == 0:
        return data[:at] + data[end:]
    if change == 1:
        return data[:end] + member + data[end:]
    if change == 2:
        return data[: rng.choice((at, begin, end - 1, end, len(data) - BLOCK))]
    if change == 3:
        return data[:at] + bytes(BLOCK) + data[at:]
    if change == 4:
        return data[end:] + data[:end]
    fields = {
        0: (100, rng.choice([b"x", b"../x", b"/etc/x", b"\xff\xfe", b"a" * 100, b"a.b.json", b""])),
        124: (12, rng.choice([b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1\0"])),
        148: (8, b"0\0"),
        156: (1, rng.choice([b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g", b"S", b"Z"])),
        257: (8, rng.choice([b"ustar\x0000", b"\0" * 8, b"garbage!"])),
        136: (12, b"zzzzzzzzzzz\0"),
    }
    place = rng.choice(sorted(fields))
    width, value = fields[place]
    header = bytearray(data[at : at + BLOCK])
    header[place : place + width] = value.ljust(width, b"\0")[:width]
    # Two of three: with the sum of the header wrong nothing else of it is looked at.
    if place != 148 and rng.random() < 0.7:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + BLOCK :]


def odd_jpeg(data: bytes, rng: random.Random) -> bytes:
    """A JPEG after one change of its header, or something else in its place."""
    change = rng.randrange(10)
    frame = next(at for at in range(2, len(data)) if data[at : at + 2] == b"\xff\xc0")
    if change < 4:
        sides = rng.choice([(30_000, 30_000), (65_500, 65_500), (0, 0), (1, 1), (24, 33), (0, 32)])
        return data[: frame + 5] + struct.pack(">HH", *sides) + data[frame + 9 :]
    if change == 4:
        return data[: frame + 9] + bytes([rng.choice((0, 1, 2, 3, 4, 255))]) + data[frame + 10 :]
    if change == 5:
        # A segment whose length leads elsewhere, such as over the frame's header
        return data[:4] + struct.pack(">H", rng.choice((0, 1, 2, 18, 65_535))) + data[6:]
    if change == 6:
        large = data[frame : frame + 5] + struct.pack(">HH", 30_000, 30_000) + data[frame + 9 :]
        hidden = b"\xff\xe1" + struct.pack(">H", 2 + 19) + data[frame : frame + 19]
        return rng.choice((data[:frame] + hidden + large, data[:frame] + data[frame:] + large))
    if change == 7:
        return rng.choice((b"", b"\xff\xd8", b"\xff\xd8\xff", data[: len(data) // 2], data[:frame]))
    if change == 8:
        wide = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + wide + bytes(40)
        bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 30_000, 30_000, 1, 24, *[0] * 6)
        side = rng.choice((8, 100))
        return rng.choice((png, bmp, encode_jpeg(np.zeros((side, side, 3), np.uint8), 90)))
    return mutated(data, data, rng)


def odd_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file of safetensors after a change of its header, of what we say there, or of its sizes."""
    kind = rng.random()
    if kind < 0.2:
        return mutated(data, data, rng)
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size], data[8 + size :]
    if kind < 0.3:
        return (
            rng.choice((0, size - 1, size + 1, 2**40, 2**64 - 1)).to_bytes(8, "little") + data[8:]
        )
    if kind < 0.6:
        header = odd_json(header, rng)
    else:
        tree = json.loads(header)
        own = odd_json(tree["__metadata__"]["twinstream"].encode(), rng)
        tree["__metadata__"]["twinstream"] = own.decode(errors="replace")
        header = json.dumps(tree).encode()
    return len(header).to_bytes(8, "little") + header + tensors


def odd_zip(data: bytes, rng: random.Random) -> bytes:
    """A zip, as torch.save writes it, after a change of a member or of the sizes that it claims."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    if rng.random() < 0.3:
        at = data.rindex(b"PK\1\2")
        place = at + rng.choice((20, 24, 42))
        return data[:place] + rng.choice((b"\xff\xff\xff\x7f", b"\0" * 4)) + data[place + 4 :]
    name = rng.choice([each for each in members if each.endswith("data.pkl")] * 3 + [*members])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, content in members.items():
            if each == name:
                content = _odd_pickle(content, rng)
            archive.writestr(each, content)
    return out.getvalue()


def _odd_pickle(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5 or not data:
        return mutated(data, data, rng)
    # K, M and J push numbers: sizes, offsets and strides of tensors among them.
    places = [at for at in range(len(data) - 5) if data[at : at + 1] in (b"K", b"M", b"J")]
    if not places:
        return mutated(data, data, rng)
    at = rng.choice(places)
    width = {b"K": 1, b"M": 2, b"J": 4}[data[at : at + 1]]
    number = rng.choice((0, -1, 7, 2**20, 2**31 - 1))
    return data[:at] + b"J" + struct.pack("<i", number) + data[at + 1 + width :]
