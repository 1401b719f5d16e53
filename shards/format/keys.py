"""The key of a sample, made of its video's path below the root: no extension, no dots.

A WebDataset key ends at the first dot, hence an underscore for each. A key names files and members
of a tar: a path that could leave the output folder, or that does not fit on one line of a list, is
refused. So is such a class name.
"""

import unicodedata

from twinstream.errors import InputError


def is_plain(text: str) -> bool:
    """Whether a name or path fits on one line of a list: no control characters, line ends or halves
    of letters.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def video_key(path: str, *, is_folder: bool = False) -> str:
    """`Run/v.Run_g01.avi` -> `Run/v_Run_g01`; InputError for a path that no file in the output
    could carry.

    The name of a folder of frames has no extension: `Run/v.Run_g01` -> `Run/v_Run_g01`.
    """
    parts = path.split("/")
    if "\\" in path or not is_plain(path) or not {"", ".", ".."}.isdisjoint(parts):
        raise InputError(
            f"{path!r}: not a usable path; expected one below the root, in UTF-8, without '..', "
            "backslashes or control characters"
        )
    stem, dot, _ = parts[-1].rpartition(".")
    name = stem if dot and stem and not is_folder else parts[-1]
    return "/".join([*parts[:-1], name]).replace(".", "_")


def require_plain_class(name: str, where: str) -> None:
    """InputError, which begins with `where`, for a class name with control characters."""
    if not is_plain(name):
        raise InputError(f"{where}: class {name!r}; expected a name without control characters")
