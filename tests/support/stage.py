"""Runs of preprocess for tests: small videos, their settings, and the command as a process."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.support.paths import ROOT
from tests.support.videos import write_video
from twinstream.preprocess.catalog.catalog import Catalog
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.duet import draw_video
from twinstream.preprocess.job import run_job
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.preprocess.settings import byte_settings
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import VideoRow

PATIENCE_SECONDS = 120


def tree(root: Path, out: Path) -> dict[str, dict[str, object]]:
    """pipeline.yaml of a quick run with two workers."""
    return {
        "dataset": {"kind": "folders", "root": str(root)},
        "preprocess": {
            "size": 32,
            "engine": "opencv",
            "workers": 2,
            "tvl1": {"warps": 1, "iterations": 10},
        },
        "shards": {"path": str(out), "videos_per_shard": 2},
    }


def config(folder: Path, root: Path, out: Path) -> str:
    """The same as a file; returns its path."""
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(tree(root, out)))
    return str(path)


def write_videos(root: Path, count: int) -> None:
    """So many small videos of two classes below `root`/train."""
    for number in range(count):
        frames = draw_video(np.random.default_rng(number), number % 4, number % 2, 48, 8)
        write_video(root / "train" / f"class{number % 2}" / f"{number}.avi", frames)


@contextmanager
def started(
    folder: Path, root: Path, out: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, which is killed when the block ends."""
    config = folder / "pipeline.yaml"
    config.write_text(yaml.safe_dump(tree(root, out)))
    command = [sys.executable, "-m", "twinstream", "preprocess", "-c", str(config), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # Else a test that fails would wait for a run of minutes.
        try:
            yield process
        finally:
            process.kill()


def wait_for(happened: Callable[[], bool]) -> None:
    """Ask until it has happened; fails after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def prepared(
    root: Path, out: Path, *overrides: str
) -> tuple[Catalog, list[Job], WorkerSetup, dict[str, Any]]:
    """What the command makes of its settings before it starts Ray."""
    settings = build_settings(Settings, tree(root, out), overrides)
    stage, shards = settings.preprocess, settings.shards
    catalog = read_catalog("folders", str(root))
    made_with = byte_settings(settings.dataset, stage, shards, "opencv")
    setup = WorkerSetup(
        root=root,
        out=out,
        dataset=settings.dataset,
        preprocess=stage,
        shards=shards,
        engine="opencv",
    )
    return catalog, plan_jobs(catalog.videos, shards.videos_per_shard, stage.seed), setup, made_with


def without_ray(root: Path, out: Path, *overrides: str) -> list[VideoRow]:
    """The same dataset by a plain loop over the jobs; the rows of its videos as they come."""
    catalog, jobs, setup, settings = prepared(root, out, *overrides)
    recipe = make_recipe(setup)
    done = [one for job in jobs for one in run_job(job, root=root, out=out, recipe=recipe)]
    dataset_build(out, catalog, jobs, settings, setup.preprocess.bound).finish()
    return [one.row for one in done]
