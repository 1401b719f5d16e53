"""Where files are: a local path, or a URI of an object store; reading and listing both in one way.

A local path stays a plain pathlib.Path, as fast as it always was; a store's is a `RemotePath` with
the same methods. `shards.atomic` writes to both.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, unquote

from twinstream.credentials import refuse_credentials
from twinstream.errors import InputError
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.connection import OPTIONS
from twinstream.shards.storage.remote import RemotePath

Location = Path | RemotePath


def locate(where: str | Location) -> Location:
    """`out/shards`, `file:///data/shards`, `s3://bucket/shards?region=eu-west-1`; InputError for
    any other URI.

    A URI that holds credentials is refused without being repeated: settings and messages carry URIs
    about.
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
    """Bytes of every file below a folder, by its path from there with `/`, sorted; one listing of
    an object store.
    """
    if isinstance(folder, RemotePath):
        return dict(sorted(folder.file_sizes().items()))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def read_range(location: Location, begin: int, num_bytes: int) -> bytes:
    """`num_bytes` from `begin` on in one read; fewer where the file ends."""
    if isinstance(location, RemotePath):
        return location.read_range(begin, num_bytes)
    with open(location, "rb", buffering=0) as file:
        return os.pread(file.fileno(), num_bytes, begin)


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """The file as one on a local disk: itself, or a temporary copy (in $TMPDIR) for as long as the
    block lasts.
    """
    if isinstance(location, Path):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="twinstream-") as folder:
        copy = Path(folder) / location.name
        location.download(copy)
        yield copy


@contextmanager
def appended_text(location: Location) -> Iterator[IO[str]]:
    """A text file to write to behind what it holds; that of an object store is sent now and when
    the block ends.
    """
    if isinstance(location, Path):
        with open(location, "a", encoding="utf-8") as file:
            yield file
        return
    before = location.read_bytes() if location.exists() else b""
    # What cannot be written is seen before the work and not after it.
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
    """Where temporary files that belong to an output go: beside it, or None for $TMPDIR where it is
    no disk.
    """
    return str(location) if isinstance(location, Path) else None
