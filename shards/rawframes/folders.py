"""Finds the videos of a rawframes folder, and what folders tell of class and split.

A folder is a video if one of its files is named like a frame; the search does not go below it. A
folder with nothing below it is a video too, because a video that has lost all its images must
become a row. `storage.walk` says which links are followed and which folders are ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.keys import usable_paths
from twinstream.shards.format.manifest import is_output
from twinstream.shards.format.split_names import (
    alike_but_for_split,
    known_split,
)
from twinstream.shards.rawframes.names import parse_image_name
from twinstream.shards.storage.location import Location
from twinstream.shards.storage.walk import walk_folders


@dataclass(frozen=True)
class FrameFolders:
    """Sorted paths below a root of every folder that is a video, of links that lead nowhere, and of
    what was left out on request; and lines that the user should see.
    """

    videos: tuple[str, ...]
    broken: tuple[str, ...]
    excluded: tuple[str, ...]
    warnings: tuple[str, ...]


def list_frame_folders(
    root: Path, exclude: Sequence[str] = (), out: Location | None = None
) -> FrameFolders:
    """The videos below `root`, without what a pattern of `exclude` fits and without datasets; `out`
    is one that is being made.

    InputError if the root is no folder or is a video itself, and for what cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    leaves: list[str] = []
    broken: list[str] = []
    excluded: list[str] = []
    for folder in walk_folders(
        root, exclude, ends=_is_frame, is_output=partial(is_output, out=out)
    ):
        if folder.ended and not folder.path:
            raise InputError(
                f"{root}: holds images itself; expected CLASS/VIDEO/img_00001.jpg below it"
            )
        leaves += [folder.path] if folder.is_leaf else []
        broken += folder.broken
        excluded += folder.excluded
    videos, warnings = usable_paths(sorted(leaves))
    broken.sort()
    if broken:
        warnings.append(f"{len(broken)} links ({first_few(broken)}) that lead nowhere, left out")
    return FrameFolders(tuple(videos), tuple(broken), tuple(sorted(excluded)), tuple(warnings))


def _is_frame(name: str) -> bool:
    image = parse_image_name(name)
    return image is not None and image.kind == "rgb"


def classes_and_splits(
    paths: Sequence[str], root_name: str, broken: Sequence[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """Each path, its class and split, from its folders; paths in no class folder are left out.

    SPLIT/CLASS/... if every top folder is named like a split, CLASS/... of split train if none is.
    Where no path lies in a folder, all are of one class, the root's name. InputError if some top
    folders are named like splits, if classes seem to be splits or hold some, and for one of
    `broken`, links that lead nowhere, which stands where classes do.
    """
    # Looked at again and again: of millions of paths a list would be a gigabyte.
    folders = sorted({tuple(path.split("/")[:-1][:2]) for path in paths if "/" in path})
    tops = sorted({top for top, *_ in folders})
    splits = _splits_of(tops, root_name)
    depth = 2 if splits else 1
    # In a split's folder a video may lie in no class's.
    class_folders = {"/".join(path.split("/")[:depth]) for path in paths if "/" in path}
    for link in broken:
        class_folder = "/".join(link.split("/")[:depth])
        if class_folder not in class_folders:
            raise InputError(
                f"{link}: a link that leads nowhere, and {class_folder} has no other video, so a "
                "class may be lost; mend or remove the link"
            )
    if not tops:
        for path in paths:
            yield path, root_name, "train"
        return
    if not splits:
        _refuse_splits_for_classes(tops, folders, root_name)
    for path in paths:
        top, *others = path.split("/")
        if not others:
            continue
        if not splits:
            yield path, top, "train"
        elif len(others) == 1:
            raise InputError(
                f"{path}: in a split's folder but in no class's; expected SPLIT/CLASS/FILE"
            )
        else:
            yield path, others[0], splits[top]


def _splits_of(tops: Sequence[str], root_name: str) -> dict[str, str]:
    """The split of each top folder, {} where none is named like one; InputError if some are."""
    splits = {top: split for top in tops if (split := known_split(top))}
    others = [top for top in tops if top not in splits]
    # A class may be named `test`, and a split `holdout`: to guess would mix test into training.
    if splits and others:
        raise InputError(
            f"{root_name}: top folders named like splits ({first_few([*splits])}) beside others "
            f"({first_few(others)}); expected SPLIT/CLASS for all or CLASS for all: leave some "
            "out, rename them, or give a list that names the class and split of each video"
        )
    owners: dict[str, str] = {}
    for top, split in splits.items():
        if split in owners:
            raise InputError(
                f"{root_name}: top folders {owners[split]} and {top} are both of split {split}; "
                "they may hold the same videos: leave one out, or join them"
            )
        owners[split] = top
    return splits


def _refuse_splits_for_classes(
    tops: Sequence[str], folders: Sequence[tuple[str, ...]], root_name: str
) -> None:
    """InputError for top folders such as `train_1` and `test_1`, and for splits within classes."""
    hint = "or give a list that names the class and split of each video"
    if pair := alike_but_for_split(tops):
        raise InputError(
            f"{root_name}: top folders {pair[0]} and {pair[1]} seem to be splits, not classes; "
            f"name them train, val or test (videos_train, train_256), {hint}"
        )
    below = [two for two in folders if len(two) == 2]
    inner = {"/".join(two): split for two in below if (split := known_split(two[1]))}
    if len({*inner.values()}) > 1:
        raise InputError(
            f"{root_name}: folders named like splits below others ({first_few([*inner])}); "
            f"expected SPLIT/CLASS: choose another root, move them, {hint}"
        )
