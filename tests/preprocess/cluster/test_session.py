"""Where Ray keeps its sockets: their paths have a length that no setting of Ray's changes."""

import os
import stat
from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.cluster import session
from twinstream.preprocess.cluster.session import MAX_TEMP_DIR_BYTES, RAY_SOCKET, short_temp_dir


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [MAX_TEMP_DIR_BYTES, MAX_TEMP_DIR_BYTES + 1])
def test_a_long_folder_for_temporary_files_is_replaced_by_a_private_one(
    monkeypatch: pytest.MonkeyPatch, variable: str, length: int
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, "/" + "x" * (length - 1))
    with short_temp_dir() as folder:
        assert (folder is None) == (length <= MAX_TEMP_DIR_BYTES)
        if folder is not None:
            assert len(folder + RAY_SOCKET) <= 107
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            Path(folder, "left").touch()
    assert folder is None or not os.path.exists(folder)


def test_where_no_short_folder_can_be_made_the_user_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(**options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("TMPDIR", "/" + "x" * 80)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(session.tempfile, "mkdtemp", refused)
    message = r"Permission denied; set RAY_TMPDIR to a folder of at most"
    with pytest.raises(InputError, match=message), short_temp_dir():
        pass
