"""Connections to object stores through pyarrow.fs; each fault becomes an OSError of one line.

Credentials come from where the vendor's tools take them: the environment, a profile, or the role of
the machine. pyarrow is imported when a store is first used, so that reading local files does not
pay for it. pyarrow reports faults as text only, so `fault` reads its messages.
"""

import atexit
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

from twinstream.credentials import STORE_SCHEMES

S3, GCS = STORE_SCHEMES
OPTIONS = {
    S3: ("region", "endpoint_override", "scheme", "anonymous"),
    GCS: ("endpoint_override", "scheme", "anonymous"),
}
MAX_ATTEMPTS = 5
MAX_OPEN_FILES = 4096
# Google's client would try for 15 minutes before it says that nobody answers.
GCS_RETRY_SECONDS = 60
DENIED = (
    *(
        "ACCESS_DENIED",
        "INVALID_ACCESS_KEY_ID",
        "SIGNATURE_DOES_NOT_MATCH",
        "INVALID_SIGNATURE",
        "EXPIRED_TOKEN",
    ),
    *("Status(PERMISSION_DENIED", "Status(UNAUTHENTICATED"),
)
DENIED_TEXT = "access denied; credentials come from the environment or a profile"


@lru_cache(maxsize=64)
def connect(scheme: str, bucket: str, options: tuple[tuple[str, str], ...], process: int) -> Any:
    """pyarrow's file system for a bucket; one for each process, as a fork shares sockets."""
    assert process == os.getpid(), "a connection belongs to the process that opened it"
    from pyarrow import fs

    _let_go_at_exit()
    given = dict(options)
    anonymous = given.get("anonymous") == "true"
    if scheme == GCS:
        return fs.GcsFileSystem(
            anonymous=anonymous,
            scheme=given.get("scheme"),
            endpoint_override=given.get("endpoint_override"),
            retry_time_limit=timedelta(seconds=GCS_RETRY_SECONDS),
        )
    endpoint = given.get("endpoint_override") or s3_endpoint(os.environ)
    # What the AWS tools call it; a run of days outlives more than their three.
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=given.get("region") or (None if endpoint else fs.resolve_s3_region(bucket)),
        scheme=given.get("scheme"),
        endpoint_override=endpoint,
        # Without it pyarrow forgets that a part has failed, and completes a torn upload.
        background_writes=True,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


@lru_cache(maxsize=MAX_OPEN_FILES)
def open_file(scheme: str, key: str, options: tuple[tuple[str, str], ...], process: int) -> Any:
    """pyarrow's random access file of an object, kept open.

    Opening costs a request for the size of the object, which each further read then saves.
    """
    return connect(scheme, key.partition("/")[0], options, process).open_input_file(key)


@lru_cache(maxsize=1)
def _let_go_at_exit() -> None:
    """Drop all connections at exit, before pyarrow shuts S3 down.

    With a connection still open pyarrow's shutdown aborts the process or waits for ever.
    """
    atexit.register(connect.cache_clear)
    atexit.register(open_file.cache_clear)


def s3_endpoint(environment: Mapping[str, str]) -> str | None:
    """The S3 endpoint in the environment, as the AWS tools read it; None for Amazon's own."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")


@contextmanager
def faults_as_os_errors(name: str) -> Iterator[None]:
    """Turn a store's fault in the block into an OSError of one line with file name `name`."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "filename", None) == name:
            raise  # A block inside this one has translated it already.
        number, text = fault(str(error))
        raise OSError(getattr(error, "errno", None) or number, text, name) from error


def fault(message: str) -> tuple[int, str]:
    """pyarrow's message -> error number and line: `... AWS Error ACCESS_DENIED ...` -> EACCES."""
    line = message.splitlines()[0] if message else "no reason given"
    if "Path does not exist" in line:
        return errno.ENOENT, os.strerror(errno.ENOENT)
    # Not ENOENT: callers read that as `not written yet`, which would hide a misspelt bucket.
    if "NO_SUCH_BUCKET" in line or "Bucket '" in line:
        return errno.ENXIO, "no such bucket"
    if any(word in line for word in DENIED):
        return errno.EACCES, DENIED_TEXT
    if "Status(NOT_FOUND" in line:
        return errno.ENOENT, "no such object or bucket"
    reason = line.rpartition("; Details: ")[2].rpartition(" operation: ")[2]
    reason = reason.rpartition("with a last message of ")[2].partition(" error_info=")[0]
    if "NETWORK_CONNECTION" in line or "Status(UNAVAILABLE" in line:
        return errno.ECONNREFUSED, f"the store does not answer ({reason})"
    error = line.partition("AWS Error ")[2].partition(" during ")[0]
    return errno.EIO, f"{reason} ({error})" if error else reason
