"""The rawframes layout, one file an image, as mmaction2 and the TSN tools use it: names and
annotation lists.

    CLASS/VIDEO/img_00000.jpg  flow_x_00000.jpg  flow_y_00000.jpg   denseflow, and what we write: 0
    CLASS/VIDEO/img_00001.jpg  flow_x_00001.jpg  flow_y_00001.jpg   dense_flow of the TSN code: 1

mmaction2 splits a line of its lists at white space and trusts its number for every modality,
although N frames have N - 1 flow fields: hence no white space in a folder, and one list for frames
and another for flow.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twinstream.errors import InputError

CLASSES_NAME = "classes.txt"
RGB_LIST, FLOW_LIST = "_rawframes.txt", "_flow_rawframes.txt"
_IMAGE = re.compile(r"(?:(?P<rgb>img|image)|(?:flow_)?(?P<axis>[xy]))_(?P<number>\d+)\.jpe?g")
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclass(frozen=True)
class ListedVideo:
    """A line of an annotation list: folder below the root, number of frames or fields, label."""

    folder: str
    count: int
    label: int


def image_names(num_frames: int) -> list[str]:
    """File names in the order of a sample's images: 2 frames -> img_00000, img_00001, flow_x_00000,
    flow_y_00000.
    """
    frames = [f"img_{t:05d}.jpg" for t in range(num_frames)]
    return frames + [f"flow_{axis}_{t:05d}.jpg" for t in range(num_frames - 1) for axis in "xy"]


def parse_image_name(name: str) -> tuple[str, int] | None:
    """`flow_x_00012.jpg` or `x_00012.jpg` -> ("x", 12), `img_00001.jpg` -> ("rgb", 1); None for
    another file.
    """
    match = _IMAGE.fullmatch(name)
    return (match["axis"] or "rgb", int(match["number"])) if match else None


def folder_name(name: str) -> str:
    """A class or key as one folder: white space, slashes and control characters become `_`;
    InputError for `..`.
    """
    plain = re.sub(r"[\s/\\\x00-\x1f\x7f]", "_", name)
    if plain in ("", ".", ".."):
        raise InputError(f"{name!r}: not usable as the name of a folder")
    return plain


def list_text(videos: Iterable[ListedVideo]) -> str:
    """An annotation list, one `CLASS/VIDEO count label` a line, in the order of the folders."""
    ordered = sorted(videos, key=lambda video: video.folder)
    return "".join(f"{video.folder} {video.count} {video.label}\n" for video in ordered)


def read_list(path: Path) -> list[ListedVideo]:
    """The lines of an annotation list; a folder may hold spaces here. InputError that names the
    line.
    """
    videos = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=2)
        if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise InputError(
                f"{path}: line {number}: {line!r}, expected `CLASS/VIDEO num_frames label`"
            )
        videos.append(ListedVideo(fields[0].strip(), int(fields[1]), int(fields[2])))
    return videos


def split_of_list(path: Path) -> str:
    """`ucf101_train_split_1_rawframes.txt` -> train; a name without such a word is the split
    itself.
    """
    stem = path.stem.removesuffix("_rawframes")
    return next((word for word in re.split(r"[_\-.]", stem) if word in _SPLITS), stem)
