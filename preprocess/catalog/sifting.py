"""Sifts what a disk holds: what could be a video, what is none, what has no usable name.

Ten million paths are a gigabyte as Python objects, and half of it as columns. So paths come folder
by folder and become columns some folders at a time; only names whose suffix is not plainly that of
a video are looked at one by one.
"""

from posixpath import splitext

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.preprocess.catalog.suffixes import VIDEOS, is_unsure, suffix
from twinstream.shards.format import columns
from twinstream.shards.format.columns import TEXT, Records, TableBuilder, order_of, taken
from twinstream.shards.storage.location import NOT_USABLE, is_usable_path
from twinstream.shards.storage.walk import Folder

PATHS = pa.schema([("path", TEXT)])
_PLAINLY_VIDEO = rf"\.({'|'.join(sorted(end[1:] for end in VIDEOS))})$"


class Sifted:
    """What was found so far. `unusable`: paths that can be no key. `barren`: leaves of the tree
    that hold no video.
    """

    def __init__(self) -> None:
        self.unusable: list[str] = []
        self.barren: list[str] = []
        self._videos, self._others = TableBuilder(PATHS), TableBuilder(PATHS)
        # Folders whose files were not looked at, and these.
        self._ends: list[tuple[int, Folder]] = []
        self._paths: list[str] = []

    def add(self, folder: Folder) -> None:
        """All files of a folder, as a video tells what the others beside it are."""
        self._paths += folder.files
        self._ends.append((len(self._paths), folder))
        if len(self._paths) + len(self._ends) >= columns.BLOCK_ROWS:
            self._flush()

    def videos(self) -> Records[str]:
        """Sorted paths of what could be a video."""
        self._flush()
        return _sorted(self._videos)

    def others(self) -> Records[str]:
        """Sorted paths of what is none."""
        self._flush()
        return _sorted(self._others)

    def _flush(self) -> None:
        texts, is_usable = _texts(self._paths)
        self.unusable += [self._paths[n] for n in np.flatnonzero(~is_usable).tolist()]
        is_video = is_usable & _mask(pc.match_substring_regex(texts, _PLAINLY_VIDEO))
        _find_others(self._paths, np.flatnonzero(is_usable & ~is_video), is_video)
        self._videos.add_table(_table(texts, is_video))
        self._others.add_table(_table(texts, is_usable & ~is_video))
        counts, begin = np.concatenate([[0], np.cumsum(is_video)]), 0
        for end, folder in self._ends:
            if folder.is_leaf and counts[begin] == counts[end] and is_usable_path(folder.path):
                self.barren.append(folder.path)
            begin = end
        self._paths, self._ends = [], []


def _texts(paths: list[str]) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Paths as a column, and which of them are usable."""
    try:
        texts = pa.array(paths, TEXT)
    except UnicodeEncodeError:
        texts = pa.array([path if is_usable_path(path) else None for path in paths], TEXT)
    return texts, _mask(pc.invert(pc.match_substring_regex(texts, NOT_USABLE)))


def _find_others(paths: list[str], numbers: NDArray[np.intp], is_video: NDArray[np.bool_]) -> None:
    """Mark those of `numbers` that could be videos in `is_video`, which has the plain ones."""
    ends = {number: suffix(paths[number]) for number in numbers.tolist()}
    is_video[[number for number, end in ends.items() if end in VIDEOS]] = True
    unsure = {number: splitext(paths[number])[0] for number, end in ends.items() if is_unsure(end)}
    if not unsure:
        return
    # Of millions of videos few lie beside a file that may be one.
    stems = {*unsure.values()}
    beside = {
        stem
        for number in np.flatnonzero(is_video).tolist()
        if (stem := splitext(paths[number])[0]) in stems
    }
    is_video[[number for number, stem in unsure.items() if stem not in beside]] = True


def _mask(found: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(found.fill_null(False), bool)


def _table(texts: pa.Array, mask: NDArray[np.bool_]) -> pa.Table:
    return pa.table([texts.filter(pa.array(mask))], schema=PATHS)


def _sorted(builder: TableBuilder) -> Records[str]:
    table = builder.table()
    paths = table["path"]
    # A file and a folder beside it may alternate; most often all are in order.
    if pc.any(pc.less(paths[1:], paths[:-1])).as_py():
        table = taken(table, order_of(paths))
    return Records(table, str)
