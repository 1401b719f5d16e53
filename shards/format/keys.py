"""The key of a sample: the path of its video below the root, without extension and dots.

A WebDataset key ends at the first dot, so each dot becomes an underscore. A key becomes part of
file names, tar members and lines of lists. So a path that a list names is refused if it could lead
out of the output folder or has control characters, and a file of such a name is left out; a class
name is refused for control characters.
"""

import re
from collections.abc import Sequence

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few

# Of Unicode's categories Cc control characters, Zl and Zp line ends, Cs lone surrogates, for which
# there is no UTF-8.
_NOT_PLAIN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_plain(text: str) -> bool:
    """Whether a name or path fits on one line of a list and can be written as UTF-8."""
    return not _NOT_PLAIN.search(text)


def video_key(path: str, *, is_folder: bool = False) -> str:
    """`Run/v.Run_g01.avi` -> `Run/v_Run_g01`; InputError for a path that cannot name a file.

    The name of a folder of frames has no extension: `Run/v.Run_g01` -> `Run/v_Run_g01`.
    """
    require_usable_path(path)
    parts = path.split("/")
    # A name such as `.avi` has no stem; its dot is no extension and is replaced like any other.
    stem, dot, _ = parts[-1].rpartition(".")
    name = stem if dot and stem and not is_folder else parts[-1]
    return "/".join([*parts[:-1], name]).replace(".", "_")


def is_usable_path(path: str) -> bool:
    """Whether a path can become a key: plain, below the root, without backslashes."""
    return "\\" not in path and is_plain(path) and {"", ".", ".."}.isdisjoint(path.split("/"))


def require_usable_path(path: str, where: str = "") -> None:
    """InputError, which begins with `where`, for a path that cannot become a key."""
    if not is_usable_path(path):
        raise InputError(
            f"{where}{': ' if where else ''}{path!r}: not a usable path; expected one below the "
            "root, in UTF-8, without '..', backslashes or control characters"
        )


def usable_paths(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths of a disk that can become keys, and a warning that names the others, if any.

    InputError if there are others only.
    """
    usable: list[str] = []
    others: list[str] = []
    for path in paths:
        (usable if is_usable_path(path) else others).append(path)
    if not others:
        return usable, []
    if not usable:
        require_usable_path(others[0])
    names = first_few([repr(path) for path in others])
    return usable, [
        f"{len(others)} paths ({names}) that are not UTF-8 or have backslashes or control "
        "characters, left out; rename them"
    ]


def require_plain_class(name: str, where: str) -> None:
    """InputError, which begins with `where`, for a class name with control characters."""
    if not is_plain(name):
        raise InputError(f"{where}: class {name!r}; expected a name without control characters")
