"""The reader of coded pictures for each codec.

H.264 counts its reference pictures in decoding order (frame_num); H.264 and HEVC (picture order
count), MPEG-1 and -2 (temporal_reference) and AV1 (order_hint) number all in display order. VP8,
VP9, MPEG-4 part 2, H.263, WMV and the intra codecs carry no count.
"""

from twinstream.preprocess.decode.av1 import Av1Reader
from twinstream.preprocess.decode.coded_pictures import PictureReader
from twinstream.preprocess.decode.h264 import H264Reader
from twinstream.preprocess.decode.hevc import HevcReader
from twinstream.preprocess.decode.mpeg import Mpeg2Reader, Mpeg4Reader


def picture_reader(codec: str, extradata: bytes | None) -> PictureReader | None:
    """The reader of FFmpeg's `codec`, None where every packet is a frame without a number."""
    if codec == "h264":
        return H264Reader(extradata)
    if codec == "hevc":
        return HevcReader(extradata)
    if codec == "av1":
        return Av1Reader(extradata)
    if codec in ("mpeg1video", "mpeg2video"):
        return Mpeg2Reader()
    return Mpeg4Reader() if codec == "mpeg4" else None
