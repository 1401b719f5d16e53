"""Virtual splits: the videos of a dataset that a list names, in whichever shards they lie.

A dataset is made once and divided in many ways: UCF-101 has three pairs of lists for the same
13,320 videos. A list is resolved against videos.parquet when it is used, or once, and stored as
splits/NAME.json by `twinstream shards splits`.
"""

import difflib
import glob
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.keys import video_key
from twinstream.shards.format.listings import Listed, parse_video_list
from twinstream.shards.format.manifest import FILE_NAME, MAX_BYTES
from twinstream.shards.format.split_file import FOLDER, SplitFile, parse_split, split_path
from twinstream.shards.format.split_names import is_split_name
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, read_columns
from twinstream.shards.storage.location import (
    Location,
    dataset_file,
    file_sha256,
    file_sizes,
    files_sha256,
    locate,
    read_text,
    read_whole,
    require_usable_path,
)

COLUMNS = ["key", "class_name", "status", "reason"]
WRITTEN = Status.WRITTEN.value


@dataclass(frozen=True)
class VirtualSplit:
    """The videos of a list that are in shards, and how many of the others there are."""

    name: str
    """As the user writes it: the name of a stored one, or the list"""
    keys: tuple[str, ...]
    """Sorted"""
    sha256: str
    """Of the list's bytes"""
    left_out: Mapping[str, int]
    """Listed videos that are in no shard, by the reason in their row"""

    def note(self) -> str | None:
        """`testlist02.txt: 3 of 3734 listed videos are in no shard: decode_error 1, missing 2`."""
        lost = sum(self.left_out.values())
        if not lost:
            return None
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(self.left_out.items()))
        num_listed = lost + len(self.keys)
        return f"{self.name}: {lost} of {num_listed} listed videos are in no shard: {counts}"


def find_split(dataset: Location, split: str, known: Collection[str]) -> VirtualSplit:
    """The stored split of this name, or that of a list; InputError where there is neither.

    A list with several splits is LIST:SPLIT; `*` in LIST stands for several files, as those of
    HMDB-51. `known` are the splits of the shards, for messages.
    """
    if stored := stored_split(dataset, split):
        return VirtualSplit(split, stored.keys, stored.source_sha256, stored.left_out)
    if not _files(split)[0]:
        names = ", ".join(sorted([*known, *stored_names(dataset)])) or "none"
        raise InputError(f"{dataset}: no split {split!r}; it has {names}; nor is it a list's file")
    return read_list(dataset, split)


def stored_split(dataset: Location, name: str) -> SplitFile | None:
    """The split that is stored under this name; InputError for a damaged or foreign one."""
    # Before a path is made of it: a name with slashes may lead anywhere.
    if not is_split_name(name) or not split_path(dataset, name).exists():
        return None
    path = dataset_file(dataset, f"{FOLDER}/{name}.json")
    split = parse_split(read_whole(path, MAX_BYTES), path)
    if split.dataset_sha256 != file_sha256(dataset_file(dataset, FILE_NAME)):
        raise InputError(f"{path}: was made for another dataset.json; remove it and add it anew")
    return split


def stored_names(dataset: Location) -> list[str]:
    """The names of all stored splits."""
    files = [name for name in file_sizes(dataset / FOLDER) if name.endswith(".json")]
    names = (name.removesuffix(".json") for name in files)
    return sorted(name for name in names if is_split_name(name))


def stored_splits(dataset: Location) -> dict[str, SplitFile | InputError]:
    """All stored splits by name; of a damaged or foreign one what is wrong with it."""
    found: dict[str, SplitFile | InputError] = {}
    for name in stored_names(dataset):
        try:
            if split := stored_split(dataset, name):
                found[name] = split
        except InputError as error:
            found[name] = error
    return found


def read_list(dataset: Location, source: str) -> VirtualSplit:
    """The split of a list, resolved against the dataset; InputError as for `resolve`."""
    paths, part = _files(source)
    if not paths:
        raise InputError(f"no list {source}")
    texts = [read_text(path, "list of a split") for path in paths]
    listed = [
        one
        for path, text in zip(paths, texts, strict=True)
        for one in parse_video_list(text, path.name)
    ]
    parts = sorted({one.split for one in listed if one.split})
    if part is not None and part not in parts:
        raise InputError(f"{source}: no split {part!r} in this list; it has {first_few(parts)}")
    if part is None and len(parts) > 1:
        raise InputError(
            f"{source}: holds the splits {first_few(parts)}; name one, as in {source}:{parts[0]}"
        )
    wanted = [one for one in listed if part is None or one.split == part]
    videos = read_columns(dataset_file(dataset, VIDEOS_NAME), COLUMNS)
    return resolve(wanted, videos, source, files_sha256(paths))


def _files(source: str) -> tuple[list[Location], str | None]:
    """The files of LIST, or of LIST:SPLIT and the split; no file where there is none."""
    if whole := _matching(source):
        return whole, None
    before, colon, part = source.rpartition(":")
    return (_matching(before), part) if colon and is_split_name(part) else ([], None)


def _matching(source: str) -> list[Location]:
    if "*" in source:
        return [Path(path) for path in sorted(glob.glob(source))]
    path = locate(source)
    is_there = path.is_file() if isinstance(path, Path) else path.exists()
    return [path] if is_there else []


def resolve(listed: Iterable[Listed], videos: pa.Table, name: str, sha256: str) -> VirtualSplit:
    """The listed videos among the rows of videos.parquet (`COLUMNS`).

    A name is a path below the root or a key, in any case where that is unique, or one with fewer or
    more folders whose last part only one key has. InputError for one that is no row, with the
    nearest key, for a video that is listed twice, or under a class that is not its own.
    """
    keys, classes, statuses, reasons = (videos[column].to_pylist() for column in COLUMNS)
    find = _Finder(keys)
    rows: dict[int, Listed] = {}
    for one in listed:
        row = find(one)
        if row in rows:
            raise InputError(
                f"{one.where}: {one.name} is in {rows[row].where} already; expected each video once"
            )
        if one.class_name and classes[row] != one.class_name:
            raise InputError(
                f"{one.where}: {one.name} is of class {one.class_name!r}, in the dataset of "
                f"{classes[row]!r}"
            )
        rows[row] = one
    written = sorted(keys[row] for row in rows if statuses[row] == WRITTEN)
    lost = Counter(reasons[row] or statuses[row] for row in rows if statuses[row] != WRITTEN)
    if not rows:
        raise InputError(f"{name}: holds no video")
    if not written:
        raise InputError(f"{name}: none of its {len(rows)} videos is in a shard")
    return VirtualSplit(name, tuple(written), sha256, dict(lost))


class _Finder:
    """Rows by the names that lists use; a name that two rows share finds neither."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self._exact = {key: row for row, key in enumerate(keys)}
        self._folded = _unique((key.casefold(), row) for row, key in enumerate(keys))
        self._last = _unique((key.rpartition("/")[2], row) for row, key in enumerate(keys))

    def __call__(self, one: Listed) -> int:
        """The row of a listed video; InputError where there is none."""
        require_usable_path(one.name, one.where)
        key = video_key(one.name)
        names = [key, video_key(one.name, is_folder=True)]
        # HMDB-51 and Kinetics have videos of one name in two classes.
        names += [f"{one.class_name}/{key}"] if one.class_name and "/" not in key else []
        for rows, named in ((self._exact, names), (self._folded, map(str.casefold, names))):
            if (found := next((rows[name] for name in named if name in rows), None)) is not None:
                return found
        # HMDB-51 and Kinetics list files without their folders, others with more of them.
        row = self._last.get(key.rpartition("/")[2])
        if row is not None and _ends_alike(key, self._keys[row]):
            return row
        near = difflib.get_close_matches(key, self._keys, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise InputError(
            f"{one.where}: {one.name!r} is no video of the {len(self._keys)} in {VIDEOS_NAME}{hint}"
        )


def _ends_alike(one: str, other: str) -> bool:
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The pairs whose name comes once."""
    pairs = list(pairs)
    counts = Counter(name for name, _ in pairs)
    return {name: row for name, row in pairs if counts[name] == 1}
