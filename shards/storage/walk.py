"""Walks folders on a disk. What cannot be listed is an error that names it.

A folder that is passed over in silence takes its classes along, and all later labels shift. Links
are followed, but not in a circle; `refuse_same_file` finds what two ways lead to. Hidden names and
the folders that systems leave behind (`lost+found`, `@eaDir`) are no part of a tree.
"""

import errno
import os
import stat
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError

# Of ext4, macOS, Synology, QNAP and Windows. The first cannot even be read by a user.
SYSTEM_FOLDERS = {
    "lost+found",
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "@Recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
}
# Links among n folders make n! ways; no tree that is meant leads to one folder as often as this.
MAX_WAYS = 100
# What an entry is or leads to. Others are pipes, sockets and devices, which have no end.
Kind = Literal["folder", "file", "broken", "other"]


@dataclass(frozen=True)
class Folder:
    """What lies in a folder and not below another one, as sorted paths below the root, with `/`.

    `files`: with broken links. `broken`: links that lead nowhere. `excluded`: what a pattern fits;
    not entered. `ended`: the search ended here, and of files nothing is known. `is_leaf`: that, or
    a folder without folders; never the root.
    """

    path: str
    files: list[str]
    broken: list[str]
    excluded: list[str]
    ended: bool
    is_leaf: bool


def walk_folders(
    root: Path,
    exclude: Sequence[str] = (),
    *,
    ends: Callable[[str], bool] = lambda name: False,
    is_output: Callable[[Path], bool] = lambda folder: False,
) -> Iterator[Folder]:
    """`root` and every folder below it, sorted by the paths of what lies in them.

    A folder where `ends` holds for a file's name is searched no further, and one below the root
    that `is_output` is no part of it. InputError for a folder that cannot be listed and a link
    whose target cannot be looked at.
    """
    ways: Counter[Path] = Counter()
    # Each folder with the real paths of those that held the links on the way to it: a link to one
    # of these, or to a folder above one, would lead in a circle.
    left: list[tuple[str, tuple[Path, ...]]] = [("", ())]
    while left:
        folder, sources = left.pop()
        if folder and is_output(root / folder):
            continue
        below: list[tuple[str, tuple[Path, ...]]] = []
        here: dict[Kind | Literal["excluded"], list[str]] = defaultdict(list)
        ended = False
        for entry in folder_entries(root / folder):
            if not is_in_tree(entry.name):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if exclude and _any_fits(path.split("/"), exclude):
                here["excluded"].append(path)
                continue
            kind = _kind(entry)
            if kind != "folder":
                if kind != "other" and ends(entry.name):
                    # A video may hold hundreds of files: one frame is enough to know.
                    ended = True
                    break
                here[kind].append(path)
            elif entry.is_symlink():
                through = (*sources, (root / folder).resolve())
                target = (root / path).resolve()
                if not any(source.is_relative_to(target) for source in through):
                    below.append((path, through))
                    ways[target] += 1
                    if ways[target] > MAX_WAYS:
                        raise InputError(
                            f"{root / path}: links lead to {target} in more than {MAX_WAYS} ways; "
                            "remove those that lead in circles"
                        )
            else:
                below.append((path, sources))
        if ended:
            yield Folder(folder, [], [], [], ended, is_leaf=bool(folder))
            continue
        is_bare = not below and not here["broken"] and not here["excluded"]
        yield Folder(
            folder,
            sorted(here["file"] + here["broken"]),
            sorted(here["broken"]),
            sorted(here["excluded"]),
            ended,
            is_leaf=bool(folder) and is_bare,
        )
        # `run-2/a` comes before `run/a`. The last is the next.
        left += sorted(below, key=lambda one: f"{one[0]}/", reverse=True)


def folder_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder; InputError where it cannot be listed to its end."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise _unreadable(folder, error) from error


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below, hidden ones too, through no link; none where there is no such folder."""
    if folder.is_dir():
        for entry in folder_entries(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(folder / entry.name)
            elif entry.is_file():
                yield folder / entry.name


def is_in_tree(name: str) -> bool:
    """Whether a name is neither hidden nor that of a system's own folder."""
    return not name.startswith(".") and name not in SYSTEM_FOLDERS


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the path or a folder above it.

    `*.wav` and `extras` fit a name at any depth, `train/*.wav` and `/extras` paths from the root;
    `*` stays within a name, and `**` is any number of folders.
    """
    parts = path.split("/")
    return any(_any_fits(parts[:depth], patterns) for depth in range(1, len(parts) + 1))


def refuse_same_file(root: Path, paths: Sequence[str]) -> None:
    """InputError where two paths below `root` are one file or folder, by links or a hard link.

    It would be one video twice, perhaps of two classes or in training and test.
    """
    # Numbers alone: as tuples in a dictionary they would take more memory than all paths.
    inodes, devices = array("Q"), array("i")
    codes: dict[int, int] = {}
    for path in paths:
        try:
            status = os.stat(f"{root}/{path}")
        except OSError:
            # The row of the video will say what is wrong with it.
            inodes.append(0)
            devices.append(-1)
            continue
        inodes.append(status.st_ino)
        devices.append(codes.setdefault(status.st_dev, len(codes)))
    same = _same_files(np.asarray(inodes, np.uint64), np.asarray(devices, np.int32))
    if same:
        more = f" (and {len(same) - 1} more such pairs)" if len(same) > 1 else ""
        other, first = same[0]
        raise InputError(
            f"{root}: {paths[first]} and {paths[other]} are one file, reached by two ways{more}; "
            "expected each video once: remove one, or leave it out by dataset.exclude or a list; "
            "a copy (cp) is a video of its own"
        )


def _same_files(inodes: NDArray[np.uint64], devices: NDArray[np.int32]) -> list[tuple[int, int]]:
    """The number of each file that is one of a lower number, and that number; sorted."""
    ordered = np.sort(inodes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    if not len(twice):
        return []
    # Few; a device of -1 stands for no file.
    numbers = np.flatnonzero(np.isin(inodes, twice) & (devices >= 0))
    inodes, devices = inodes[numbers], devices[numbers]
    # The first path of each file comes first.
    order = np.lexsort((numbers, inodes, devices))
    devices, inodes, numbers = devices[order], inodes[order], numbers[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(devices) != 0) | (np.diff(inodes) != 0)
    firsts = numbers[is_first][np.cumsum(is_first) - 1]
    return sorted(zip(numbers[~is_first].tolist(), firsts[~is_first].tolist(), strict=True))


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        # A stat for links only: for others the listing has told it already. A link to something
        # else, such as a pipe, was put there by hand: its row says what it is.
        if entry.is_symlink():
            return "folder" if stat.S_ISDIR(entry.stat().st_mode) else "file"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "other"
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return "broken"
        raise _unreadable(Path(entry.path), error) from error


def _any_fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(_fits(parts, _anchored(pattern)) for pattern in patterns)


@cache
def _anchored(pattern: str) -> list[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    # `.` and `/` mean the root, which no path below it is.
    return parts if not parts or "/" in pattern.rstrip("/") else ["**", *parts]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    # From the end, as most names differ there.
    *above, last = pattern
    if last == "**":
        return any(_fits(parts[:kept], above) for kept in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[-1], last) and _fits(parts[:-1], above)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror})")
