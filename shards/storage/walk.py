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
class Tree:
    """Sorted paths below a root, with `/`.

    `files`: with broken links. `leaves`: folders without folders, or where the search ended.
    `broken`: links that lead nowhere. `excluded`: what a pattern fits; not entered.
    `ended_at_root`: the search ended in the root itself.
    """

    files: tuple[str, ...]
    leaves: tuple[str, ...]
    broken: tuple[str, ...]
    excluded: tuple[str, ...]
    ended_at_root: bool


def walk_tree(
    root: Path,
    exclude: Sequence[str] = (),
    *,
    ends: Callable[[str], bool] = lambda name: False,
    is_output: Callable[[Path], bool] = lambda folder: False,
) -> Tree:
    """What lies below `root`; a folder where `ends` holds for a file's name is searched no further,
    and one below the root that `is_output` is no part of it.

    InputError for a folder that cannot be listed and a link whose target cannot be looked at.
    """
    files: list[str] = []
    leaves: list[str] = []
    broken: list[str] = []
    excluded: list[str] = []
    ended_at_root = False
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
        for entry in folder_entries(root / folder):
            if not is_in_tree(entry.name):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _any_fits(path.split("/"), exclude):
                here["excluded"].append(path)
                continue
            kind = _kind(entry)
            if kind != "folder":
                if kind != "other" and ends(entry.name):
                    # A video may hold hundreds of files: one frame is enough to know.
                    leaves.append(folder)
                    ended_at_root = not folder
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
        else:
            files += here["file"] + here["broken"]
            broken += here["broken"]
            excluded += here["excluded"]
            left += below
            if folder and not below and not here["broken"] and not here["excluded"]:
                leaves.append(folder)
    return Tree(
        tuple(sorted(files)),
        tuple(sorted(leaves)),
        tuple(sorted(broken)),
        tuple(sorted(excluded)),
        ended_at_root,
    )


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
    found = array("Q")
    for number, path in enumerate(paths):
        try:
            status = os.stat(f"{root}/{path}")
        except OSError:
            # The row of the video will say what is wrong with it.
            continue
        found.extend((status.st_dev, status.st_ino, number))
    devices, inodes, numbers = np.asarray(found, np.uint64).reshape(-1, 3).T
    # The first path of each file comes first.
    order = np.lexsort((numbers, inodes, devices))
    devices, inodes, numbers = devices[order], inodes[order], numbers[order].astype(np.int64)
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(devices) != 0) | (np.diff(inodes) != 0)
    firsts = numbers[is_first][np.cumsum(is_first) - 1]
    pairs = sorted(zip(numbers[~is_first].tolist(), firsts[~is_first].tolist(), strict=True))
    same = [(paths[first], paths[other]) for other, first in pairs]
    if same:
        more = f" (and {len(same) - 1} more such pairs)" if len(same) > 1 else ""
        raise InputError(
            f"{root}: {same[0][0]} and {same[0][1]} are one file, reached by two ways{more}; "
            "expected each video once: remove one, or leave it out by dataset.exclude or a list; "
            "a copy (cp) is a video of its own"
        )


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        # A stat for links only: for others the listing has told it already.
        mode = entry.stat().st_mode if entry.is_symlink() else 0
        if stat.S_ISDIR(mode) or entry.is_dir(follow_symlinks=False):
            return "folder"
        # A link to something else, such as a pipe, was put there by hand: its row says what it is.
        return "file" if entry.is_symlink() or entry.is_file(follow_symlinks=False) else "other"
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
