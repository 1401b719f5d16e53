"""Which folders hold a video as numbered images, without listing the images of every one.

A folder is a video where one of its files is named like a frame, and there the search ends; so is a
folder with nothing below it, because a video that has lost all its images must become a row. Linked
folders are followed.
"""

import os
import re
from pathlib import Path

from twinstream.errors import InputError

FRAME = re.compile(r"(?P<prefix>|.*\D)(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
# What the extractors of flow call theirs: those may lie in the same folder.
FLOW_PREFIXES = {"flow_x_", "flow_y_", "x_", "y_"}


def frame_number(name: str) -> tuple[str, int] | None:
    """`img_00001.jpg` -> ("img_", 1), `7.png` -> ("", 7); None for hidden files, images of flow and
    all else.
    """
    match = FRAME.fullmatch(name)
    if match is None or name.startswith(".") or match["prefix"].lower() in FLOW_PREFIXES:
        return None
    return match["prefix"], int(match["number"])


def list_frame_folders(root: str) -> list[str]:
    """Paths below `root`, with `/`, sorted, of every folder that is a video; InputError if the root
    itself is one.
    """
    found = []
    left = [Path(root)]
    while left:
        folder = left.pop()
        below = _folders_below(folder)
        if not below and folder != Path(root):
            found.append(folder.relative_to(root).as_posix())
        elif below is None:
            raise InputError(
                f"dataset.root {root}: holds images itself; expected CLASS/VIDEO/img_00001.jpg "
                "below it"
            )
        else:
            left += below
    return sorted(found)


def _folders_below(folder: Path) -> list[Path] | None:
    """The folders in a folder; None as soon as a frame is seen in it."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                path = Path(entry.path)
                if not folder.resolve().is_relative_to(path.resolve()):
                    below.append(path)
            elif frame_number(entry.name) is not None:
                return None
    return below
