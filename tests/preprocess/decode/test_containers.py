"""The element chains of Matroska and MP4: whole files pass, any cut or torn chain is found."""

from io import BytesIO
from pathlib import Path

import pytest

from tests.support.videos import moving_square, write_sound, write_video
from twinstream.preprocess.decode.containers import (
    ASF_HEADER,
    ContainerError,
    Contents,
    check_ogg_pages,
    container_contents,
    matroska_files,
    mp4_contents,
)

EBML, SEGMENT, TRACKS, CLUSTER = (
    b"\x1a\x45\xdf\xa3",
    b"\x18\x53\x80\x67",
    b"\x16\x54\xae\x6b",
    b"\x1f\x43\xb6\x75",
)
UNKNOWN = b"\x01" + b"\xff" * 7


def element(name: bytes, content: bytes, size: bytes | None = None) -> bytes:
    """An EBML element; `size` overrides the true one."""
    return name + (size or (len(content) | 1 << 28).to_bytes(4, "big")) + content


def track(number: int, kind: int) -> bytes:
    return element(b"\xae", element(b"\xd7", bytes([number])) + element(b"\x83", bytes([kind])))


def matroska(*clusters: bytes, size: bytes | None = None) -> bytes:
    """A file with video track 1 and audio track 2."""
    tracks = element(TRACKS, track(1, 1) + track(2, 2))
    return element(EBML, b"") + element(SEGMENT, tracks + b"".join(clusters), size)


def simple_block(number: int) -> bytes:
    return element(b"\xa3", bytes([0x80 | number, 0, 0, 0]) + b"picture")


GROUP = element(b"\xa0", element(b"\xa1", b"\x81\0\0\0picture") + element(b"\x9b", b"\x28"))
BLOCKS = element(b"\xe7", b"\0") + simple_block(1) + simple_block(2) + GROUP


def blocks_of(content: bytes) -> list[int]:
    [(_, blocks)] = matroska_files(BytesIO(content), len(content))
    return blocks


def contents(path: Path, format_name: str = "matroska,webm") -> Contents:
    """The contents of the first stream."""
    return container_contents(str(path), format_name, stream=0, video=0, number=1)


@pytest.mark.parametrize(
    "content",
    [
        matroska(element(CLUSTER, BLOCKS)),
        matroska(element(CLUSTER, BLOCKS), size=UNKNOWN),
        matroska(element(CLUSTER, BLOCKS, UNKNOWN), size=UNKNOWN),
        matroska(element(CLUSTER, BLOCKS), element(b"\xec", bytes(20))),
    ],
)
def test_blocks_are_counted_for_each_video_track(content: bytes) -> None:
    assert blocks_of(content) == [2]


def test_clusters_of_unknown_size_follow_one_another() -> None:
    cluster = element(CLUSTER, BLOCKS, UNKNOWN)
    assert blocks_of(matroska(cluster, cluster, cluster, size=UNKNOWN)) == [6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matroska(element(CLUSTER, BLOCKS))[:-1], "ends 1 bytes after the file"),
        (matroska(element(CLUSTER, BLOCKS), size=UNKNOWN)[:-3], "ends 3 bytes after the file"),
        (matroska(element(CLUSTER, BLOCKS + b"\x77\x81x")), "no Matroska element starts there"),
        (
            matroska(element(CLUSTER, element(b"\xa0", BLOCKS, b"\x84"))),
            "longer than what holds it",
        ),
        (matroska(element(CLUSTER, element(b"\xe7", bytes(9)))), "longer than what holds it"),
        (matroska(element(CLUSTER, simple_block(7))), "track 7, which the header does not name"),
    ],
)
def test_a_torn_chain_is_found(content: bytes, message: str) -> None:
    with pytest.raises(ContainerError, match=message):
        blocks_of(content)


@pytest.mark.parametrize("num_missing", [1, 5, 9, 40, 400])
def test_a_real_matroska_file_may_not_lack_a_byte(tmp_path: Path, num_missing: int) -> None:
    path = write_video(tmp_path / "a.mkv", moving_square(20), codec="libx264", sound=True)
    assert contents(path).num_promised == 20
    path.write_bytes(path.read_bytes()[:-num_missing])
    with pytest.raises(ContainerError, match="after the file"):
        contents(path)


def test_sound_alone_has_no_video_blocks(tmp_path: Path) -> None:
    assert contents(write_sound(tmp_path / "a.mkv")).num_promised == 0


def test_laced_frames_count_each() -> None:
    laced = element(b"\xa3", b"\x81\0\0\x06\2" + b"three pictures")
    assert blocks_of(matroska(element(CLUSTER, laced + simple_block(1)))) == [4]


def test_a_joined_matroska_file_is_counted_apart() -> None:
    first, second = matroska(element(CLUSTER, BLOCKS)), matroska(element(CLUSTER, simple_block(1)))
    content = first + second
    assert matroska_files(BytesIO(content), len(content)) == [(0, [2]), (len(first), [1])]
    content += b"padding"
    assert len(matroska_files(BytesIO(content), len(content))) == 2


def test_an_error_says_before_which_byte_all_is_whole() -> None:
    content = matroska(element(CLUSTER, BLOCKS + b"\x77\x81x"))
    with pytest.raises(ContainerError) as caught:
        blocks_of(content)
    assert caught.value.position == len(content) - 3
    with pytest.raises(ContainerError) as caught:
        blocks_of(matroska(element(CLUSTER, BLOCKS + simple_block(1)))[:-1])
    assert caught.value.position == len(matroska(element(CLUSTER, BLOCKS)))
    with pytest.raises(ContainerError) as caught:
        blocks_of(matroska(element(CLUSTER, simple_block(7))))
    assert caught.value.position is None


def page(number: int, content: bytes, flags: int = 0, stream: int = 1) -> bytes:
    head = b"OggS\0" + bytes([flags]) + bytes(8) + stream.to_bytes(4, "little")
    return head + number.to_bytes(4, "little") + bytes(4) + b"\1" + bytes([len(content)]) + content


OGG = [
    page(0, b"head", 2),
    page(1, b"a"),
    page(0, b"sound", 2, 9),
    page(2, b"b"),
    page(1, b"c", 0, 9),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"".join(OGG), None),
        (b"".join(OGG + OGG), None),
        (b"".join(OGG[:1] + OGG[2:]), "damaged at byte 65: pages before it are lost"),
        (b"".join(OGG)[:-1], "ends 1 bytes after the file"),
        (b"".join(OGG) + b"junk", "no Ogg page starts there"),
        (b"".join(OGG[:2]) + OGG[2][:9], "no Ogg page starts there"),
    ],
)
def test_pages_of_ogg_follow_one_another(content: bytes, message: str | None) -> None:
    if message is None:
        check_ogg_pages(BytesIO(content), len(content))
        return
    with pytest.raises(ContainerError, match=message):
        check_ogg_pages(BytesIO(content), len(content))


def asf(*sizes: int, header: bytes = ASF_HEADER) -> bytes:
    """Objects of these sizes, the first of them a header."""
    names = [header, *(bytes([number]) * 16 for number in range(1, len(sizes)))]
    return b"".join(
        name + size.to_bytes(8, "little") + bytes(max(0, size - 24))
        for name, size in zip(names, sizes, strict=True)
    )


def test_objects_of_asf_lie_within_the_file_and_a_joined_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.wmv"
    path.write_bytes(asf(50, 100))
    assert contents(path, "asf") == Contents()
    path.write_bytes(asf(50, 0) + b"live")
    assert contents(path, "asf") == Contents()
    path.write_bytes(asf(50, 100) + asf(50, 100))
    assert contents(path, "asf").joints == (150,)
    path.write_bytes(asf(50, 100)[:-9])
    with pytest.raises(ContainerError, match="ends 9 bytes after the file"):
        contents(path, "asf")


def box(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        box(b"ftyp", b"isom") + box(b"moov", bytes(30)),
        box(b"ftyp", b"isom") + b"\0\0\0\1mdat" + (30).to_bytes(8, "big") + bytes(14),
        box(b"ftyp", b"isom") + b"\0\0\0\0mdat" + bytes(9),  # size 0: to the end of the file
        box(b"moov", bytes(30)) + bytes(5),
        box(b"moov", bytes(30)) + b"\x7f\xff\xff\xffjunk",
    ],
)
def test_boxes_that_tile_the_file_pass(content: bytes) -> None:
    assert mp4_contents(BytesIO(content), len(content), 1).num_promised == 0


@pytest.mark.parametrize("num_missing", [1, 20])
def test_a_box_that_ends_after_the_file_is_found(num_missing: int) -> None:
    content = (box(b"ftyp", b"isom") + box(b"mdat", bytes(30)))[:-num_missing]
    with pytest.raises(
        ContainerError, match=f"element at byte 12 ends {num_missing} bytes after the file"
    ):
        mp4_contents(BytesIO(content), len(content), 1)
