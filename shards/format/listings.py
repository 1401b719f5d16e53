"""Text files that list the videos of a dataset -> records.

The formats are split lists of UCF-101 and HMDB-51, Kinetics CSVs, plain CSVs and lists of keys.
Nothing here looks at a disk: text comes in, records go out, and a line that is not understood is an
InputError with the file's name and the line number. A listing says which videos there should be;
`preprocess.catalog` and `shards.read.virtual_splits` find out which are there.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from twinstream.errors import InputError
from twinstream.shards.format.split_names import split_name
from twinstream.shards.storage.location import require_usable_path

# A line's number and texts
Cells = tuple[Any, ...]


@dataclass(frozen=True)
class Listed:
    """A video that a list names.

    `name` is its path below the root; for Kinetics it is the file name without extension.
    """

    name: str
    class_name: str
    split: str
    where: str
    class_number: int | None = None


def parse_split_list(text: str, file_name: str, split: str) -> list[Listed]:
    """trainlistNN.txt or testlistNN.txt: lines `CLASS/FILE.avi`, or `CLASS/FILE.avi NUMBER`.

    Training lists have the class number, test lists do not.
    """
    listed = []
    for where, line in _lines(text, file_name):
        match = re.fullmatch(r"(([^/]+)/[^/]+?)(?:\s+(\d{1,9}))?", line)
        if not match:
            raise InputError(f"{where}: {line!r}; expected CLASS/FILE.avi")
        require_usable_path(match[1], where)
        # The number is checked later against classInd.txt, which this function does not see.
        listed.append(Listed(match[1], match[2], split, where, int(match[3]) if match[3] else None))
    return listed


def parse_kinetics(text: str, file_name: str) -> list[Listed]:
    """`label,youtube_id,time_start,time_end,split`; more columns are allowed.

    Names become ID_SSSSSS_EEEEEE, start and end in seconds, as the usual downloaders name files.
    """
    return [kinetics_video(file_name, *row) for row in kinetics_rows(_lines_of(text), file_name)]


def kinetics_rows(lines: Iterable[str], file_name: str) -> Iterator[Cells]:
    """The line and cells of each row, as `kinetics_video` takes them."""
    return _rows(lines, file_name, ("label", "youtube_id", "time_start", "time_end", "split"))


def kinetics_video(file_name: str, line: int, *cells: str) -> Listed:
    """The video of a row; InputError for one that is none."""
    where, (label, youtube_id, *times, split) = f"{file_name} line {line}", cells
    # Some copies of the CSVs have `12.0` for 12, which int() alone would refuse.
    if not all(re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", time) for time in times):
        raise InputError(
            f"{where}: {times[0]!r} to {times[1]!r}; expected time_start and time_end in seconds"
        )
    start, end = (int(float(time)) for time in times)
    name = f"{youtube_id}_{start:06d}_{end:06d}"
    require_usable_path(name if youtube_id else "", where)
    split = split_name(split, where)
    return Listed(name, _label(label, where), split, where)


def parse_csv(text: str, file_name: str) -> list[Listed]:
    """`path,label,split`; without a split column everything is `train`."""
    return [csv_video(file_name, *row) for row in csv_rows(_lines_of(text), file_name)]


def csv_rows(lines: Iterable[str], file_name: str) -> Iterator[Cells]:
    """The line and cells of each row, as `csv_video` takes them."""
    return _rows(lines, file_name, ("path", "label"), optional="split")


def csv_video(file_name: str, line: int, path: str, label: str, split: str = "") -> Listed:
    """The video of a row; InputError for one that is none."""
    where = f"{file_name} line {line}"
    # Few have such parts, and a path object costs as much as the rest of the line.
    if not path or _TO_TIDY.search(path):
        path = PurePosixPath(path).as_posix()
    require_usable_path(path, where)
    split = split_name(split or "train", where)
    return Listed(path, _label(label, where), split, where)


_TO_TIDY = re.compile(r"//|(?:^|/)\.(?:/|$)|/$")


HMDB_PARTS = {"0": None, "1": "train", "2": "test"}


def hmdb51_list(file_name: str) -> tuple[str, int]:
    """brush_hair_test_split1.txt -> ("brush_hair", 1), the class and the number of the split."""
    class_name, number = file_name.removesuffix(".txt").rsplit("_test_split", 1)
    return class_name, int(number)


def parse_hmdb51(text: str, file_name: str) -> list[Listed]:
    """CLASS_test_splitN.txt: lines `FILE.avi NUMBER`; 1 is train, 2 test, 0 in neither.

    The class is in the name of the file, and videos are named without their folder.
    """
    class_name, _ = hmdb51_list(file_name)
    listed = []
    for where, line in _lines(text, file_name):
        match = re.fullmatch(r"([^/]+?)\s+([012])", line)
        if not match:
            raise InputError(f"{where}: {line!r}; expected FILE.avi and 0, 1 or 2")
        if part := HMDB_PARTS[match[2]]:
            listed.append(Listed(match[1], class_name, part, where))
    return listed


def parse_video_list(text: str, file_name: str) -> list[Listed]:
    """Videos by whichever of these formats, or one key a line; split and class "" where not said.

    A CSV has a column `path`, or those of Kinetics; a list of HMDB-51 is told by its name.
    """
    if re.search(r"_test_split\d\.txt$", file_name):
        return parse_hmdb51(text, file_name)
    first = next((line for _, line in _lines(text, file_name)), "")
    columns = {cell.strip().strip('"') for cell in first.split(",")}
    if "youtube_id" in columns:
        return parse_kinetics(text, file_name)
    if "path" in columns:
        return parse_csv(text, file_name)
    listed = []
    for where, line in _lines(text, file_name):
        # The class number of UCF-101's training lists, behind a file name and never behind a key.
        match = re.fullmatch(r"(.*\.\w+)\s+\d{1,9}", line)
        listed.append(Listed(match[1] if match else line, "", "", where))
    return listed


def _label(text: str, where: str) -> str:
    if not text:
        raise InputError(
            f"{where}: no label; lists without labels, such as test sets, cannot be used"
        )
    return text


def _lines(text: str, file_name: str) -> Iterator[tuple[str, str]]:
    """(`testlist01.txt line 17`, text) of every line that is not blank."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{file_name} line {number}", line.strip()


def _rows(
    lines: Iterable[str], file_name: str, columns: tuple[str, ...], optional: str = ""
) -> Iterator[Cells]:
    """The line of every row, and its cells of these columns, of the optional one if it is there.

    InputError for an absent column, and for a row that has not as many cells as the first.
    """
    rows = _cells(lines, file_name)
    _, header = next(rows, (0, []))
    for column in columns:
        if header.count(column) != 1:
            fault = "two columns" if column in header else "no column"
            first = ",".join(header)
            raise InputError(
                f"{file_name}: {fault} {column} in {first!r}; expected {','.join(columns)}"
            )
    last = {column: place for place, column in enumerate(header)}
    places = [last[column] for column in (*columns, optional) if column in last]
    for line, cells in rows:
        # A comma too many or too few would shift every later cell into another column.
        if len(cells) != len(header):
            raise InputError(
                f"{file_name} line {line}: {len(cells)} cells; expected {','.join(header)}; a cell "
                "with a comma stands in quotes"
            )
        yield line, *[cells[place] for place in places]


def _cells(lines: Iterable[str], file_name: str) -> Iterator[tuple[int, list[str]]]:
    """(17, cells) of every line that is not blank."""
    reader = csv.reader(lines, skipinitialspace=True, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{file_name} line {begin}: {error}; is a quote open?") from error
        if reader.line_num > begin:
            raise InputError(
                f"{file_name} line {begin}: a cell goes on to line {reader.line_num}; is a quote "
                "open?"
            )
        if any(cells):
            yield begin, cells


def _lines_of(text: str) -> Iterator[str]:
    # With their ends, which within quoted cells are left to the csv module.
    return (line[0] for line in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text))
