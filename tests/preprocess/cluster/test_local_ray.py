"""What Ray needs of a machine, asked before it is started, and the folder that is its alone."""

import os
import resource
import shutil
import signal
import stat
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import small_disk
from twinstream.errors import InputError
from twinstream.preprocess.cluster import local_ray
from twinstream.preprocess.cluster.local_ray import (
    MAX_TEMP_DIR_BYTES,
    MIN_ADDRESS_BYTES,
    MIN_OPEN_FILES,
    OBJECT_STORE_BYTES,
    RAY_SOCKET,
    private_temp_dir,
    require_limits,
    set_environment,
    shm_has_room,
    watched_start,
    what_it_lacked,
)
from twinstream.preprocess.cluster.session import START_TRIES, _start_here

SOME = resource.RLIM_INFINITY


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [MAX_TEMP_DIR_BYTES, MAX_TEMP_DIR_BYTES + 1])
def test_temporary_files_lie_in_a_private_folder_whose_sockets_have_short_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, length: int
) -> None:
    usual = Path("/tmp") / "x".ljust(length - len("/tmp/"), "x")
    usual.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(usual))
    try:
        with private_temp_dir() as folder:
            assert (folder.parent == usual) == (length <= MAX_TEMP_DIR_BYTES)
            assert len(str(folder) + RAY_SOCKET) <= 107
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "left").touch()
        assert not folder.exists()
    finally:
        usual.rmdir()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/nowhere", "RAY_TMPDIR /nowhere: cannot be written to (No such file or directory)"),
        ("/dev/null", "RAY_TMPDIR /dev/null: cannot be written to (Not a directory)"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_one_line(
    monkeypatch: pytest.MonkeyPatch, folder: str, message: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(InputError) as told, private_temp_dir():
        pass
    assert str(told.value) == (
        f"{message}; set RAY_TMPDIR to a folder of at most {MAX_TEMP_DIR_BYTES} characters, or "
        "use --local, which needs no Ray"
    )


@pytest.mark.parametrize(
    ("shm", "needed"), [("full", 96), ("read-only", 96), ("absent", 96), ("roomy", 16)]
)
def test_a_disk_for_temporary_files_without_room_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shm: str, needed: int
) -> None:
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(local_ray, "MAX_TEMP_DIR_BYTES", 1000)
    monkeypatch.setattr(local_ray, "SHM", str(tmp_path / ("none" if shm == "absent" else "shm")))
    rooms = {str(tmp_path): 9 << 20, str(tmp_path / "shm"): OBJECT_STORE_BYTES - (shm == "full")}
    monkeypatch.setattr(local_ray, "_room", rooms.__getitem__)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if shm == "read-only":
        monkeypatch.setattr(local_ray.os, "access", lambda path, mode: False)
    assert shm_has_room() == (shm == "roomy")
    message = rf"^TMPDIR {tmp_path}: has room for 9 MiB, Ray needs {needed}; make room, set RAY_"
    with pytest.raises(InputError, match=message), private_temp_dir():
        pass
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["shm"]


def test_the_room_is_that_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        monkeypatch.setattr(local_ray, "MAX_TEMP_DIR_BYTES", 1000)
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        with pytest.raises(InputError, match=r"has room for 8 MiB"), private_temp_dir():
            pass


@pytest.mark.parametrize(
    ("kind", "limits", "message"),
    [
        (resource.RLIMIT_AS, (MIN_ADDRESS_BYTES - 1024, SOME), "ulimit -v 2097151: Ray needs "),
        (resource.RLIMIT_AS, (MIN_ADDRESS_BYTES, SOME), None),
        (resource.RLIMIT_NOFILE, (20, MIN_OPEN_FILES - 1), "ulimit -n 63: Ray needs 64 open "),
        (resource.RLIMIT_NOFILE, (20, MIN_OPEN_FILES), None),
        (resource.RLIMIT_NOFILE, (20, SOME), None),
    ],
)
def test_a_limit_below_what_ray_needs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: int, limits: tuple[int, int], message: str | None
) -> None:
    monkeypatch.setattr(
        local_ray.resource, "getrlimit", lambda asked: limits if asked == kind else (SOME, SOME)
    )
    if message is None:
        require_limits()
        return
    with pytest.raises(InputError, match=f"^{message}.*; raise it, or use --local"):
        require_limits()


def test_the_logs_of_a_ray_that_did_not_start_say_what_the_machine_lacked(tmp_path: Path) -> None:
    assert what_it_lacked(tmp_path) is None
    logs = tmp_path / "r" / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text("all is well\n")
    assert what_it_lacked(tmp_path) is None
    (logs / "raylet.err").write_text("lines\nmmap failed: Cannot allocate memory (12)\n")
    assert what_it_lacked(tmp_path) == "raylet.err: Cannot allocate memory"


@pytest.mark.parametrize("num_late", [2, 3])
def test_a_ray_that_a_busy_machine_was_too_slow_for_is_started_again(
    num_late: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    starts = []

    def init(*_: Any, **options: Any) -> None:
        starts.append(options)
        logs = Path(options["_temp_dir"]) / "session_2026" / "logs"
        # Nothing of the start before is there.
        logs.mkdir(parents=True)
        if len(starts) <= num_late:
            (logs / "raylet.err").write_text("Check failed: Timed out waiting for file agent_port")
            raise ChildProcessError("raylet has ended")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    if num_late < START_TRIES:
        _start_here(tmp_path, 1)
    else:
        with pytest.raises(InputError, match=r"\(the machine is too busy: .* or use --local"):
            _start_here(tmp_path, 1)
    assert len(starts) == 3
    assert capsys.readouterr().err == 2 * "Ray did not start in time, as on a busy machine; again\n"


def end_and_wait(server: subprocess.Popen[bytes]) -> None:
    """For what interrupts it."""
    assert server.stdin is not None
    server.stdin.close()
    time.sleep(60)


def test_a_server_that_ends_while_ray_starts_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ray, "WATCH_SECONDS", 0.05)
    raylet = shutil.copy(shutil.which("cat") or "cat", tmp_path / "raylet")
    handler = signal.getsignal(signal.SIGALRM)
    start = partial(subprocess.Popen, [raylet], stdin=subprocess.PIPE)
    # Of a Ray that this process has started before, and that has ended or is still ending.
    with start() as ended, start() as ending:
        ended.stdin.close()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with watched_start():
            ending.stdin.close()
            time.sleep(0.2)
        with (
            pytest.raises(ChildProcessError, match=r"^raylet has ended$"),
            watched_start(),
            start() as now,
        ):
            end_and_wait(now)
    assert signal.getsignal(signal.SIGALRM) == handler


def test_a_local_ray_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = ("RAY_gcs_server_port_wait_time_s", "RAY_raylet_start_wait_time_s")
    for name in ("RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *waits):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_environment()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user")
    set_environment()
    assert os.environ["RAY_AUTH_TOKEN"] == "of the user"
