"""The key of a sample: the path of its video below the root, without extension and dots.

A WebDataset key ends at the first dot, so each dot becomes an underscore. A key becomes part of
file names, tar members and lines of lists. So a path that a list names is refused if it could lead
out of the output folder or has control characters, and a file of such a name is left out; a class
name is refused for control characters.
"""

from collections.abc import Sequence

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.storage.location import is_plain, is_usable_path, require_usable_path


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


def usable_paths(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths of a disk that can become keys, and a warning that names the others, if any.

    InputError if there are others only.
    """
    usable: list[str] = []
    others: list[str] = []
    for path in paths:
        (usable if is_usable_path(path) else others).append(path)
    return usable, unusable_warning(others, are_all=not usable)


def unusable_warning(paths: Sequence[str], *, are_all: bool) -> list[str]:
    """A warning that names paths of a disk that cannot become keys, if any.

    InputError if they are all that is there.
    """
    if not paths:
        return []
    if are_all:
        require_usable_path(paths[0])
    names = first_few([repr(path) for path in paths])
    return [
        f"{len(paths)} paths ({names}) that are not UTF-8 or have backslashes or control "
        "characters, left out; rename them"
    ]


def require_plain_class(name: str, where: str) -> None:
    """InputError, which begins with `where`, for a class name with control characters."""
    if not is_plain(name):
        raise InputError(f"{where}: class {name!r}; expected a name without control characters")
