"""Files on a disk and in a real S3 server: found, written whole or not at all, and no
secret told.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.stores import BUCKET, KEY, SECRET, Store, Wire
from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.storage.atomic import atomic_file, remove_temporaries, write_atomically
from twinstream.shards.storage.connection import fault
from twinstream.shards.storage.location import (
    appended_text,
    file_sha256,
    file_sizes,
    files_sha256,
    local_copy,
    locate,
    named_faults,
    read_range,
)
from twinstream.shards.storage.remote import RemotePath

PART_BYTES = 10 * 2**20


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("out/shards", Path("out/shards")),
        ("/out/a:b", Path("/out/a:b")),
        ("file:///out/a%20b", Path("/out/a b")),
        ("file://localhost/out", Path("/out")),
        ("s3://bucket/a/b/", RemotePath("s3", "bucket/a/b")),
        ("gs://bucket", RemotePath("gs", "bucket")),
        (
            "s3://bucket/a?region=eu-west-1",
            RemotePath("s3", "bucket/a", (("region", "eu-west-1"),)),
        ),
    ],
)
def test_a_path_or_uri_is_found(text: str, location: Path | RemotePath) -> None:
    assert locate(text) == location
    assert locate(locate(text)) == location


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ftp://host/x",
            "ftp://: not a store that is known; expected a path, s3://, gs:// or file://",
        ),
        ("s3://", "expected s3://BUCKET/FOLDER"),
        ("s3://bucket/../x", "expected s3://BUCKET/FOLDER"),
        (
            "s3://bucket/x?regoin=a",
            "no option 'regoin'; expected region, endpoint_override, scheme, anonymous",
        ),
        ("file://host/x", "expected file:///FOLDER"),
    ],
)
def test_what_is_no_place_is_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        locate(text)


SECRETIVE = [
    f"s3://{KEY}:{SECRET}@bucket/x",
    "s3://AKIA0:abc/def@bucket/x",
    "gs://user@bucket/x",
    f"s3://bucket/x?secret_key={SECRET}",
    f"s3://bucket/x?endpoint_override=http://{KEY}:{SECRET}@host",
]


@pytest.mark.parametrize("text", SECRETIVE)
def test_a_uri_with_credentials_is_refused_and_not_repeated(text: str) -> None:
    for refused in (
        lambda: locate(text),
        lambda: build_settings(Settings, {"shards": {"path": text}}),
        lambda: build_settings(Settings, {"dataset": {"annotations": ["a.csv", text]}}),
        lambda: build_settings(Settings, {}, [f"dataset.root={text}"]),
    ):
        with pytest.raises(InputError, match="must not hold credentials") as printed:
            refused()
        assert not any(
            word in str(printed.value) for word in (KEY, SECRET, "AKIA", "abc/def", "user")
        )


def test_the_pathlib_part_of_a_remote_path() -> None:
    path = RemotePath("s3", "bucket/train/train-000000.tar")
    assert (path.name, path.stem, path.suffix) == ("train-000000.tar", "train-000000", ".tar")
    assert path.parent / "x" == RemotePath("s3", "bucket/train/x")
    assert (
        path.with_suffix(".parquet").relative_to(RemotePath("s3", "bucket")).as_posix()
        == "train/train-000000.parquet"
    )
    assert str(path) == "s3://bucket/train/train-000000.tar"


@pytest.mark.parametrize("walk", [file_sizes, remove_temporaries])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: Callable[[Path], object]
) -> None:
    (tmp_path / "train").mkdir()
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "train":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    assert not walk(tmp_path)
    assert not walk(tmp_path / "absent")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"train: cannot be read \(Permission denied\)"):
        walk(tmp_path)


def test_an_object_is_written_read_in_part_listed_and_removed(store: Store) -> None:
    folder = locate(store.uri("rw"))
    data = bytes(range(256)) * 5
    write_atomically(folder / "a" / "x.bin", data)
    write_atomically(folder / "empty", b"")
    assert (
        (store.folder / "rw" / "a" / "x.bin").read_bytes()
        == data
        == (folder / "a/x.bin").read_bytes()
    )
    assert (
        file_sizes(folder) == {"a/x.bin": len(data), "empty": 0} == file_sizes(store.folder / "rw")
    )
    assert read_range(folder / "a/x.bin", 3, 4) == data[3:7]
    assert read_range(folder / "a/x.bin", len(data) - 2, 9) == data[-2:]
    assert read_range(folder / "a/x.bin", len(data) + 5, 9) == b""
    assert (folder / "a").is_dir()
    assert not (folder / "b").exists()
    with local_copy(folder / "a" / "x.bin") as copy:
        assert (copy.name, copy.read_bytes()) == ("x.bin", data)
    assert not copy.exists()
    write_atomically(folder / "a" / "y.bin", b"y")
    (folder / "a" / "x.bin").unlink()
    assert file_sizes(folder) == {"a/y.bin": 1, "empty": 0}
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/rw/a/x\.bin"):
        (folder / "a" / "x.bin").read_bytes()


@pytest.mark.parametrize("num_bytes", [100, 2 * PART_BYTES + 1])
def test_what_fails_midway_leaves_what_was_there(store: Store, num_bytes: int) -> None:
    target = locate(store.uri("midway/x"))
    write_atomically(target, b"old")

    def fail() -> None:
        with atomic_file(target) as file:
            file.write(bytes(num_bytes))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with atomic_file(target) as file:
        file.write(b"given up")
        file.close()
    assert target.read_bytes() == b"old"
    write_atomically(target, bytes(num_bytes))
    assert len(target.read_bytes()) == num_bytes


UPLOAD = f"""
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import locate
try:
    write_atomically(locate("s3://{BUCKET}/torn/x"), bytes(3 * {PART_BYTES}))
except OSError as error:
    print(f"{{error.filename}}: {{error.strerror}}")
"""


def uploading(store: Store, wire: Wire) -> subprocess.Popen[str]:
    environment = os.environ | store.environment(wire.endpoint)
    return subprocess.Popen(
        [sys.executable, "-c", UPLOAD], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def test_an_upload_that_is_killed_leaves_nothing(store: Store) -> None:
    wire = Wire(store.endpoint, most_sent=2 * PART_BYTES)
    process = uploading(store, wire)
    assert wire.is_full.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    wire.close()
    assert "POST /bucket/torn/x?uploads" in wire.requests
    assert file_sizes(locate(store.uri("torn"))) == {}


def test_an_upload_of_which_a_part_fails_is_one_line_and_leaves_nothing(store: Store) -> None:
    # All else goes through: nothing must complete what has arrived.
    wire = Wire(store.endpoint, refuses="partNumber=2")
    printed, _ = uploading(store, wire).communicate(timeout=120)
    wire.close()
    assert printed.startswith("s3://bucket/torn/x: the store does not answer (")
    assert printed.count("\n") == 1
    assert file_sizes(locate(store.uri("torn"))) == {}


@pytest.mark.parametrize("where", ["log", "disk"])
def test_a_log_grows_from_run_to_run(store: Store, tmp_path: Path, where: str) -> None:
    target = tmp_path / "run.jsonl" if where == "disk" else locate(store.uri("log/run.jsonl"))
    for line in ("first", "second"):
        with appended_text(target) as file:
            file.write(f"{line} é\n")
    assert target.read_bytes().decode() == "first é\nsecond é\n"


@pytest.mark.parametrize(
    ("bucket", "changed", "message"),
    [
        ("nowhere", {}, "s3://nowhere/x/dataset.json: no such bucket"),
        (BUCKET, {}, "s3://bucket/x: no dataset.json, so this is no shard dataset"),
        (
            BUCKET,
            {"AWS_SECRET_ACCESS_KEY": "wrong-secret"},
            "s3://bucket/x/dataset.json: access denied; credentials",
        ),
        (
            BUCKET,
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "s3://bucket/x/dataset.json: the store does not answer (",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    store: Store, bucket: str, changed: dict[str, str], message: str
) -> None:
    command = [sys.executable, "-m", "twinstream", "shards", "verify", f"s3://{bucket}/x"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | changed, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"twinstream: {message}")
    assert done.stderr.count("\n") == 1
    assert not any(word in done.stderr for word in (KEY, SECRET, "wrong-secret"))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            "When x: AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
            "access denied; cred",
        ),
        (
            "When x: AWS Error SLOW_DOWN during PutObject operation: Please reduce your rate.",
            "Please reduce your rate. (SLOW_DOWN)",
        ),
        ("Bucket 'x' not found", "no such bucket"),
        (
            "google::cloud::Status(PERMISSION_DENIED: Permanent error, with a last message of x)",
            "access denied; cred",
        ),
        (
            "google::cloud::Status(NOT_FOUND: Permanent error, with a last message of 404)",
            "no such object or bucket",
        ),
        (
            "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of "
            "PerformWork() - CURL "
            "error [7]=Could not connect to server error_info={reason=, domain=})",
            "the store does not answer (PerformWork() - CURL error [7]=Could not connect to "
            "server)",
        ),
        ("", "no reason given"),
    ],
)
def test_a_stores_fault_is_said_in_a_few_words(message: str, text: str) -> None:
    assert fault(message)[1].startswith(text)


# Whose first bytes give EIO, as a disk that is failing does.
FAILING = Path("/proc/self/mem")


@pytest.mark.parametrize(
    "read", [lambda path: read_range(path, 0, 9), file_sha256, lambda path: files_sha256([path])]
)
def test_a_disk_that_cannot_be_read_is_told_with_the_file(read: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match=r"Input/output error: '/proc/self/mem'") as told:
        read(FAILING)
    assert told.value.errno == errno.EIO


def test_an_error_that_has_a_file_or_no_number_stays_as_it_is(tmp_path: Path) -> None:
    for error in (OSError(5, "Input/output error", "other"), OSError("a store's words")):
        before = str(error)
        with pytest.raises(OSError, match=re.escape(before)), named_faults(tmp_path):
            raise error
        assert str(error) == before
