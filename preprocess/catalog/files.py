"""The disk as a catalog sees it: which files there are, and the texts of the lists.

Every regular file counts as a video unless it is hidden or its suffix says text: an empty or broken
file must become a row with a reason, and only decoding can tell. Linked folders are followed.
"""

import os
from pathlib import Path, PurePath, PurePosixPath

from twinstream.errors import InputError
from twinstream.shards.storage.location import Location, file_sizes, locate
from twinstream.shards.storage.remote import RemotePath

NOT_VIDEOS = {
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".md",
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".log",
    ".sha256",
}
NUM_NAMED = 10


def list_files(root: Location) -> list[str]:
    """Sorted paths below `root`, with `/`, of every file that could be a video.

    Hidden files and known text files are not videos.
    """
    if isinstance(root, RemotePath):
        return [
            name
            for name in file_sizes(root)
            if not _is_hidden(name) and not _is_text(PurePosixPath(name))
        ]
    found = []
    for walked, folders, names in os.walk(root, followlinks=True):
        folder = Path(walked)
        # os.walk goes on with what is left in this list, so the same list must be changed.
        folders[:] = [
            name for name in folders if not name.startswith(".") and not _leads_back(folder, name)
        ]
        below = folder.relative_to(root)
        found += [(below / name).as_posix() for name in names if _could_be_video(folder, name)]
    return sorted(found)


def _leads_back(folder: Path, name: str) -> bool:
    """Whether this folder is a link to a folder that holds it: the walk would never end."""
    return folder.resolve().is_relative_to((folder / name).resolve())


def _could_be_video(folder: Path, name: str) -> bool:
    """A broken link counts too: it becomes a row that says `missing`."""
    path = folder / name
    if name.startswith(".") or _is_text(path):
        return False
    return path.is_file() or path.is_symlink()


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _is_text(path: PurePath) -> bool:
    return path.suffix.lower() in NOT_VIDEOS


def splits_folder(root: Location, splits: str | None) -> Location:
    """The folder of classInd.txt: `splits` if given, else the root or `splits` beside it."""
    if splits is not None:
        return locate(splits)
    folders = [root, root.parent / "splits"]
    for folder in folders:
        if (folder / "classInd.txt").exists():
            return folder
    raise InputError(
        f"dataset.splits: not set, and no classInd.txt in {folders[0]} or {folders[1]}"
    )
