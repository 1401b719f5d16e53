"""Packets -> every picture of a video stream, or the word that one is damaged or missing.

At a cut or damage FFmpeg often just stops, drops pictures or paints over the hole, without an
error. So the container's elements are checked first, a picture that the decoder calls damaged is an
error, and at the end every picture is accounted for. The price: a video with one damaged picture is
refused. A cut of an MPEG program stream goes unnoticed.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from twinstream.preprocess.decode.container_error import ContainerError
from twinstream.preprocess.decode.containers import Contents, container_contents
from twinstream.preprocess.decode.damage import DamageWatch
from twinstream.preprocess.decode.mpeg import breaks_link
from twinstream.preprocess.decode.packet_count import PacketCount, is_header, promised_packets
from twinstream.shards.format.video_table import Reason, VideoError

VideoPacket: TypeAlias = "Packet[VideoStream]"


def contents_of(
    path: Path, container: InputContainer, stream: VideoStream
) -> Contents | ContainerError:
    """What the container says of the stream, or its damage."""
    try:
        return container_contents(
            str(path),
            container.format.name,
            stream=stream.index,
            video=container.streams.video.index(stream),
            number=stream.id,
        )
    except ContainerError as error:
        return error


def decoded_pictures(
    container: InputContainer,
    stream: VideoStream,
    contents: Contents | ContainerError,
    max_pixels: int | None,
    *,
    notes: list[str],
    up_to_damage: bool = False,
) -> Iterator[VideoFrame]:
    """Every picture in display order; VideoError if one is damaged or, at the end, missing.

    A damaged container is an error at once; with `up_to_damage` the pictures that lie before it
    come first. `notes` says at the end what was left out of a video that is whole.
    """
    damage = contents if isinstance(contents, ContainerError) else None
    if damage is not None and not (up_to_damage and damage.position is not None):
        raise VideoError(Reason.DECODE_ERROR, str(damage))
    known = Contents() if isinstance(contents, ContainerError) else contents
    codec = stream.codec_context.codec.canonical_name
    count = PacketCount(codec)
    # Read before the first packet: FFmpeg adds entries to the index as it reads.
    num_indexed_at_open = len(stream.index_entries)
    packets = _readable(container.demux(stream), damage, known.joints)
    watch = DamageWatch(container, stream)

    def shown(packet: VideoPacket, content: bytes = b"") -> Iterator[VideoFrame]:
        pictures = watch.decoded(packet, is_leading=bool(content) and count.is_leading)
        if watch.fault:
            raise _damaged(count.num_frames, watch.fault)
        if content:
            count.end(content, len(pictures))
        is_torn = packet.is_corrupt and not known.is_continuous
        if is_torn or any(picture.is_corrupt for picture in pictures):
            raise _damaged(count.num_frames, "damaged")
        for picture in pictures:
            if fault := watch.fault_at(count.num_frames + count.num_leading):
                raise _damaged(count.num_frames, fault)
            check_pixels(picture.width, picture.height, max_pixels)
            count.num_frames += 1
            yield picture
        # Decoding goes on from here as at the start of a stream.
        if not content:
            stream.codec_context.flush_buffers()

    try:
        for packet, is_first, pictures, _, content in watch.packets(
            _restarting(packets, stream, known)
        ):
            if is_header(codec, content):
                continue
            if is_first:
                count.restart()
            if content and not count.begin(content, pictures, is_discarded=packet.is_discard):
                raise VideoError(
                    Reason.DECODE_ERROR,
                    f"frame {count.num_frames}: decoding cannot begin in the middle of a stream",
                    count.num_frames,
                )
            yield from shown(packet, content)
        if damage is not None:
            raise VideoError(Reason.DECODE_ERROR, str(damage), count.num_frames)
        num_indexed = promised_packets(
            container.format.name, stream.frames, num_indexed_at_open, len(stream.index_entries)
        )
        num_promised = max(known.num_promised + known.num_following, num_indexed)
        num_in_first = known.num_promised or num_indexed or count.num_packets
        # FFmpeg reads both of two joined files, or the first.
        if known.joints and count.num_packets <= num_in_first:
            num_promised = num_in_first
            notes.append(f"another file follows at byte {known.joints[0]} and is not read")
        num_whole, held = count.num_frames, shown(_empty_packet(stream))
        # Of a video that ends too early the pictures that are to be seen between these may be lost.
        if count.num_packets < num_promised:
            deque(held, maxlen=0)
        else:
            yield from held
    except av.error.FFmpegError as error:
        detail = f"frame {count.num_frames}: {error_text(error)}"
        raise VideoError(Reason.DECODE_ERROR, detail, count.num_frames) from error
    shortfall = count.shortfall(num_promised)
    if shortfall is not None:
        is_cut = count.is_complete and known.num_present == count.num_packets
        raise VideoError(Reason.DECODE_ERROR, shortfall, num_whole if is_cut else None)
    if count.num_left_out:
        notes.append(f"{count.num_left_out} leading pictures refer to what was cut off: left out")


def _readable(
    packets: Iterable[VideoPacket], damage: ContainerError | None, joints: tuple[int, ...]
) -> Iterator[VideoPacket]:
    """The packets that lie wholly before the damage, and the empty one that ends a whole stream.

    Of joined files with fragments FFmpeg may read the first anew after it, or apply its edit list
    to the second: that ends them too.
    """
    end = damage.position if damage is not None else None
    last_pos = 0
    for packet in packets:
        pos = packet.pos or 0
        is_beyond = end is not None and (pos + packet.size > end or packet.is_corrupt)
        is_again = bool(joints) and (pos < last_pos or (pos >= joints[0] and packet.is_discard))
        is_end = not packet.size and packet.pts is None and packet.dts is None
        if not is_end and (is_beyond or is_again):
            return
        yield packet
        last_pos = pos


def _restarting(
    packets: Iterable[VideoPacket], stream: VideoStream, known: Contents
) -> Iterator[tuple[VideoPacket, bool]]:
    """The packets, and whether decoding must be able to begin there.

    An empty one comes in front of each that decoding has to begin anew with: the first of a joined
    file, of a piece that does not go on in time, and where an editor left a broken link: what the
    pictures there refer to is not what was decoded before.
    """
    codec = stream.codec_context.codec.canonical_name
    ahead = sorted((*known.joints, *known.seams), reverse=True)
    last: VideoPacket | None = None
    for packet in packets:
        passed: int | None = None
        while ahead and packet.pos is not None and packet.pos >= ahead[-1]:
            passed = ahead.pop()
        is_cut = last is not None and (
            passed in known.joints
            or (passed in known.seams and not _goes_on(last, packet))
            or breaks_link(codec, bytes(packet))
        )
        if is_cut:
            yield _empty_packet(stream), True
        yield packet, is_cut or passed is not None
        last = packet


def _goes_on(last: VideoPacket, packet: VideoPacket) -> bool:
    """Whether a packet follows the last one in time too, without a picture in between."""
    if packet.dts is None or last.dts is None:
        return False
    return 0 < packet.dts - last.dts < 2 * (last.duration or 0)


def _empty_packet(stream: VideoStream) -> VideoPacket:
    """A packet that makes the decoder give the pictures that it still holds."""
    packet = cast(VideoPacket, Packet())
    packet.stream = stream
    return packet


def _damaged(num_whole: int, fault: str) -> VideoError:
    """The error of damage in or before the frame behind `num_whole` whole ones."""
    return VideoError(Reason.DECODE_ERROR, f"frame {num_whole}: {fault}", num_whole)


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """VideoError for a picture of more pixels than `max_pixels`."""
    if max_pixels is not None and width * height > max_pixels:
        raise VideoError(Reason.TOO_LARGE, f"{width}x{height} is more than {max_pixels} pixels")


def error_text(error: av.error.FFmpegError) -> str:
    """FFmpeg's words for the error, without the path that PyAV adds."""
    return (error.strerror or type(error).__name__).rstrip(".")
