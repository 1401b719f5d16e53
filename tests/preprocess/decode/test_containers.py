"""The element chains of Matroska and MP4: whole files pass, any cut or torn chain is found."""

from io import BytesIO
from pathlib import Path

import pytest

from tests.support.videos import moving_square, write_sound, write_video
from twinstream.preprocess.decode.asf_packets import HEADER_OBJECT
from twinstream.preprocess.decode.container_error import ContainerError
from twinstream.preprocess.decode.containers import (
    Contents,
    check_gif_blocks,
    check_ogg_pages,
    container_contents,
    mp4_contents,
)
from twinstream.preprocess.decode.matroska import matroska_files

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


LAST_BLOCK = element(b"\xa1", b"\x81\0\0\0picture") + element(b"\x9b", b"\x28")
GROUP = element(b"\xa0", LAST_BLOCK)
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


@pytest.mark.parametrize(
    "content",
    [
        matroska(element(CLUSTER, BLOCKS + b"\x77\x81x")),
        matroska(element(CLUSTER, BLOCKS + simple_block(1)))[:-1],
    ],
)
def test_an_error_says_before_which_byte_all_is_whole(content: bytes) -> None:
    with pytest.raises(ContainerError) as caught:
        blocks_of(content)
    # The last block before the break may be what is torn.
    assert caught.value.position == len(matroska(element(CLUSTER, BLOCKS))) - len(LAST_BLOCK)


def test_of_an_unnamed_track_no_byte_is_known_to_be_whole() -> None:
    with pytest.raises(ContainerError) as caught:
        blocks_of(matroska(element(CLUSTER, simple_block(7))))
    assert caught.value.position is None


def page(number: int, content: bytes, flags: int = 0, stream: int = 1) -> bytes:
    head = b"OggS\0" + bytes([flags]) + bytes(8) + stream.to_bytes(4, "little")
    head += number.to_bytes(4, "little")
    return summed(head + bytes(4) + b"\1" + bytes([len(content)]) + content)


def summed(page: bytes) -> bytes:
    """The page with its CRC-32: of polynomial 0x04C11DB7, bit by bit as the RFC says."""
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)
            checksum &= 0xFFFFFFFF
    return page[:22] + checksum.to_bytes(4, "little") + page[26:]


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
        (b"".join(OGG).replace(b"sound", b"sounD"), "byte 61: the checksum of the Ogg page"),
        (b"".join(OGG[:2]) + OGG[2][:9], "no Ogg page starts there"),
    ],
)
def test_pages_of_ogg_follow_one_another(content: bytes, message: str | None) -> None:
    if message is None:
        check_ogg_pages(BytesIO(content), len(content))
        return
    with pytest.raises(ContainerError, match=message):
        check_ogg_pages(BytesIO(content), len(content))


def asf(*sizes: int, header: bytes = HEADER_OBJECT) -> bytes:
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


GIF = b"GIF89a" + bytes(4) + b"\x80\0\0" + bytes(6)
GIF_PICTURE = b"!\xf9\4\0\0\0\0\0" + b"," + bytes(8) + b"\x80" + bytes(6) + b"\2\3abc\2de\0"


@pytest.mark.parametrize("end", [b";", b"", bytes(9), b";junk"])
def test_blocks_of_gif_follow_one_another(end: bytes) -> None:
    content = GIF + 2 * GIF_PICTURE + end
    check_gif_blocks(BytesIO(content), len(content))


@pytest.mark.parametrize("at", [0, 8])
def test_a_gif_is_damaged_where_no_block_starts(at: int) -> None:
    content = GIF + 2 * GIF_PICTURE + GIF_PICTURE[:at] + b"\1" + GIF_PICTURE[at + 1 :] + b";"
    message = f"damaged at byte {len(GIF + 2 * GIF_PICTURE) + at}: no GIF block"
    with pytest.raises(ContainerError, match=message) as caught:
        check_gif_blocks(BytesIO(content), len(content))
    assert caught.value.position == len(GIF + GIF_PICTURE) + 8


def test_a_fragmented_mp4_is_damaged_where_no_box_starts(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = tmp_path / "a.mp4"
    write_video(path, moving_square(40), codec="libx264", gop_size=10, muxer_options=options)
    content = path.read_bytes()
    path.write_bytes(content + bytes(20))
    assert contents(path, "mp4").num_promised == 40
    first, second = content.index(b"moof") - 4, content.index(b"moof", content.index(b"mdat")) - 4
    path.write_bytes(content[: second - 1] + content[second:])
    with pytest.raises(ContainerError, match=f"damaged at byte {second}: no MP4 box") as caught:
        contents(path, "mp4")
    assert caught.value.position == first


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
