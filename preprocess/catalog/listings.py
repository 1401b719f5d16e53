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


def parse_class_index(text: str, file_name: str) -> tuple[str, ...]:
    """classInd.txt -> classes by label, label = number - 1.

    Lines are `NUMBER CLASS`, with the numbers 1..C in any order.
    """
    numbers: dict[int, str] = {}
    for where, line in _lines(text, file_name):
        match = re.fullmatch(r"(\d{1,9})\s+(\S.*)", line)
        if not match:
            raise InputError(f"{where}: {line!r}; expected NUMBER CLASS")
        number, class_name = int(match[1]), match[2]
        if number in numbers or class_name in numbers.values():
            raise InputError(f"{where}: {line!r}; this number or class was there before")
        numbers[number] = class_name
    for number in range(1, len(numbers) + 1):
        if number not in numbers:
            raise InputError(
                f"{file_name}: class number {number} is not there; expected 1 to {len(numbers)}"
            )
    return tuple(numbers[number] for number in sorted(numbers))


def parse_split_list(text: str, file_name: str, split: str) -> list[Listed]:
    """trainlistNN.txt or testlistNN.txt: lines `CLASS/FILE.avi`, or `CLASS/FILE.avi NUMBER`.

    Training lists have the class number, test lists do not.
    """
    listed = []
    for where, line in _lines(text, file_name):
        match = re.fullmatch(r"(([^/]+)/[^/]+?)(?:\s+(\d{1,9}))?", line)
        if not match:
            raise InputError(f"{where}: {line!r}; expected CLASS/FILE.avi")
        # The number is checked later against classInd.txt, which this function does not see.
        listed.append(Listed(match[1], match[2], split, where, int(match[3]) if match[3] else None))
    return listed


def parse_kinetics(text: str, file_name: str) -> list[Listed]:
    """`label,youtube_id,time_start,time_end,split`; more columns are allowed.

    Names become ID_SSSSSS_EEEEEE, start and end in seconds, as the usual downloaders name files.
    """
    listed = []
    for where, row in _rows(
        text, file_name, ("label", "youtube_id", "time_start", "time_end", "split")
    ):
        try:
            # Some copies of the CSVs have `12.0` for 12, which int() alone would refuse.
            start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
        except ValueError as error:
            times = f"{row['time_start']!r} to {row['time_end']!r}"
            raise InputError(
                f"{where}: {times}; expected time_start and time_end in seconds"
            ) from error
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        listed.append(
            Listed(name, _label(row["label"], where), split_name(row["split"], where), where)
        )
    return listed


def parse_csv(text: str, file_name: str) -> list[Listed]:
    """`path,label,split`; without a split column everything is `train`."""
    return [
        Listed(
            PurePosixPath(row["path"]).as_posix(),
            _label(row["label"], where),
            split_name(row.get("split") or "train", where),
            where,
        )
        for where, row in _rows(text, file_name, ("path", "label"))
    ]


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

    InputError for an absent column or cell.
    """
    # newline="" leaves line ends within quoted cells to the csv module.
    reader = csv.DictReader(StringIO(text, newline=""), skipinitialspace=True)
    absent = [column for column in columns if column not in (reader.fieldnames or ())]
    if absent:
        raise InputError(
            f"{file_name}: no column {', '.join(absent)}; expected {','.join(columns)}"
        )
    for row in reader:
        where = f"{file_name} line {reader.line_num}"
        # DictReader fills a short row with None; an empty cell is "" and may be allowed.
        if any(row[column] is None for column in columns):
            raise InputError(
                f"{where}: {len([cell for cell in row.values() if cell is not None])} cells; "
                f"expected {','.join(columns)}"
            )
        yield (
            where,
            {
                # Cells beyond the last column come under the key None and are left out.
                str(column): (cell or "").strip()
                for column, cell in row.items()
                if column is not None
            },
        )
