"""Is a video file whole, and how many pictures does it promise? Walks containers without decoding.

FFmpeg takes a cut for the end of the video, jumps over what it cannot parse, and reports neither.
Most formats are chains of (kind, size, content), so the sizes must lead from the first byte to the
last. The price is one small read an element. Program streams are not checked. Sources: ISO/IEC
14496-12 (MP4), RFC 3533 (Ogg), Microsoft's ASF specification.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np

from twinstream.preprocess.decode.asf_packets import (
    DATA_HEAD_BYTES,
    DATA_OBJECT,
    HEADER_OBJECT,
    packet_bytes,
    whole_packets,
)
from twinstream.preprocess.decode.avi_chunks import avi_files
from twinstream.preprocess.decode.container_error import ContainerError, overrun
from twinstream.preprocess.decode.flv_tags import SIGNATURE, flv_tags
from twinstream.preprocess.decode.matroska import matroska_files
from twinstream.preprocess.decode.mp4_tables import Mp4Track, fragment_samples, mp4_track
from twinstream.preprocess.decode.transport_stream import transport_continuity

# Ogg's checksum reads the bits of a byte the other way round.
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
GIF_EXTENSION, GIF_IMAGE, GIF_TRAILER = b"!", b",", b";"
BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"styp",
    b"sidx",
    b"mfra",
    b"free",
    b"skip",
    b"wide",
    b"udta",
    b"meta",
    b"uuid",
    b"emsg",
    b"prft",
    b"ssix",
    b"pdin",
    b"pnot",
}


@dataclass(frozen=True)
class Contents:
    """What a container says of one video stream.

    Of coded pictures it promises `num_promised`, 0 where it does not say, and the files joined to
    it, which begin at the bytes `joints`, hold `num_following` more. `num_present` of them can be
    found; None where that is not known. At the bytes `seams` the pieces of a transport stream
    begin, and `is_continuous`: none of its packets is missing, whatever FFmpeg says at a seam.
    """

    num_promised: int = 0
    num_following: int = 0
    num_present: int | None = None
    joints: tuple[int, ...] = ()
    seams: tuple[int, ...] = ()
    is_continuous: bool = False


def container_contents(
    path: str, format_name: str, *, stream: int, video: int, number: int
) -> Contents:
    """The contents of a video stream; raises ContainerError.

    `format_name` is FFmpeg's name of the demuxer, such as `matroska,webm`. The stream's place is
    counted among all streams and among the video streams; `number` is the one the file gives it.
    """
    names = format_name.split(",")
    with open(path, "rb") as file:
        num_bytes = file.seek(0, 2)
        if "matroska" in names:
            return _matroska_contents(file, num_bytes, video)
        if "mp4" in names:
            return mp4_contents(file, num_bytes, number)
        if "avi" in names:
            return _avi_contents(file, num_bytes, stream)
        if "flv" in names:
            return _flv_contents(file, num_bytes)
        if "mpegts" in names:
            return _transport_contents(file, num_bytes, number)
        if "asf" in names:
            return _asf_contents(file, num_bytes, number)
        if "ogg" in names:
            check_ogg_pages(file, num_bytes)
        if "gif" in names:
            check_gif_blocks(file, num_bytes)
    return Contents()


def _matroska_contents(file: BinaryIO, num_bytes: int, video: int) -> Contents:
    files = matroska_files(file, num_bytes)
    counts = [blocks[video] if video < len(blocks) else 0 for _, blocks in files]
    joints = tuple(start for start, _ in files[1:])
    return Contents(counts[0], sum(counts[1:]), sum(counts), joints)


def _avi_contents(file: BinaryIO, num_bytes: int, stream: int) -> Contents:
    files = avi_files(file, num_bytes, stream)
    if not files:
        return Contents()
    joints = tuple(each.start for each in files[1:])
    counts = [each.num_promised for each in files]
    present = sum(each.num_chunks for each in files) if files[-1].has_end else None
    return Contents(counts[0], sum(counts[1:]), present, joints)


def _flv_contents(file: BinaryIO, num_bytes: int) -> Contents:
    tags = flv_tags(file, num_bytes)
    if tags.num_missing:
        raise ContainerError(overrun(tags.end, num_bytes + tags.num_missing, num_bytes), tags.end)
    file.seek(tags.end)
    is_joined = file.read(len(SIGNATURE)) == SIGNATURE
    if tags.end < num_bytes and not is_joined:
        # What is lost may be bytes of the tag before it.
        raise ContainerError(f"damaged at byte {tags.end}: no FLV tag starts there", tags.last)
    joints = (tags.end,) if is_joined else ()
    return Contents(tags.num_pictures, 0, tags.num_pictures, joints)


def _transport_contents(file: BinaryIO, num_bytes: int, number: int) -> Contents:
    found = transport_continuity(file, num_bytes, number)
    if found is None:
        return Contents()
    if found.damage is not None:
        raise ContainerError(found.damage, found.damaged_at)
    return Contents(seams=found.seams, is_continuous=True)


def _asf_contents(file: BinaryIO, num_bytes: int, number: int) -> Contents:
    """No count, but its packets are checked: FFmpeg reads the first file's objects.

    ContainerError where an object ends outside the file, or where the packets are damaged.
    """
    position = size_of_packets = 0
    while position + 24 <= num_bytes:
        file.seek(position)
        head = file.read(24)
        size = int.from_bytes(head[16:24], "little")
        if position and head[:16] == HEADER_OBJECT:
            return Contents(joints=(position,))
        if head[:16] == HEADER_OBJECT:
            size_of_packets = packet_bytes(file.read(max(0, min(size, num_bytes) - 24)))
        # A live recording gives its data no size.
        end = position + size if size >= 24 else num_bytes
        whole = num_bytes
        if head[:16] == DATA_OBJECT and size_of_packets:
            start, last = position + DATA_HEAD_BYTES, min(end, num_bytes)
            whole, is_damaged = whole_packets(file, start, last, size_of_packets, number)
            if is_damaged:
                text = f"damaged at byte {whole}: packets of the video are damaged or missing"
                raise ContainerError(text, whole)
        if end > num_bytes:
            raise ContainerError(overrun(position, end, num_bytes), whole)
        position = end
    return Contents()


def check_ogg_pages(file: BinaryIO, num_bytes: int) -> None:
    """ContainerError where a page of Ogg is missing, cut or damaged (RFC 3533 section 6)."""
    position = 0
    following: dict[bytes, int] = {}
    while position < num_bytes:
        file.seek(position)
        head = file.read(27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            raise ContainerError(f"damaged at byte {position}: no Ogg page starts there", position)
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        # The first page of a stream, also of one that was joined, counts anew.
        is_first = head[5] & 2
        if not is_first and number != following.get(stream, number):
            raise ContainerError(f"damaged at byte {position}: pages before it are lost", position)
        following[stream] = number + 1
        end = position + 27 + head[26] + sum(head[27 : 27 + head[26]])
        if end > num_bytes:
            raise ContainerError(overrun(position, end, num_bytes), position)
        file.seek(position)
        if not _has_checksum(file.read(end - position)):
            text = f"damaged at byte {position}: the checksum of the Ogg page is wrong"
            raise ContainerError(text, position)
        position = end


def _has_checksum(page: bytes) -> bool:
    """Whether a page has its CRC-32, which takes the highest bit of each byte first, from 0."""
    # That of zlib takes the lowest bit first and inverts what it begins and ends with.
    plain = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    checksum = zlib.crc32(plain, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(REVERSED) == page[22:26]


def check_gif_blocks(file: BinaryIO, num_bytes: int) -> None:
    """ContainerError where no block of a GIF starts: FFmpeg takes that for its end (GIF89a)."""
    file.seek(10)
    position = 13 + _color_table_bytes(file.read(1))
    last_image = 0
    while position < num_bytes:
        file.seek(position)
        head = file.read(10)
        if head[:1] == GIF_EXTENSION:
            content = position + 2
        elif head[:1] == GIF_IMAGE:
            last_image = position
            content = position + 11 + _color_table_bytes(head[9:])
        elif head[:1] == GIF_TRAILER or _is_padding(file, position):
            return
        else:
            text = f"damaged at byte {position}: no GIF block starts there"
            raise ContainerError(text, last_image)
        # Pieces of at most 255 bytes, each behind its size, up to one of size 0.
        size = 1
        while size:
            file.seek(content)
            size = int.from_bytes(file.read(1), "big")
            content += 1 + size
        position = content


def _color_table_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def mp4_contents(file: BinaryIO, num_bytes: int, number: int) -> Contents:
    """The pictures of track `number`, and of its fragments; nothing after an unknown box is read.

    ContainerError where a top-level box or a chunk ends outside the file, or where chunks overlap.
    """
    track: Mp4Track | None = None
    num_in_fragments = num_following = 0
    start_of_next: int | None = None
    joints: tuple[int, ...] = ()
    last_fragment: int | None = None
    end = 0
    for kind, start, content, end in _top_boxes(file, num_bytes):
        if kind == b"ftyp":
            start_of_next = start
        elif kind == b"moov" and track is None:
            file.seek(content)
            track = mp4_track(file.read(end - content), number) or Mp4Track()
        elif kind == b"moov":
            joints = (*joints, start if start_of_next is None else start_of_next)
        elif kind == b"moof":
            last_fragment = start
            file.seek(content)
            num_samples = fragment_samples(file.read(end - content), number)
            num_in_fragments += 0 if joints else num_samples
            num_following += num_samples if joints else 0
    # Pictures of further fragments would be lost without a word.
    if last_fragment is not None and _is_torn(file, end):
        raise ContainerError(f"damaged at byte {end}: no MP4 box starts there", last_fragment)
    if track is None:
        return Contents()
    _check_chunks(track, num_bytes)
    num_promised = track.num_promised
    if num_in_fragments:
        num_promised = track.num_samples.get("stsz", 0) + num_in_fragments
    return Contents(num_promised, num_following, track.num_readable, joints)


def _top_boxes(file: BinaryIO, num_bytes: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, start, content start, end) of each known box; ContainerError where one is cut."""
    position = 0
    while position + 8 <= num_bytes:
        file.seek(position)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        content = position + 8
        # Size 1 announces a 64-bit size after the kind, for boxes beyond 4 GiB.
        if size == 1:
            size, content = int.from_bytes(head[8:16], "big"), position + 16
        # Size 0 lasts to the end of the file, and an unknown kind may be padding: neither is wrong.
        if kind not in BOXES or size < 8:
            return
        if position + size > num_bytes:
            raise ContainerError(overrun(position, position + size, num_bytes), num_bytes)
        yield kind, position, content, position + size
        position += size


def _is_torn(file: BinaryIO, position: int) -> bool:
    """Whether neither a box, be it unknown, nor zeros up to the end are there."""
    file.seek(position + 4)
    if all(32 <= byte < 127 for byte in file.read(4)):
        return False
    return not _is_padding(file, position)


def _is_padding(file: BinaryIO, position: int) -> bool:
    """Whether there are only zeros from `position` to the end."""
    file.seek(position)
    return not any(block.strip(b"\0") for block in iter(partial(file.read, 1 << 20), b""))


def _check_chunks(track: Mp4Track, num_bytes: int) -> None:
    """ContainerError where chunks of one track overlap, or end after the file."""
    filled = track.sizes > 0
    order = np.argsort(track.starts[filled], kind="stable")
    starts, sizes = track.starts[filled][order], track.sizes[filled][order]
    ends = starts + sizes
    if len(ends) and ends[-1] > num_bytes:
        raise ContainerError(overrun(int(starts[-1]), int(ends[-1]), num_bytes), num_bytes)
    overlaps = np.flatnonzero(starts[1:] < ends[:-1])
    if len(overlaps):
        at = int(starts[1:][overlaps[0]])
        raise ContainerError(f"damaged: two chunks of pictures hold byte {at}", None)
