"""Text files that list the videos of a dataset -> records.

The formats are UCF-101 split lists, Kinetics CSVs and plain CSVs. Nothing here looks at a disk:
text comes in, records go out, and a line that is not understood is an InputError with the file's
name and the line number. A listing says which videos there should be; `preprocess.catalog` finds
out which are there.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePosixPath

from twinstream.errors import InputError
from twinstream.shards.format.keys import require_usable_path
from twinstream.shards.format.split_names import split_name


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
    listed = []
    columns = ("label", "youtube_id", "time_start", "time_end", "split")
    for where, row in _rows(text, file_name, columns):
        times = row["time_start"], row["time_end"]
        # Some copies of the CSVs have `12.0` for 12, which int() alone would refuse.
        if not all(re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", time) for time in times):
            raise InputError(
                f"{where}: {times[0]!r} to {times[1]!r}; expected time_start and time_end in "
                "seconds"
            )
        start, end = (int(float(time)) for time in times)
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        require_usable_path(name if row["youtube_id"] else "", where)
        listed.append(
            Listed(name, _label(row["label"], where), split_name(row["split"], where), where)
        )
    return listed


def parse_csv(text: str, file_name: str) -> list[Listed]:
    """`path,label,split`; without a split column everything is `train`."""
    listed = []
    for where, row in _rows(text, file_name, ("path", "label")):
        path = PurePosixPath(row["path"]).as_posix()
        require_usable_path(path, where)
        split = split_name(row.get("split") or "train", where)
        listed.append(Listed(path, _label(row["label"], where), split, where))
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
    text: str, file_name: str, columns: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(`val.csv line 17`, cells by column name) of every row.

    InputError for an absent column, and for a row that has not as many cells as the first.
    """
    rows = _cells(text, file_name)
    _, header = next(rows, ("", []))
    for column in columns:
        if header.count(column) != 1:
            fault = "two columns" if column in header else "no column"
            first = ",".join(header)
            raise InputError(
                f"{file_name}: {fault} {column} in {first!r}; expected {','.join(columns)}"
            )
    for where, cells in rows:
        # A comma too many or too few would shift every later cell into another column.
        if len(cells) != len(header):
            raise InputError(
                f"{where}: {len(cells)} cells; expected {','.join(header)}; a cell with a comma "
                "stands in quotes"
            )
        yield where, dict(zip(header, cells, strict=True))


def _cells(text: str, file_name: str) -> Iterator[tuple[str, list[str]]]:
    """(`val.csv line 17`, cells) of every line that is not blank."""
    # newline="" leaves line ends within quoted cells to the csv module.
    reader = csv.reader(StringIO(text, newline=""), skipinitialspace=True, strict=True)
    while True:
        begin = reader.line_num + 1
        where = f"{file_name} line {begin}"
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{where}: {error}; is a quote open?") from error
        if reader.line_num > begin:
            raise InputError(f"{where}: a cell goes on to line {reader.line_num}; is a quote open?")
        if any(cells):
            yield where, cells
