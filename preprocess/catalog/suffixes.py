"""Which files could be videos, by their suffixes.

An empty or broken file must become a row with a reason, and only decoding can tell. So every file
could be a video unless its suffix says what else it is, and a sound or a file of an unknown suffix
unless it lies beside a video of its name.
"""

from posixpath import splitext


def _suffixes(*lines: str) -> frozenset[str]:
    return frozenset(f".{name}" for line in lines for name in line.split())


VIDEOS = _suffixes(
    "264 265 3g2 3gp 3gp2 3gpp amv asf avi divx dv f4v flv h264 h265 hevc ivf m1v m2t m2ts m2v m4v",
    "mjpeg mjpg mkv mod mov mp4 mpe mpeg mpg mts mxf nut ogm ogv qt rm rmvb tod ts vob webm wmv",
    "y4m",
)
# Left out without a word: most roots hold some.
LISTS_AND_NOTES = _suffixes("csv html json jsonl log md sha256 tsv txt xml yaml yml")
NOT_VIDEOS = LISTS_AND_NOTES | _suffixes(
    # Texts, tables and programs.
    "ans asc bib c cfg conf cpp css description diz doc docx h htm ini ipynb js json5 lnk mhtml",
    "ndjson nfo odt pdf ppt pptx ps1 py rst rtf sh tex toml url webloc xls xlsx xmp",
    # Subtitles.
    "ass dfxp idx lrc mks sami sbv scc smi srt ssa stl sub sup ttml usf vtt",
    # Lists of other files to play.
    "asx concat cue f4m ffcat ffconcat ism isml m3u m3u8 mpd pls ram sdp smil strm torrent wpl",
    "xspf",
    # Images.
    "aae avif bmp cr2 dng eps exr heic heif ico j2k jfif jp2 jpe jpeg jpg jxl nef pbm pgm png pnm",
    "ppm psd svg tga thm tif tiff webp",
    # Archives, check sums and data.
    "7z arrow bz2 ckpt crc db feather gz h5 hdf5 iso lmdb lz4 lzma mat md5 npy npz par2 parquet",
    "pickle pkl pt pth rar safetensors sfv sha1 sha512 sqlite tar tbz2 tfrecord tgz txz xz",
    "zip zst",
    # Downloads that have not ended, and what programs leave.
    "aria2 bak crdownload download filepart lock opdownload part partial swp temp tmp ytdl",
)


def has_video_suffix(path: str) -> bool:
    """Whether the suffix is that of a video file, in any case."""
    return suffix(path) in VIDEOS


def is_unsure(end: str) -> bool:
    """Whether a suffix is neither that of a video nor of something else."""
    # yt-dlp leaves parts such as `clip.mp4.part-Frag7`.
    return end not in VIDEOS and end not in NOT_VIDEOS and not end.startswith(".part-")


def suffix(path: str) -> str:
    """`a/Clip.MP4` -> `.mp4`."""
    return splitext(path)[1].lower()
