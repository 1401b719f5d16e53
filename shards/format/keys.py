"""The key of a sample: the path of its video below the root, without extension and dots.

A WebDataset key ends at the first dot, so each dot becomes an underscore. A key becomes part of
file names, tar members and lines of lists. So a path is refused if it could lead out of the output
folder or has control characters; a class name is refused for control characters.
"""

import unicodedata

from twinstream.errors import InputError


def is_plain(text: str) -> bool:
    """Whether a name or path fits on one line of a list and can be written as UTF-8."""
    # Cc control characters, Cs lone surrogates (no UTF-8 for them), Zl and Zp line ends.
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def video_key(path: str, *, is_folder: bool = False) -> str:
    """`Run/v.Run_g01.avi` -> `Run/v_Run_g01`; InputError for a path that cannot name a file.

    The name of a folder of frames has no extension: `Run/v.Run_g01` -> `Run/v_Run_g01`.
    """
    parts = path.split("/")
    if "\\" in path or not is_plain(path) or not {"", ".", ".."}.isdisjoint(parts):
        raise InputError(
            f"{path!r}: not a usable path; expected one below the root, in UTF-8, without '..', "
            "backslashes or control characters"
        )
    # A name such as `.avi` has no stem; its dot is no extension and is replaced like any other.
    stem, dot, _ = parts[-1].rpartition(".")
    name = stem if dot and stem and not is_folder else parts[-1]
    return "/".join([*parts[:-1], name]).replace(".", "_")


def require_plain_class(name: str, where: str) -> None:
    """InputError, which begins with `where`, for a class name with control characters."""
    if not is_plain(name):
        raise InputError(f"{where}: class {name!r}; expected a name without control characters")
