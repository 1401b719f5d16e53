"""A file -> its FFmpeg container and stream of moving pictures, or the word that it is no video.

FFmpeg opens far more than videos: it draws text files as pictures, follows playlists to other files
and to servers, and takes `clip%d.jpg` for a series of files. So only those of its demuxers are let
near a file that read moving pictures, or sound, from it alone. The price: a format that is not
listed is refused although FFmpeg may know it.
"""

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from twinstream.preprocess.decode.damage import captured_log
from twinstream.preprocess.decode.decoding import error_text
from twinstream.shards.format.video_table import Reason, VideoError

PYAV_MAJOR = int(av.__version__.split(".")[0])

# By the names of FFmpeg's demuxers: containers, raw streams, recorders and cameras, animations and
# the films of games, and last what holds only sound, so that it can be said that it does.
VIDEO_FORMATS = (
    "asf,asf_o,avi,flv,gxf,ivf,ivr,kux,lxf,matroska,mov,mpeg,mpegts,mpegtsraw,mxf,nsv,nut,nuv,"
    "ogg,pva,rm,swf,wtv,"
    "apv,av1,avs2,avs3,cavsvideo,dirac,dnxhd,dv,evc,h261,h263,h264,hevc,ipu,m4v,mjpeg,"
    "mjpeg_2000,mpegvideo,obu,vc1,vc1test,vvc,yuv4mpegpipe,"
    "cine,dhav,hxvs,ifv,ingenient,iv8,lmlm4,luodat,mpjpeg,msnwctcp,mtv,mxg,nc,pmp,r3d,ser,"
    "smjpeg,ty,vivo,"
    "apng,filmstrip,flic,gif,jpegxl_anim,"
    "4xm,bink,ea,film_cpk,idcin,ipmovie,moflex,mv,psxstr,roq,rpl,smk,thp,vmd,wc3movie,wsvqa,xmv,"
    "aac,ac3,aiff,amr,ape,au,caf,dts,eac3,flac,mp3,tta,voc,w64,wav,wv"
)
# Of a photo that holds a preview as well, FFmpeg says mjpeg or apng.
IMAGE_FORMATS = "jpeg_pipe,mjpeg,png_pipe,apng"

# FFmpeg finds a stream that begins somewhere in a file, so also one that is packed uncompressed; a
# playlist it knows by the file's name only.
ARCHIVES = {
    (0, b"PK\x03\x04"): "ZIP archive",
    (0, b"\x1f\x8b"): "gzip archive",
    (0, b"BZh"): "bzip2 archive",
    (0, b"\xfd7zXZ\0"): "xz archive",
    (0, b"(\xb5/\xfd"): "Zstandard archive",
    (0, b"7z\xbc\xaf'\x1c"): "7z archive",
    (0, b"Rar!\x1a\x07"): "RAR archive",
    (257, b"ustar"): "tar archive",
    (0, b"%PDF"): "PDF document",
    (0, b"#EXTM3U"): "Apple HTTP Live Streaming (hls)",
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"): "OLE document",
}
HEAD_BYTES = 512
MJPEG_SUFFIXES, START_OF_IMAGE = (".mjpeg", ".mjpg"), b"\xff\xd8"


def open_container(path: Path) -> InputContainer:
    """The file as opened by FFmpeg; VideoError where it cannot be, or is no video."""
    # Without `file:` FFmpeg reads a name such as `a:b.mp4` as a protocol.
    name = f"file:{path}"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        # What follows reads the file again, from its start.
        if not path.is_file():
            raise VideoError(Reason.UNREADABLE, "not a regular file")
        for (at, mark), kind in ARCHIVES.items():
            if head[at:].startswith(mark):
                raise VideoError(Reason.NO_VIDEO_STREAM, f"{kind}, not a video")
        # Of raw MJPEG FFmpeg sees a picture that is the first of a series of files.
        is_mjpeg = path.suffix.lower() in MJPEG_SUFFIXES and head.startswith(START_OF_IMAGE)
        return av_open(name, VIDEO_FORMATS, "mjpeg" if is_mjpeg else None)
    except FileNotFoundError as error:
        raise VideoError(Reason.MISSING, "no such file") from error
    except av.error.FFmpegError as error:
        if found := _unlisted_format(name):
            raise VideoError(Reason.NO_VIDEO_STREAM, f"{found}, not a video") from error
        raise VideoError(Reason.UNREADABLE, error_text(error)) from error
    except OSError as error:
        raise VideoError(Reason.UNREADABLE, error.strerror or "cannot be read") from error


def av_open(file: str | BinaryIO, formats: str, format_name: str | None = None) -> InputContainer:
    """The opened container, if its format is listed, also where its tags are not UTF-8.

    The format is the one that the content looks like, unless it is named.
    """
    # What the list lets through has no need of other files, but may name some.
    options = {"format_whitelist": formats, "protocol_whitelist": "file"}
    # PyAV before 19 refuses a video whose tags are in Latin-1, unless asked to replace them.
    if PYAV_MAJOR < 19:
        return av.open(
            file, "r", format=format_name, container_options=options, metadata_errors="replace"
        )
    return av.open(file, "r", format=format_name, container_options=options)


def _unlisted_format(name: str) -> str | None:
    """What FFmpeg takes the file for, such as `SubRip subtitle (srt)`; None for a listed format."""
    # The error itself has no room for the name.
    with captured_log() as said, suppress(av.error.FFmpegError):
        av_open(name, VIDEO_FORMATS).close()
    for _, demuxer, words in said:
        if words.startswith("Format not on whitelist"):
            return f"{av.ContainerFormat(demuxer, 'r').long_name} ({demuxer})"
    return None


def video_stream(container: InputContainer) -> tuple[VideoStream, str | None]:
    """The stream of moving pictures, and a note which one was taken where there are several.

    The default one; of several the one with the largest pictures, of these the first. Covers and
    thumbnails are none, nor is one without a decoder where another has one.
    """
    pictures_apart = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [each for each in container.streams.video if not each.disposition & pictures_apart]
    if not moving:
        raise VideoError(Reason.NO_VIDEO_STREAM, _streams_text(container))
    decodable = [stream for stream in moving if stream.codec_context is not None]
    if not decodable:
        raise VideoError(Reason.UNREADABLE, "no decoder for its video stream")
    taken = max(decodable, key=_preference)
    if len(moving) == 1:
        return taken, None
    width, height = taken.codec_context.width, taken.codec_context.height
    return taken, f"video stream {moving.index(taken) + 1} of {len(moving)}: {width}x{height}"


def _preference(stream: VideoStream) -> tuple[bool, int]:
    is_default = bool(stream.disposition & Disposition.default)
    return is_default, stream.codec_context.width * stream.codec_context.height


def _streams_text(container: InputContainer) -> str:
    """`only audio, attached picture`."""
    kinds = [
        "attached picture" if stream.type == "video" else stream.type
        for stream in container.streams
    ]
    return f"only {', '.join(kinds)}" if kinds else "no streams at all"
