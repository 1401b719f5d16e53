"""The disk as a catalog sees it: which files could be videos, and where the lists are.

What is left out is told.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twinstream.errors import InputError
from twinstream.preprocess.catalog.suffixes import LISTS_AND_NOTES, NOT_VIDEOS, VIDEOS, suffix
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.keys import unusable_warning
from twinstream.shards.format.manifest import FILE_NAME, is_dataset, is_output
from twinstream.shards.storage.location import (
    Location,
    file_sizes,
    is_inside,
    locate,
)
from twinstream.shards.storage.walk import Folder, is_excluded, is_in_tree, walk_folders


@dataclass(frozen=True)
class Files:
    """Sorted paths below a root.

    `videos` could be some. `others` are none by their suffix, but a list may name one. `broken`:
    links that lead nowhere and have no file's suffix, so that they may have led to folders.
    `barren_warning` names folders that hold no video, in which a class may have been.
    """

    videos: Sequence[str]
    others: Sequence[str]
    broken: tuple[str, ...]
    barren_warning: tuple[str, ...]
    warnings: tuple[str, ...]


def list_files(root: Location, exclude: Sequence[str] = (), out: Location | None = None) -> Files:
    """Every file below `root` that could be a video, and what was left out.

    What lies in a dataset is none; `out` is one that is being made. InputError for a folder that
    cannot be listed.
    """
    # The settings list the kinds of datasets, and load no Arrow.
    from twinstream.preprocess.catalog.sifting import Sifted

    folders = (
        walk_folders(root, exclude, is_output=partial(is_output, out=out))
        if isinstance(root, Path)
        else [_stored(root, exclude, out)]
    )
    broken: list[str] = []
    excluded: list[str] = []
    sifted = Sifted()
    for folder in folders:
        broken += folder.broken
        excluded += folder.excluded
        sifted.add(folder)
    videos, others, barren = sifted.videos(), sifted.others(), sorted(sifted.barren)
    warnings = unusable_warning(sorted(sifted.unusable), are_all=not videos and not others)
    counts = Counter(map(suffix, others))
    told = {end: count for end, count in counts.items() if end not in LISTS_AND_NOTES}
    if told:
        most_common = Counter(told).most_common()
        ends = first_few([f"{count} {end or 'without suffix'}" for end, count in most_common])
        warnings.append(
            f"{sum(told.values())} files that are no videos by their names ({ends}), left out"
        )
    return Files(
        videos,
        others,
        tuple(link for link in sorted(broken) if suffix(link) not in VIDEOS | NOT_VIDEOS),
        (f"{len(barren)} folders ({first_few(barren)}) hold no video",) if barren else (),
        (*warnings, *excluded_warning(sorted(excluded), exclude, "files or folders")),
    )


def _stored(root: Location, exclude: Sequence[str], out: Location | None) -> Folder:
    """Every file of a store, as if it lay in one folder."""
    there = _without_outputs(root, list(file_sizes(root)), out)
    there = [path for path in there if all(map(is_in_tree, path.split("/")))]
    excluded = [path for path in there if is_excluded(path, exclude)]
    files = [path for path in there if not is_excluded(path, exclude)]
    return Folder("", files, [], excluded, ended=False, is_leaf=False)


def _without_outputs(root: Location, paths: Sequence[str], out: Location | None) -> list[str]:
    """The paths of a store that lie neither at `out` nor in a dataset."""
    end = f"/{FILE_NAME}"
    folders = [root / path.removesuffix(end) for path in paths if path.endswith(end)]
    outputs = [folder for folder in folders if is_dataset(folder)]
    outputs += [] if out is None else [out]
    return [path for path in paths if not any(is_inside(root / path, one) for one in outputs)]


def excluded_warning(paths: Sequence[str], exclude: Sequence[str], what: str) -> list[str]:
    """One line that says how many `dataset.exclude` left out, if it is set, and what fits none."""
    if not exclude:
        return []
    names = f" ({first_few(paths)})" if paths else ""
    idle = [one for one in exclude if not any(is_excluded(path, [one]) for path in paths)]
    none = f"; none for {first_few(idle)}" if idle else ""
    return [f"{len(paths)} {what}{names} left out by dataset.exclude{none}"]


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
