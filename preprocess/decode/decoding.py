"""Packets -> every picture of a video stream, or the word that one is damaged or missing.

At a cut or damage FFmpeg often just stops, drops pictures or paints over the hole, without an
error. So the container's elements are checked first, a picture that the decoder calls damaged is an
error, and at the end every picture is accounted for. The price: a video with one damaged picture is
refused. Formats without a count (MPEG-TS and -PS, FLV, WMV, Ogg, GIF) can be cut unnoticed.
"""

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from twinstream.preprocess.decode.containers import ContainerError, count_blocks
from twinstream.preprocess.decode.packet_count import PacketCount, is_silent, promised_packets
from twinstream.shards.format.video_table import Reason, VideoError


def num_blocks_of(path: Path, container: InputContainer, stream: VideoStream) -> int:
    """Blocks of the stream in a Matroska file, 0 for other formats; VideoError if damaged."""
    try:
        blocks = count_blocks(str(path), container.format.name)
    except ContainerError as error:
        raise VideoError(Reason.DECODE_ERROR, str(error)) from error
    index = container.streams.video.index(stream)
    return blocks[index] if index < len(blocks) else 0


def decoded_pictures(
    container: InputContainer, stream: VideoStream, num_blocks: int, max_pixels: int | None
) -> Iterator[VideoFrame]:
    """Every picture in display order; VideoError if one is damaged or, at the end, missing."""
    count = PacketCount()
    # Read before the first packet: FFmpeg adds entries to the index as it reads.
    index_at_open = [entry.timestamp for entry in stream.index_entries]
    codec = stream.codec_context.codec.canonical_name
    try:
        for packet in container.demux(stream):
            pictures = packet.decode()
            # The last packet is empty: it makes the decoder give the pictures that it still holds.
            if packet.size:
                count.num_packets += 1
                count.num_silent += is_silent(
                    codec, bytes(packet), discarded=packet.is_discard, num_frames=len(pictures)
                )
            for picture in pictures:
                if picture.is_corrupt or packet.is_corrupt:
                    raise VideoError(Reason.DECODE_ERROR, f"frame {count.num_frames}: damaged")
                check_pixels(picture.width, picture.height, max_pixels)
                count.num_frames += 1
                count.num_interlaced += picture.interlaced_frame
                yield picture
    except av.error.FFmpegError as error:
        raise VideoError(
            Reason.DECODE_ERROR, f"frame {count.num_frames}: {error_text(error)}"
        ) from error
    num_promised = promised_packets(
        container.format.name, stream.frames, index_at_open, len(stream.index_entries)
    )
    shortfall = count.shortfall(max(num_promised, num_blocks))
    if shortfall is not None:
        raise VideoError(Reason.DECODE_ERROR, shortfall)


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """VideoError for a picture of more pixels than `max_pixels`."""
    if max_pixels is not None and width * height > max_pixels:
        raise VideoError(Reason.TOO_LARGE, f"{width}x{height} is more than {max_pixels} pixels")


def error_text(error: av.error.FFmpegError) -> str:
    """FFmpeg's words for the error, without the path that PyAV adds."""
    return (error.strerror or type(error).__name__).rstrip(".")
