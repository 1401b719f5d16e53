"""The disk as a catalog sees it: which files could be videos, and where the lists are.

An empty or broken file must become a row with a reason, and only decoding can tell. So every file
could be a video unless its suffix says what else it is, and a sound or a file of an unknown suffix
unless it lies beside a video of its name. What is left out is told.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from posixpath import dirname, splitext
from sys import intern

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.keys import usable_paths
from twinstream.shards.format.manifest import FILE_NAME, is_dataset, is_output
from twinstream.shards.storage.location import (
    Location,
    file_sizes,
    is_inside,
    is_usable_path,
    locate,
)
from twinstream.shards.storage.walk import is_excluded, is_in_tree, walk_tree


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


@dataclass(frozen=True)
class Files:
    """Sorted paths below a root.

    `videos` could be some. `others` are none by their suffix, but a list may name one. `broken`:
    links that lead nowhere and have no file's suffix, so that they may have led to folders.
    `barren_warning` names folders that hold no video, in which a class may have been.
    """

    videos: tuple[str, ...]
    others: tuple[str, ...]
    broken: tuple[str, ...]
    barren_warning: tuple[str, ...]
    warnings: tuple[str, ...]


def list_files(root: Location, exclude: Sequence[str] = (), out: Location | None = None) -> Files:
    """Every file below `root` that could be a video, and what was left out.

    What lies in a dataset is none; `out` is one that is being made. InputError for a folder that
    cannot be listed.
    """
    if isinstance(root, Path):
        tree = walk_tree(root, exclude, is_output=partial(is_output, out=out))
        paths, broken, excluded = tree.files, tree.broken, tree.excluded
        leaves = tree.leaves
    else:
        there = _without_outputs(root, list(file_sizes(root)), out)
        there = [path for path in there if all(map(is_in_tree, path.split("/")))]
        excluded = tuple(path for path in there if is_excluded(path, exclude))
        paths = tuple(path for path in there if not is_excluded(path, exclude))
        broken, leaves = (), ()
    usable, warnings = usable_paths(paths)
    # Of millions of paths it is asked once, and the text of each suffix is there once.
    suffix_of = [intern(_suffix(path)) for path in usable]

    def each() -> Iterator[tuple[str, str]]:
        return zip(usable, suffix_of, strict=True)

    unsure = {splitext(path)[0] for path, suffix in each() if _is_unsure(suffix)}
    # Of millions of videos few lie beside a file that may be one.
    beside = {
        stem
        for path, suffix in each()
        if unsure and suffix in VIDEOS and (stem := splitext(path)[0]) in unsure
    }
    others = [path for path, suffix in each() if _is_other(path, suffix, beside)]
    left_out = {*others}
    videos = sorted(path for path in usable if path not in left_out)
    parents = {dirname(path) for path in videos}
    barren = [leaf for leaf in leaves if leaf not in parents and is_usable_path(leaf)]
    told = [path for path in others if _suffix(path) not in LISTS_AND_NOTES]
    if told:
        counts = Counter(_suffix(path) or "without suffix" for path in told).most_common()
        suffixes = first_few([f"{count} {suffix}" for suffix, count in counts])
        warnings.append(
            f"{len(told)} files that are no videos by their names ({suffixes}), left out"
        )
    return Files(
        tuple(videos),
        tuple(others),
        tuple(link for link in broken if _suffix(link) not in VIDEOS | NOT_VIDEOS),
        (f"{len(barren)} folders ({first_few(barren)}) hold no video",) if barren else (),
        (*warnings, *excluded_warning(excluded, exclude, "files or folders")),
    )


def _without_outputs(root: Location, paths: Sequence[str], out: Location | None) -> list[str]:
    """The paths of a store that lie neither at `out` nor in a dataset."""
    end = f"/{FILE_NAME}"
    folders = [root / path.removesuffix(end) for path in paths if path.endswith(end)]
    outputs = [folder for folder in folders if is_dataset(folder)]
    outputs += [] if out is None else [out]
    return [path for path in paths if not any(is_inside(root / path, one) for one in outputs)]


def has_video_suffix(path: str) -> bool:
    """Whether the suffix is that of a video file, in any case."""
    return _suffix(path) in VIDEOS


def excluded_warning(paths: Sequence[str], exclude: Sequence[str], what: str) -> list[str]:
    """One line that says how many `dataset.exclude` left out, if it is set, and what fits none."""
    if not exclude:
        return []
    names = f" ({first_few(paths)})" if paths else ""
    idle = [one for one in exclude if not any(is_excluded(path, [one]) for path in paths)]
    none = f"; none for {first_few(idle)}" if idle else ""
    return [f"{len(paths)} {what}{names} left out by dataset.exclude{none}"]


def _is_other(path: str, suffix: str, beside: set[str]) -> bool:
    if _is_unsure(suffix):
        return splitext(path)[0] in beside
    return suffix not in VIDEOS


def _is_unsure(suffix: str) -> bool:
    """Whether a suffix is neither that of a video nor of something else."""
    # yt-dlp leaves parts such as `clip.mp4.part-Frag7`.
    return suffix not in VIDEOS and suffix not in NOT_VIDEOS and not suffix.startswith(".part-")


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()


def splits_folder(root: Location, splits: str | None, name: str) -> Location:
    """The folder of the lists: `splits` if given, else the root or `splits` beside it.

    One of them holds a file of this name or pattern.
    """
    if splits is not None:
        return locate(splits)
    folders = [root, root.parent / "splits"]
    for folder in folders:
        if next(iter(folder.glob(name)), None) is not None:
            return folder
    raise InputError(f"dataset.splits: not set, and no {name} in {folders[0]} or {folders[1]}")
