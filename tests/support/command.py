"""The command line, in this process or in one of its own."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from twinstream.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `twinstream` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["twinstream", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The same as a process, with what it printed."""
    command = [sys.executable, "-m", "twinstream", *arguments]
    options = {"cwd": ROOT, **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
