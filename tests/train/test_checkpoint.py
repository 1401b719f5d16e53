"""Checkpoints on disks that fail: one line, and what was there before stays."""

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from twinstream.errors import InputError
from twinstream.shards.storage import atomic
from twinstream.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SMALL = Checkpoint({"a": torch.ones(1000), "b": torch.ones(3)}, ["x"], 20.0, "", ())


class FailingFile(io.FileIO):
    """A file that takes so many bytes."""

    def __init__(self, path: Path, mode: str, *, limit: int, number: int) -> None:
        super().__init__(path, mode)
        self._limit, self._number = limit, number

    def write(self, data: Any) -> int:
        if self.tell() + len(memoryview(data)) > self._limit:
            raise OSError(self._number, os.strerror(self._number))
        return super().write(data)


@pytest.mark.parametrize("limit", [0, 700, 20_000, 45_000])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_one_line_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, number: int
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, SMALL)

    def failing(path: Path, mode: str) -> io.BufferedWriter:
        return io.BufferedWriter(FailingFile(path, mode, limit=limit, number=number))

    monkeypatch.setattr(atomic, "open", failing, raising=False)
    with pytest.raises(InputError) as told:
        save_checkpoint(path, replace(SMALL, model={"a": torch.zeros(12_000)}))
    room = "make room and " if number in (errno.ENOSPC, errno.EDQUOT) else ""
    assert str(told.value) == (
        f"{path}: {os.strerror(number)}; what was saved before is kept, {room}run the same command "
        "with --resume"
    )
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    assert torch.equal(load_checkpoint(path).model["a"], SMALL.model["a"])
