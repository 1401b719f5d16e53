"""`gpu_report.sh`, from end to end where there is neither a GPU nor more than it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import flow_gpu
from tests.support.paths import ROOT
from tests.support.scenes import textured


def report(frames: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in Triton's interpreter, with nothing but the packages that a GPU's machine has."""
    return subprocess.run(
        ["bash", "benchmarks/gpu_report.sh", str(frames), str(out)],
        cwd=ROOT,
        env=os.environ
        | {
            "TRITON_INTERPRET": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT),
            "PYTHON": f"{sys.executable} -m tests.support.few_packages",
        }
        | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_the_report_runs_from_end_to_end_with_few_packages_and_no_gpu(tmp_path: Path) -> None:
    frames, out = tmp_path / "frames.npz", tmp_path / "out"
    moving = [textured(shift, shift / 2, height=16, width=16) for shift in (0, 1, 2)]
    np.savez(frames, runs=np.stack([moving, moving[::-1]]))
    done = report(frames, out)
    assert done.returncode == 0, done.stdout + done.stderr
    said = {path.stem: path.read_text() for path in out.glob("*.txt")}
    assert {"card", "tests", "waves", "batches", "workers", "agreement", "parts"} <= said.keys()
    assert all(text in done.stdout for text in said.values())
    assert "no GPU: Triton's interpreter" in said["card"]
    assert said["tests"].count("torch sees no GPU") >= 1
    assert "1 of 1 pairs" in said["waves"]
    assert "batch of 2" in said["waves"]
    assert "cuda, 2 pairs a batch" in said["batches"]
    assert re.search(r"^cuda: \d+ pairs/s with one worker, \d+ with 2$", said["workers"], re.M)
    assert "numba: not here" in said["agreement"]
    (row,) = [line.split("|") for line in said["agreement"].splitlines() if "| reference |" in line]
    assert row[1].strip() == "cuda"
    assert float(row[3]) < 1e-3


def test_the_report_goes_on_after_a_part_that_fails_and_says_so(tmp_path: Path) -> None:
    done = report(tmp_path / "none.npz", tmp_path / "out")
    assert done.returncode == 2
    assert "no frames at" in done.stderr
    (tmp_path / "bad.npz").write_bytes(b"no frames")
    done = report(tmp_path / "bad.npz", tmp_path / "out", PYTHON="false")
    assert done.returncode == 1
    parts = (tmp_path / "out" / "parts.txt").read_text()
    assert "card: exit status 1" in parts
    assert "agreement: exit status 1" in parts


def test_batches_go_round_the_runs() -> None:
    runs = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    batches = flow_gpu.batches_of(runs, 3, 3)
    assert [batch[:, 0, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


def test_pairs_of_a_batch_stay_within_their_runs() -> None:
    assert flow_gpu.run_starts(2, 3).tolist() == [0, 1, 3, 4]
