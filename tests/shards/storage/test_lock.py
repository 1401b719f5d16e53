"""One run at a time in a folder, on a disk and in a store: the second is refused, and an end or a
crash of the first lets the next one in.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.disks import small_files
from tests.support.paths import ROOT
from tests.support.stores import Store
from twinstream.errors import InputError
from twinstream.shards.storage import lock
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import file_sizes, locate
from twinstream.shards.storage.lock import OWNER_NAME, owned
from twinstream.shards.storage.remote import RemotePath

# Holds a folder until its stdin ends; with `child` a forked process lives on for a minute.
HOLD = """
import os, sys, time
from pathlib import Path
from twinstream.errors import InputError
from twinstream.shards.storage.lock import owned
try:
    with owned(Path(sys.argv[1]), "twinstream train"):
        if "child" in sys.argv and os.fork() == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print("held", flush=True)
        sys.stdin.read()
except InputError as error:
    print(error, flush=True)
"""
# Two at the same time would fail at the mark; how often it held the folder.
TAKE_TURNS = """
import os, sys
from pathlib import Path
from twinstream.errors import InputError
from twinstream.shards.storage.lock import owned
folder, turns = Path(sys.argv[1]), 0
for _ in range(2000):
    try:
        with owned(folder, "a test"):
            os.close(os.open(folder / "mark", os.O_CREAT | os.O_EXCL))
            turns += 1
            os.unlink(folder / "mark")
    except InputError as error:
        assert "in use by" in str(error), error
print(turns)
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as started:
        try:
            yield started
        finally:
            started.kill()


def said(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_the_second_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as first:
        assert said(first) == "held"
        with process(HOLD, tmp_path) as second:
            assert said(second) == (
                f"{tmp_path}: in use by process {first.pid} on host {os.uname().nodename} "
                "(twinstream train); wait for it or choose another --out"
            )
        with pytest.raises(InputError, match=rf"process {first.pid} .*; wait for it$"):
            owned(tmp_path, "a test", option=None).__enter__()
        first.communicate()
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path, "a test"):
        pass


def test_after_kill_9_the_next_one_starts_at_once_though_a_forked_child_lives_on(
    tmp_path: Path,
) -> None:
    with process(HOLD, tmp_path, "child") as first:
        assert said(first) == "held"
        with pytest.raises(InputError, match="in use by process"):
            owned(tmp_path, "a test").__enter__()
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (tmp_path / OWNER_NAME).exists()
        assert file_sizes(tmp_path) == {}
        with owned(tmp_path, "a test"):
            assert str(os.getpid()) in (tmp_path / OWNER_NAME).read_text()
    assert list(tmp_path.iterdir()) == []


def test_of_those_that_start_at_the_same_moment_one_goes_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = [stack.enter_context(process(HOLD, tmp_path / "run")) for _ in range(5)]
        assert sorted(said(one) == "held" for one in started) == [False] * 4 + [True]


def test_no_two_hold_a_folder_while_others_end_and_remove_the_name(tmp_path: Path) -> None:
    with ExitStack() as stack:
        folder = tmp_path / "run"
        started = [stack.enter_context(process(TAKE_TURNS, folder)) for _ in range(3)]
        turns = [int(one.communicate()[0]) for one in started]
        assert all(one.returncode == 0 for one in started)
    assert all(turns)


def test_a_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    with owned(tmp_path, "twinstream train"):
        with pytest.raises(InputError, match=rf"in use by process {os.getpid()} "):
            owned(tmp_path / "." / "x" / "..", "a test").__enter__()
        # Nor has it let the lock go by looking who holds it.
        with process(HOLD, tmp_path) as other:
            assert "in use by" in said(other)
    with owned(tmp_path, "a test"):
        pass


def test_a_folder_that_was_made_and_stayed_empty_is_removed(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b", "a test"):
        pass
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path / "a" / "b", "a test"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_where_nothing_can_be_written_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (("file", "File exists"), ("file/run", "Not a directory")):
        with pytest.raises(InputError) as told:
            owned(tmp_path / path, "a test", "shards.path").__enter__()
        assert str(told.value) == (
            f"shards.path {tmp_path / path}: cannot be written to ({reason})"
        )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_without_locks_a_line_is_printed_and_the_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int | None,
) -> None:
    def refuse(*arguments: object) -> None:
        assert number is not None
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.lockf", refuse)
    with owned(tmp_path, "a test"):
        pass
    reason = "this system has none" if number is None else os.strerror(number)
    assert capsys.readouterr().err == (
        f"{tmp_path}: cannot be locked ({reason}); see to it that no other run writes there\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_full_disk_holds_though_it_names_nobody(tmp_path: Path) -> None:
    with small_files(0), owned(tmp_path, "a test"), process(HOLD, tmp_path) as other:
        assert said(other).startswith(f"{tmp_path}: in use by another process; wait for it")


@pytest.fixture
def folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """A folder in the store; beats are short."""
    for name, seconds in (("BEAT", 0.2), ("WATCH", 3.0), ("SETTLE", 0.5), ("POLL", 0.1)):
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)
    found = locate(store.uri(f"{tmp_path.name}/shards"))
    assert isinstance(found, RemotePath)
    return found


def test_in_a_store_the_second_is_refused_while_the_first_signs(
    folder: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(folder, "twinstream preprocess", "shards.path") as check:
        with pytest.raises(InputError) as refused:
            owned(folder, "a test", "shards.path").__enter__()
        assert str(refused.value) == (
            f"{folder}: in use by process {os.getpid()} on host {os.uname().nodename} (twinstream "
            "preprocess); wait for it or choose another shards.path"
        )
        assert capsys.readouterr().err.count("\n") == 1
        assert (folder / OWNER_NAME).exists()
        assert file_sizes(folder) == {}
        check()
    with owned(folder, "a test"):
        write_atomically(folder / "train.tar", b"x")
    assert not (folder / OWNER_NAME).exists()
    with owned(folder, "a test"):
        pass
    assert capsys.readouterr().err == ""


def test_in_a_store_a_record_that_does_not_change_is_taken_over(
    folder: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    write_atomically(
        folder / OWNER_NAME, b'{"id": "x", "process": 7, "host": "far", "what": "twinstream train"}'
    )
    with owned(folder, "a test") as check:
        check()
    assert capsys.readouterr().err == (
        f"{folder}: process 7 on host far (twinstream train) has not signed off; watching for 3 s "
        "whether it is alive, and going on if not\n"
    )


def test_in_a_store_one_of_two_that_start_at_the_same_moment_goes_on(folder: RemotePath) -> None:
    ended, outcomes = threading.Event(), []

    def start(name: str) -> None:
        try:
            with owned(folder, name):
                outcomes.append("held")
                ended.wait(60)
        except InputError as error:
            outcomes.append(str(error).split("; ")[1])

    threads = [threading.Thread(target=start, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    while len(outcomes) < 2:
        time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "wait for it or choose another --out"]


def test_in_a_store_a_run_that_was_taken_for_dead_ends_and_leaves_the_other_alone(
    folder: RemotePath,
) -> None:
    other = b'{"id": "other", "process": 7, "host": "far", "what": "twinstream preprocess"}'

    def work_on() -> None:
        with owned(folder, "a test") as check:
            while True:
                check()
                # Again and again: a beat may just have been about to sign.
                write_atomically(folder / OWNER_NAME, other)
                time.sleep(0.01)

    with pytest.raises(InputError) as ended:
        work_on()
    assert str(ended.value) == (
        f"{folder}: in use by process 7 on host far (twinstream preprocess); it has taken over "
        "from this run; wait for it or choose another --out"
    )
    assert (folder / OWNER_NAME).read_bytes() == other
