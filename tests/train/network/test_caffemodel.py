"""Reading .caffemodel files: the fields that are read, and that no damage gets further."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.caffemodels import blob, caffemodel, field, layer, varint
from twinstream.errors import InputError
from twinstream.train.network.caffemodel import read_caffemodel

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 1, 2, 2)
BIAS = np.array([0.5, -1.5], np.float32)
SMALL = caffemodel({"conv1": [WEIGHT], "fc": [WEIGHT[:, :, 0, 0, 0], BIAS]})


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_caffemodel(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_every_blob_is_read_by_layer_and_number(tmp_path: Path) -> None:
    path = tmp_path / "small.caffemodel"
    path.write_bytes(SMALL)
    blobs = read_caffemodel(path)
    assert list(blobs) == ["conv1.0", "fc.0", "fc.1"]
    assert torch.equal(blobs["conv1.0"], torch.from_numpy(WEIGHT))
    assert torch.equal(blobs["fc.1"], torch.from_numpy(BIAS))


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("is_old", [True, False])
def test_numbers_and_shapes_are_read_in_every_form(
    tmp_path: Path, is_packed: bool, is_old: bool
) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(layer("fc", "BN", [blob(BIAS, is_packed=is_packed, is_old=is_old)]))
    found = read_caffemodel(path)["fc.0"]
    assert found.shape == ((1, 1, 1, 2) if is_old else (2,))
    assert found.flatten().tolist() == BIAS.tolist()


def test_doubles_are_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    values = np.array([0.1, 0.2])
    doubles = field(8, values.tobytes()) + field(7, field(1, 2))
    path.write_bytes(layer("fc", "BN", [doubles]))
    assert read_caffemodel(path)["fc.0"].tolist() == values.tolist()


def test_a_file_cut_anywhere_is_refused_or_lacks_its_last_layers(tmp_path: Path) -> None:
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(SMALL)
    whole = list(read_caffemodel(path))
    refused = 0
    for length in range(len(SMALL)):
        path.write_bytes(SMALL[:length])
        try:
            found = list(read_caffemodel(path))
        except InputError:
            refused += 1
        else:
            # Between two layers the part is a message too.
            assert found == whole[: len(found)]
            assert length < len(SMALL)
    # Behind conv1, behind the ReLU that follows it, and behind fc.
    assert refused == len(SMALL) - 3


@given(st.data())
def test_random_damage_is_refused_or_gives_whole_tensors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.caffemodel"
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(SMALL) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        blobs, said = read_caffemodel(path), ""
    except InputError as error:
        blobs, said = {}, str(error)
    assert "\n" not in said
    assert sum(each.nbytes for each in blobs.values()) <= len(SMALL)


def sized(shape: list[int], data: bytes) -> bytes:
    return layer("fc", "BN", [field(7, b"".join(field(1, side) for side in shape)) + data])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no .caffemodel with weights: no layer of it has any"),
        (b"PK\x03\x04 a zip file", "damaged, cut or no .caffemodel: a field has number 0"),
        (bytes(1000), "damaged, cut or no .caffemodel: a field has number 0"),
        (b"name: 'ResNet'\n", "damaged, cut or no .caffemodel: field 13 is of wire type 6"),
        (b"\xff" * 30, "damaged, cut or no .caffemodel: a number does not end"),
        (layer("data", "Input", []), "no .caffemodel with weights: no layer of it has any"),
        (field(100, 7), "damaged, cut or no .caffemodel: a number in the place of bytes"),
        (
            varint(100 << 3 | 2) + varint(2**62) + b"abc",
            f"damaged, cut or no .caffemodel: field 100 has 3 bytes of {2**62}",
        ),
        (
            sized([2**40, 2**40], field(5, bytes(8))),
            f"damaged, cut or no .caffemodel: a blob of 8 bytes for the shape [{2**40}, {2**40}]",
        ),
        (
            sized([-1, -2], field(5, bytes(8))),
            "damaged, cut or no .caffemodel: a blob of 8 bytes for the shape "
            f"[{2**64 - 1}, {2**64 - 2}]",
        ),
        (
            sized([2**60, 0], b""),
            f"damaged, cut or no .caffemodel: a blob of 0 bytes for the shape [{2**60}, 0]",
        ),
        (
            sized([2], field(5, bytes(7))),
            "damaged, cut or no .caffemodel: a blob of 7 bytes for the shape [2]",
        ),
        (
            sized([1] * 33, field(5, bytes(4))),
            "damaged, cut or no .caffemodel: a blob of 4 bytes for the shape "
            "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,",
        ),
        (
            layer("a\nb", "BN", [blob(BIAS)]),
            "damaged, cut or no .caffemodel: a layer with weights is called 'a\\nb'",
        ),
        (
            caffemodel({"fc": [BIAS]}) * 2,
            "damaged, cut or no .caffemodel: two layers are called fc",
        ),
        (
            field(2, field(4, b"conv1")),
            "damaged, cut or no .caffemodel: layers of Caffe's old format (V1); its "
            "upgrade_net_proto_binary makes a new one",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_caffemodel_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    assert refusal(tmp_path / "x.caffemodel", content) == said


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=rf"huge\.caffemodel: {2**40} bytes, a \.caffemodel has"):
        read_caffemodel(path)
