"""Where files are: a local path or a URI of an object store, read and listed in the same way.

A local path stays a plain pathlib.Path and costs nothing extra. A path in a store is a `RemotePath`
with the same methods. `storage.atomic` writes to both. A dataset is someone else's input:
`dataset_file` keeps what it names within its folder.
"""

import errno
import hashlib
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TextIO
from urllib.parse import parse_qsl, unquote

from twinstream.credentials import refuse_credentials
from twinstream.errors import InputError, beginning
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.connection import OPTIONS
from twinstream.shards.storage.lock import OWNER_NAME
from twinstream.shards.storage.remote import RemotePath
from twinstream.shards.storage.walk import files_below

NUM_NAMED = 10
# Of a list: 10 million videos.
MAX_TEXT_BYTES = 2**30
# As PATH_MAX of Linux
MAX_PATH = 4096
Location = Path | RemotePath
# Of Unicode's categories Cc control characters, Zl and Zp line ends.
NOT_PLAIN = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
# What no path below a folder has. Both for Python and Arrow, which knows no lone surrogates (Cs).
NOT_USABLE = rf"(^|/)\.{{0,2}}(/|$)|\\|{NOT_PLAIN}"
_SURROGATE = "|[\ud800-\udfff]"
_IS_NOT_PLAIN = re.compile(NOT_PLAIN + _SURROGATE)
_IS_NOT_USABLE = re.compile(NOT_USABLE + _SURROGATE)
# `pipe:`, `http:`, `C:`
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def locate(where: str | Location) -> Location:
    """A path or URI as a location: `out/shards`, `s3://bucket/shards?region=eu-west-1`.

    InputError for any scheme but s3, gs and file. A URI with credentials is refused, and the error
    does not repeat it, because URIs are stored in settings and printed in messages.
    """
    if not isinstance(where, str):
        return where
    scheme, separator, rest = where.partition("://")
    if not separator:
        return Path(where)
    if scheme == "file":
        return _local(where, unquote(rest))
    if scheme not in OPTIONS:
        raise InputError(
            f"{scheme}://: not a store that is known; expected a path, s3://, gs:// or file://"
        )
    key, _, query = rest.partition("?")
    refuse_credentials(where, f"{scheme}://")
    key = key.strip("/")
    if not key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise InputError(f"{scheme}://{key}: expected {scheme}://BUCKET/FOLDER")
    options = tuple(sorted(parse_qsl(query)))
    for name, _ in options:
        if name not in OPTIONS[scheme]:
            raise InputError(
                f"{scheme}://{key}: no option {name!r}; expected {', '.join(OPTIONS[scheme])}"
            )
    return RemotePath(scheme, key, options)


def file_sizes(folder: Location) -> dict[str, int]:
    """Size in bytes of every file below a folder, by its path from there with `/`, sorted.

    Without the file that says who writes there now.
    """
    if isinstance(folder, RemotePath):
        sizes = sorted(folder.file_sizes().items())
        return {name: size for name, size in sizes if name.rpartition("/")[2] != OWNER_NAME}
    below = len(f"{folder / 'x'}") - 1
    paths = (str(path) for path in files_below(folder) if path.name != OWNER_NAME)
    # Folder by folder, as pathlib sorts; thousands of its objects would take a kilobyte each.
    ordered = sorted(paths, key=lambda path: path.replace("/", "\0"))
    return {path[below:]: os.stat(path).st_size for path in ordered}


@contextmanager
def named_faults(path: Location) -> Iterator[None]:
    """An error of reading in the block names the file; a disk's own, such as EIO, does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def read_range(location: Location, begin: int, num_bytes: int) -> bytes:
    """`num_bytes` from `begin` on in one read; fewer where the file ends."""
    if isinstance(location, RemotePath):
        return location.read_range(begin, num_bytes)
    # One read of just these bytes; a buffer would fetch more. Windows has no pread.
    with named_faults(location), open(location, "rb", buffering=0) as file:
        file.seek(begin)
        return file.read(num_bytes)


def read_whole(path: Location, max_bytes: int) -> bytes:
    """Every byte of a file; InputError for one of more than `max_bytes`, before it is read, and for
    what is no regular file.
    """
    if isinstance(path, Path):
        is_regular(path)
    with named_faults(path), path.open("rb") as file:
        refuse_long(path, file, max_bytes)
        return file.read()


def refuse_long(path: Location, file: BinaryIO, max_bytes: int) -> None:
    """InputError for a file of more bytes."""
    if (num_bytes := file.seek(0, os.SEEK_END)) > max_bytes:
        raise InputError(f"{path}: {num_bytes} bytes; expected {max_bytes} at most")
    file.seek(0)


def file_sha256(path: Location) -> str:
    """Hex SHA-256 of a file's bytes."""
    with named_faults(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Location]) -> str:
    """Hex SHA-256 of the bytes of several small files in turn; of one that of `file_sha256`."""
    digest = hashlib.sha256()
    for path in paths:
        with named_faults(path):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_inside(location: Location, folder: Location) -> bool:
    """Whether a location is `folder` or lies below it, by whatever links."""
    try:
        # Two stores, or a store and a disk, have nothing in common.
        if isinstance(location, Path) and isinstance(folder, Path):
            location.resolve().relative_to(folder.resolve())
        elif isinstance(location, RemotePath) and isinstance(folder, RemotePath):
            location.relative_to(folder)
            return location.scheme == folder.scheme
        else:
            return False
    except ValueError:
        return False
    return True


def require_outside(out: Location, source: Location, option: str = "--out") -> None:
    """InputError for an output in what it is made of: it would be taken for a part of it."""
    if is_inside(out, source):
        raise InputError(
            f"{option} {out}: lies in {source}, which it is made of; choose another {option}"
        )


def is_plain(text: str) -> bool:
    """Whether a name or path fits on one line of a list and can be written as UTF-8."""
    return not _IS_NOT_PLAIN.search(text)


def is_usable_path(path: str) -> bool:
    """Whether it is a path below a folder: relative, plain, no `..`, no backslashes."""
    return not _IS_NOT_USABLE.search(path)


def require_usable_path(path: str, where: str = "") -> None:
    """InputError, which begins with `where`, for a path that is not below a folder."""
    if not is_usable_path(path):
        raise InputError(
            f"{where}{': ' if where else ''}{beginning(repr(path))}: not a usable path; expected "
            "one below the root, in UTF-8, without '..', backslashes or control characters"
        )


def require_file_path(path: str, where: str = "") -> None:
    """The same for a path that a dataset names a file by; it has no scheme either."""
    require_usable_path(path, where)
    if len(path) > MAX_PATH:
        raise InputError(
            f"{where}{': ' if where else ''}{beginning(repr(path))}: {len(path)} letters; expected "
            f"{MAX_PATH} at most"
        )
    if _SCHEME.match(path):
        raise InputError(
            f"{where}{': ' if where else ''}{beginning(repr(path))}: begins like a URL; expected a "
            "path below the dataset's folder"
        )


def dataset_file(dataset: Location, relative: str) -> Location:
    """The file that a dataset names by this path; it may be absent.

    InputError for a path that leads out of the dataset's folder, by its text or by links, and for
    what is no regular file. Of an object store the text says it all.
    """
    require_file_path(relative, str(dataset))
    path = dataset / relative
    if isinstance(path, Path) and is_regular(path) and not is_inside(path, dataset):
        raise InputError(
            f"{path}: a link to {path.resolve()}, out of the dataset's folder; expected files "
            "within it (a link to the whole folder may stand for it)"
        )
    return path


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, by whatever links; False where there is nothing.

    InputError for a folder, pipe or device: a pipe is waited for, and /dev/zero has no end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise InputError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise InputError(f"{path}: a {kind}; expected a regular file")
    return True


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """The file on a local disk: itself, or a copy in $TMPDIR that the end of the block removes."""
    if isinstance(location, Path):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="twinstream-") as folder:
        copy = Path(folder) / location.name
        location.download(copy)
        yield copy


@contextmanager
def appended_text(location: Location) -> Iterator[IO[str]]:
    """A text file to append to; in an object store it is sent now and when the block ends."""
    if isinstance(location, Path):
        with open(location, "a", encoding="utf-8") as file:
            yield file
        return
    before = location.read_bytes() if location.exists() else b""
    # A store that refuses the write must say so now, not after hours of work.
    write_atomically(location, before)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        try:
            yield file
        finally:
            file.seek(0)
            write_atomically(location, before + file.read().encode())


def _local(where: str, path: str) -> Path:
    if not path.removeprefix("localhost").startswith("/"):
        raise InputError(f"{where}: expected file:///FOLDER")
    return Path(path.removeprefix("localhost"))


def spool_folder(location: Location) -> str | None:
    """Folder for temporary files of an output: beside it, or None ($TMPDIR) for a store."""
    return str(location) if isinstance(location, Path) else None


def read_text(path: Location, setting: str) -> str:
    """The text of a list; InputError, naming the setting or option that led here."""
    with _opened_list(path, setting) as file:
        return file.read()


def read_lines(path: Location, setting: str) -> Iterator[str]:
    """The lines of a list with their ends; InputError as above."""
    with _opened_list(path, setting) as file:
        yield from file


@contextmanager
def _opened_list(path: Location, setting: str) -> Iterator[TextIO]:
    try:
        if isinstance(path, Path):
            is_regular(path)
        with named_faults(path), path.open("rb") as file:
            refuse_long(path, file, MAX_TEXT_BYTES)
            # Excel writes a byte order mark, which must not become part of the first column's name.
            yield io.TextIOWrapper(file, encoding="utf-8-sig")
    except FileNotFoundError as error:
        # Most often the name is mistyped or the fold is another one; the names there show it.
        there = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))[:NUM_NAMED]
        beside = f"; there is {', '.join(there)}" if there else ""
        raise InputError(f"{setting}: no file {path}{beside}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{setting}: {path} is not a text in UTF-8") from error
    except OSError as error:
        raise InputError(f"{setting}: {path} cannot be read ({error.strerror})") from error
