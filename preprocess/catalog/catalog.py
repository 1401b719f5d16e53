"""Which videos a dataset has, each with its class, label and split.

Pure functions of listings and of a list of file names. Every video that a list names is in the
catalog, whether its file is there or not. Every file that could be a video is in it too: if it is
none, its row says why. Labels are positions in `classes`. The rules for the key of a path and for
the split and class of a folder are in `shards`, so that folders of frames are the same videos here
and in `twinstream shards import`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.preprocess.catalog.listed import (
    file_stems,
    held,
    places_of,
    sorted_texts,
    video_keys,
)
from twinstream.preprocess.catalog.suffixes import has_video_suffix
from twinstream.shards.format.classes import first_few, spelling_warning
from twinstream.shards.format.columns import (
    TEXT,
    Positions,
    Records,
    Some,
    first_equal,
    order_of,
    values,
)
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.listings import Listed
from twinstream.shards.format.split_file import SplitList
from twinstream.shards.format.video_table import KNOWN
from twinstream.shards.rawframes.folders import classes_and_splits
from twinstream.shards.storage.location import is_plain


@dataclass(frozen=True)
class Video:
    """One file, or folder of frames, and its label.

    `path` is below the root, as on disk, or as the list names it where it is absent.
    """

    key: str
    path: str
    class_name: str
    label: int
    split: str
    present: bool


# A folder above a file; both for Python and Arrow.
_REPLACEMENT = "(?i)(^|/)replacement[^/]*/"
# The columns of a Video.
VIDEO = KNOWN.append(pa.field("present", pa.bool_()))


class Videos(Records[Video]):
    """Videos sorted by key. A key is made of its path when it is looked at, as all of them would
    take as much memory as the rest; `table` has the other columns.
    """

    def __init__(self, table: pa.Table, *, is_folder: bool) -> None:
        super().__init__(table, Video)
        self._is_folder = is_folder

    @property
    def by_key(self) -> Positions:
        """As they are."""
        return np.arange(len(self), dtype=np.int32)

    def rows(self, positions: Positions | slice, names: list[str] | None = None) -> pa.Table:
        """The columns of some rows, all or some."""
        names = names or VIDEO.names
        stored = {"path", *names} - {"key"}
        rows = super().rows(positions, sorted(stored))
        keys = video_keys(rows["path"], is_folder=self._is_folder)
        return rows.append_column("key", keys).select(names)


@dataclass(frozen=True)
class Catalog:
    """Classes by label, videos by key, and lines that the user should see."""

    classes: tuple[str, ...]
    videos: Sequence[Video]
    warnings: tuple[str, ...]
    lists: tuple[SplitList, ...] = ()
    """Every split that lists of the dataset name, to be stored beside those of the videos"""
    fold: int | None = None
    """The number of the lists whose splits the videos have, where there are several"""


def presence(videos: Sequence[Video]) -> NDArray[np.bool_]:
    """(V,) which of the videos are on disk."""
    if isinstance(videos, Records):
        return np.asarray(videos.table["present"])
    if isinstance(videos, Some) and isinstance(videos.whole, Records):
        return presence(videos.whole)[videos.positions]
    return np.array([video.present for video in videos], bool)


def paths_on_disk(videos: Sequence[Video]) -> Sequence[str]:
    """The path of each video that is there."""
    present = np.flatnonzero(presence(videos))
    if isinstance(videos, Records):
        return Some(Records(videos.table.select(["path"]), str), present)
    return [videos[position].path for position in present.tolist()]


def kinetics_catalog(listed: Sequence[Listed], files: Sequence[str]) -> Catalog:
    """Files are found by name, ID_SSSSSS_EEEEEE with any extension, in whatever folder they are.

    Of files of one name that one is taken which has a video's suffix, or lies in a folder named
    `replacement...`, such as that of the videos that stand in for damaged ones of Kinetics-400.
    """
    ordered = sorted_texts(files)
    stems, numbers, warnings = _files_by_stem(ordered)
    rows = _held(listed)
    names = rows.table["name"]
    places = places_of(names, stems)
    present = places >= 0
    # Behind the last stands what -1 means.
    on_disk = np.append(numbers, 0)[places]
    is_named = np.zeros(len(ordered), bool)
    is_named[on_disk[present]] = True
    there = ordered.table["path"].take(pa.array(on_disk, mask=~present))
    matched = Matched(rows, present, Some(ordered, np.flatnonzero(~is_named)))
    classes = tuple(sorted(_classes_of(rows)))
    return _catalog(classes, matched, pc.coalesce(there, names), warnings)


def _files_by_stem(
    files: Records[str],
) -> tuple[pa.ChunkedArray, NDArray[np.int32], list[str]]:
    """The sorted names that files have without suffix, the number of the file that each means, and
    warnings; InputError where that is not known.
    """
    stems = file_stems(files.table["path"])
    order = order_of(stems)
    stems = stems.take(pa.array(order))
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.asarray(pc.not_equal(stems[1:], stems[:-1]))
    begins = np.append(np.flatnonzero(is_first), len(order))
    firsts = order[begins[:-1]]
    chosen = firsts.copy()
    several = np.flatnonzero(np.diff(begins) > 1)
    for stem in several[np.argsort(firsts[several])].tolist():
        paths = {files[int(number)]: number for number in order[begins[stem] : begins[stem + 1]]}
        *others, taken = sorted(paths, key=_kinetics_rank)
        # Which of the two the list means cannot be known, and their content may differ.
        if _kinetics_rank(others[-1]) == _kinetics_rank(taken):
            name = stems[int(begins[stem])]
            raise InputError(f"{name}: two files of one name, {others[-1]} and {taken}; remove one")
        chosen[stem] = paths[taken]
    in_order = chosen[np.argsort(firsts)]
    is_replaced = np.asarray(pc.match_substring_regex(files.table["path"], _REPLACEMENT))[in_order]
    warnings = []
    if is_replaced.any():
        replaced: Some[str] = Some(files, in_order[is_replaced])
        warnings.append(
            f"{_named(replaced, is_folder=False)} of a folder of replacements, taken rather than "
            "others of their names"
        )
    return stems.filter(pa.array(is_first)), chosen, warnings


def csv_catalog(
    listed: Sequence[Listed],
    files: Sequence[str],
    *,
    others: Sequence[str] = (),
    is_folder: bool = False,
) -> Catalog:
    """Paths as the CSV gives them, of files or, with `is_folder`, of folders of frames.

    `others` are files that would not be taken for videos if the CSV did not name them. Labels that
    are all whole numbers are sorted as numbers.
    """
    matched = match_paths(listed, files, others, is_folder=is_folder)
    return matched_catalog(matched, is_folder=is_folder)


class Matched(NamedTuple):
    """What lists name, which of it is on disk, and sorted files that no list names."""

    listed: Records[Listed]
    present: NDArray[np.bool_]
    unnamed: Sequence[str]


def match_paths(
    listed: Sequence[Listed],
    files: Sequence[str],
    others: Sequence[str] = (),
    *,
    is_folder: bool = False,
) -> Matched:
    """Lists of paths and what is on disk; InputError for what cannot be a video's name or class."""
    rows = _held(listed, is_folder=is_folder)
    ordered, names = sorted_texts(files), rows.table["name"]
    places = places_of(names, ordered.table["path"])
    present = places >= 0
    is_named = np.zeros(len(ordered), bool)
    is_named[places[present]] = True
    del places
    if others:
        present |= places_of(names, sorted_texts(others).table["path"]) >= 0
    left = np.flatnonzero(~is_named)
    # What is named is not kept for the sake of none.
    return Matched(rows, present, Some(ordered, left) if len(left) else ())


def matched_catalog(matched: Matched, *, is_folder: bool = False) -> Catalog:
    """The catalog of a CSV whose paths have been looked for."""
    names = _classes_of(matched.listed)
    # As text 10 would stand before 2, and the labels would not be the user's numbers.
    classes = sorted(names)
    if all(name.isdecimal() for name in names):
        # As int() would, which refuses thousands of digits.
        classes.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    paths = matched.listed.table["name"]
    return _catalog(tuple(classes), matched, paths, is_folder=is_folder)


def folders_catalog(
    files: Sequence[str],
    root_name: str,
    *,
    broken: Sequence[str] = (),
    is_folder: bool = False,
) -> Catalog:
    """Class and split come from the folders that a file lies in (see `classes_and_splits`).

    Files beside class folders are left out, with a warning. With `is_folder` each of `files` is a
    folder of frames. `broken` are links that lead nowhere and may have led to folders.
    """
    known = classes_and_splits(files, root_name, broken)
    each = (Listed(path, name, split, path) for path, name, split in known)
    listed = held(_plain_only(each, is_folder=is_folder))
    # All of them, or those that lie in no folder.
    loose = [path for path in files if "/" not in path] if len(listed) < len(files) else []
    warnings = [f"{_named(loose, is_folder)} in no class folder, left out"] if loose else []
    matched = Matched(listed, np.ones(len(listed), bool), ())
    classes, paths = tuple(sorted(_classes_of(listed))), listed.table["name"]
    return _catalog(classes, matched, paths, warnings, is_folder=is_folder)


def _classes_of(listed: Sequence[Listed]) -> set[str]:
    if isinstance(listed, Records):
        return {*values(listed.table["class_name"].unique())}
    return {one.class_name for one in listed}


def _kinetics_rank(path: str) -> tuple[bool, bool]:
    return has_video_suffix(path), re.search(_REPLACEMENT, path) is not None


def build_catalog(
    classes: tuple[str, ...],
    listed: Sequence[Listed],
    find: Callable[[Listed], str | None],
    files: Sequence[str],
    warnings: Iterable[str] = (),
    *,
    is_folder: bool = False,
) -> Catalog:
    """The videos of a listing; InputError where two of them have one key.

    `find` gives the path on disk of a listed video, or None.
    """
    on_disk = [find(one) for one in listed]
    paths = [path or one.name for path, one in zip(on_disk, listed, strict=True)]
    rows = held(_plain_only(listed, paths, is_folder=is_folder))
    there = {*paths}
    unnamed = sorted({path for path in files if path not in there})
    matched = Matched(rows, np.array([path is not None for path in on_disk], bool), unnamed)
    column = pa.chunked_array([pa.array(paths, TEXT)])
    return _catalog(classes, matched, column, warnings, is_folder=is_folder)


def _catalog(
    classes: tuple[str, ...],
    matched: Matched,
    paths: pa.ChunkedArray,
    warnings: Iterable[str] = (),
    *,
    is_folder: bool = False,
) -> Catalog:
    """The catalog of what lists name, each at one of `paths`; InputError where two have one key."""
    listed = matched.listed.table
    # Sorted by key, so that the order of lines in a list changes no shard. One column after the
    # other, so that no more than one is there twice.
    order = _order_of_keys(video_keys(paths, is_folder=is_folder), matched.listed)
    rows = pa.array(order)
    names = listed["class_name"].combine_chunks()
    labels = {name: label for label, name in enumerate(classes)}
    codes = pa.array([labels[name] for name in names.dictionary.to_pylist()], pa.int32())
    label = codes.take(names.indices.take(rows))
    columns = {
        "path": paths.take(rows),
        "class_name": pa.DictionaryArray.from_arrays(label, pa.array(classes, pa.string())),
        "label": label,
        "split": listed["split"].take(rows),
        "present": pa.array(matched.present[order]),
    }
    if matched.unnamed:
        told = f"{_named(matched.unnamed, is_folder)} that no list names, left out"
        warnings = [*warnings, told]
    warnings = [*warnings, *spelling_warning(classes)]
    return Catalog(classes, Videos(pa.table(columns), is_folder=is_folder), tuple(warnings))


def _order_of_keys(keys: pa.ChunkedArray, listed: Records[Listed]) -> Positions:
    """Positions in the order of the keys; InputError for the first two videos of one key."""
    order = order_of(keys)
    if twice := first_equal(keys, order):
        first, second = twice
        refuse_twice(keys[first].as_py(), listed[first], listed[second])
    return order


def _held(listed: Sequence[Listed], *, is_folder: bool = False) -> Records[Listed]:
    """What a list names, as columns; InputError as for `_plain_only`."""
    if not isinstance(listed, Records):
        return held(_plain_only(listed, is_folder=is_folder))
    _refuse_classes(listed)
    return listed


def _plain_only(
    listed: Iterable[Listed], paths: Iterable[str] | None = None, *, is_folder: bool
) -> Iterator[Listed]:
    """The same; InputError where a path cannot name a file, or a class is not plain."""
    plain: set[str] = set()
    each = ((one, one.name) for one in listed) if paths is None else zip(listed, paths, strict=True)
    for one, path in each:
        video_key(path, is_folder=is_folder)
        if one.class_name not in plain:
            require_plain_class(one.class_name, one.where)
            plain.add(one.class_name)
        yield one


def _refuse_classes(listed: Records[Listed]) -> None:
    """InputError for the first video whose class is not plain."""
    names = listed.table["class_name"].combine_chunks()
    wrong = [code for code, name in enumerate(names.dictionary.to_pylist()) if not is_plain(name)]
    rows = [row for code in wrong if (row := pc.index(names.indices, code).as_py()) >= 0]
    if rows:
        one = listed[min(rows)]
        require_plain_class(one.class_name, one.where)


def refuse_twice(key: str, first: Listed, second: Listed) -> None:
    """InputError for two files with one key, or for one file that is listed twice."""
    if first.name == second.name:
        raise InputError(
            f"{second.where}: {second.name} is in {first.where} already; expected each video once"
        )
    raise InputError(f"two videos with one key {key!r}: {first.name} and {second.name}; rename one")


def _named(paths: Sequence[str], is_folder: bool) -> str:
    """`7 files (a, b, c, d, e and 2 more)`."""
    return f"{len(paths)} {'folders' if is_folder else 'files'} ({first_few(paths)})"
