"""Files of an object store (`s3://`, `gs://`) with those methods of pathlib that shards need.

A `RemotePath` holds text only, so it can be sent to other processes; each of them opens its own
connections. Faults are OSErrors, like those of a disk. An object is always uploaded from a complete
local file, because pyarrow cannot cancel an upload that it has begun. The price is temporary disk
space for each file that is written.
"""

import errno
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from twinstream.shards.storage.connection import connect, faults_as_os_errors, open_file

READ_AHEAD_BYTES = 4 * 2**20
CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, order=True)
class RemotePath:
    """`bucket/folder/name` in a store, and the options of its connection."""

    scheme: str
    key: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, below: str | PurePosixPath) -> "RemotePath":
        return replace(self, key=f"{self.key}/{below}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """`.tar`, or nothing."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder; of a bucket the bucket itself."""
        return replace(self, key=self.key.rpartition("/")[0] or self.key)

    def with_suffix(self, suffix: str) -> "RemotePath":
        """The path with another suffix."""
        return replace(self, key=str(PurePosixPath(self.key).with_suffix(suffix)))

    def relative_to(self, folder: "RemotePath") -> PurePosixPath:
        """The path below `folder`; ValueError when it lies elsewhere."""
        return PurePosixPath(self.key).relative_to(folder.key)

    def absolute(self) -> "RemotePath":
        """Itself: a URI says the same everywhere."""
        return self

    def resolve(self) -> "RemotePath":
        """Itself: objects have no links."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do: folders are parts of an object's name."""

    def exists(self) -> bool:
        """Whether there is such an object, or one below it."""
        return bool(self._info().type.name != "NotFound")

    def is_dir(self) -> bool:
        """Whether there is an object below it."""
        return bool(self._info().type.name == "Directory")

    def read_bytes(self) -> bytes:
        """All of the object."""
        with self.open() as file:
            return file.read()

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The object as a file to read, with some read-ahead."""
        assert mode == "rb", f"mode {mode}: an object is written whole, by shards.atomic"
        try:
            with faults_as_os_errors(str(self)):
                file = self._filesystem().open_input_file(self.key)
        except FileNotFoundError as error:
            raise self.missing() from error
        return io.BufferedReader(file, READ_AHEAD_BYTES)

    def read_range(self, begin: int, num_bytes: int) -> bytes:
        """`num_bytes` from `begin` on in one request; fewer where the object ends."""
        with faults_as_os_errors(str(self)):
            file = open_file(self.scheme, self.key, self.options, os.getpid())
            # For pyarrow a range behind the end is an error; on a disk it reads as no bytes.
            left = max(file.size() - begin, 0)
            return cast(bytes, file.read_at(min(num_bytes, left), begin)) if left else b""

    def upload(self, source: BinaryIO) -> None:
        """Make the object from all bytes of `source`."""
        source.seek(0)
        # Python runs signal handlers in the main thread only: Ctrl-C there cannot tear the upload.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._send, source).result()

    def download(self, target: Path) -> None:
        """Copy the object to a local file."""
        with self.open() as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def unlink(self) -> None:
        """Remove the object."""
        try:
            with faults_as_os_errors(str(self)):
                self._filesystem().delete_file(self.key)
        except OSError:
            # pyarrow then marks the folder by an empty object, which not every server takes.
            if self.exists():
                raise

    def file_sizes(self) -> dict[str, int]:
        """Bytes of every object below, by its path from here."""
        from pyarrow import fs

        with faults_as_os_errors(str(self)):
            found = self._filesystem().get_file_info(
                fs.FileSelector(self.key, recursive=True, allow_not_found=True)
            )
        return {info.path.removeprefix(f"{self.key}/"): info.size for info in found if info.is_file}

    def glob(self, pattern: str) -> list["RemotePath"]:
        """Objects right below whose names fit the pattern."""
        names = (name for name in self.file_sizes() if "/" not in name)
        return [self / name for name in names if PurePosixPath(name).match(pattern)]

    def missing(self) -> OSError:
        """The error for a missing object: FileNotFoundError, or ENXIO without such a bucket."""
        bucket = replace(self, key=self.key.partition("/")[0])
        if bucket.exists():
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return OSError(errno.ENXIO, "no such bucket", str(self))

    def _filesystem(self) -> Any:
        with faults_as_os_errors(str(self)):
            return connect(self.scheme, self.key.partition("/")[0], self.options, os.getpid())

    def _info(self) -> Any:
        with faults_as_os_errors(str(self)):
            return self._filesystem().get_file_info(self.key)

    def _send(self, source: BinaryIO) -> None:
        """Send `source` in chunks. Only the store may fail between opening and closing the stream.

        pyarrow completes a stream that is dropped, as a torn object, unless the upload of a part
        has failed.
        """
        with faults_as_os_errors(str(self)):
            target = self._filesystem().open_output_stream(self.key)
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
                # Waits for the upload of this chunk; without it all chunks would pile up in memory.
                target.flush()
            target.close()
