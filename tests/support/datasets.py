"""Small shard datasets for tests, through the real writer but without videos and flow engines."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from twinstream.preprocess.catalog.catalog import Catalog, Video
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.shards.format.flow_codec import quantize
from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.format.manifest import (
    manifest_bytes,
    read_manifest,
    settings_digest,
    spelt,
)
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import Status, VideoRow, video_row
from twinstream.shards.storage.location import Location
from twinstream.shards.write.writer import SampleSpool, sample_spool, write_shard

BOUND = 20.0
SETTINGS = {"preprocess.bound": BOUND, "preprocess.seed": 0}
CLASSES = ("left", "right")
HEIGHT, WIDTH = 24, 32


def make_catalog(counts: dict[str, int]) -> Catalog:
    """A catalog with so many videos in each split; labels alternate."""
    videos = [
        Video(
            f"{CLASSES[n % 2]}/{split}{n}",
            f"{CLASSES[n % 2]}/{split}{n}.avi",
            CLASSES[n % 2],
            n % 2,
            split,
            True,
        )
        for split, count in counts.items()
        for n in range(count)
    ]
    return Catalog(CLASSES, tuple(sorted(videos, key=lambda video: video.key)), ())


def num_frames_of(video: Video) -> int:
    """7, 8, 9 ... frames, so that samples differ in length."""
    return 7 + int(video.key[-1])


def write_dataset(folder: Path, counts: dict[str, int], videos_per_shard: int = 2) -> Path:
    """A finished dataset with such a catalog; returns its folder."""
    catalog = make_catalog(counts)
    jobs = plan_jobs(catalog.videos, videos_per_shard, seed=0)
    for job in jobs:
        write_job(folder, job)
    dataset_build(folder, catalog, jobs, SETTINGS, BOUND).finish()
    return folder


def write_job(folder: Location, job: Job) -> None:
    """One shard of the dataset."""
    rows: list[VideoRow] = []
    with write_shard(folder / job.split, job.name, SETTINGS, rows) as writer:
        for video in job.items:
            num_frames = num_frames_of(video)
            with sample_spool(folder) as spool:
                fill_spool(spool, num_frames, video.label)
                meta = SampleMeta(
                    video.key,
                    video.class_name,
                    video.label,
                    num_frames,
                    WIDTH,
                    HEIGHT,
                    25.0,
                    64,
                    48,
                )
                writer.add(meta, spool)
            known = {
                "num_frames": num_frames,
                "fps": 25.0,
                "shard": job.name,
                "mean_flow": 1.0,
                "saturated": 0.0,
            }
            rows.append(video_row(video, Status.WRITTEN, **known))


def fill_spool(spool: SampleSpool, num_frames: int, label: int) -> None:
    """Flat frames of red 10 t, flow of dx +-t pixels and dy 0: a pixel shows the frame number."""
    sign = 1 if label else -1
    for t in range(num_frames):
        spool.add_frame(encode_jpeg(np.full((HEIGHT, WIDTH, 3), (10 * t, 0, 0), np.uint8), 95))
    for t in range(num_frames - 1):
        dx = quantize(np.full((HEIGHT, WIDTH), sign * t, np.float32), 20)
        spool.add_flow(
            encode_jpeg(dx, 95), encode_jpeg(np.full((HEIGHT, WIDTH), 128, np.uint8), 95)
        )


def rewritten(dataset: Path, name: str, data: bytes) -> None:
    """Replace a file and update the digests, as a faulty writer would."""
    manifest = read_manifest(dataset)
    (dataset / name).write_bytes(data)
    # In the text: the manifest's entries are frozen.
    text = manifest.model_dump_json()
    for entry in [
        manifest.videos,
        *(e for s in manifest.splits.values() for shard in s for e in (shard.tar, shard.index)),
    ]:
        if entry.path == name:
            text = text.replace(entry.sha256, hashlib.sha256(data).hexdigest())
            text = text.replace(
                f'"num_bytes":{entry.num_bytes},"sha256":"{hashlib.sha256(data).hexdigest()}"',
                f'"num_bytes":{len(data)},"sha256":"{hashlib.sha256(data).hexdigest()}"',
            )
    (dataset / "dataset.json").write_bytes(manifest_bytes(type(manifest).model_validate_json(text)))


def forged(dataset: Path, change: Callable[[str], str]) -> None:
    """Change the text of dataset.json and let its own digest fit, whatever it says then."""
    path = dataset / "dataset.json"
    fields = json.loads(change(path.read_text()))
    del fields["sha256"]
    fields["settings_sha256"] = settings_digest(fields["settings"])
    fields["sha256"] = hashlib.sha256(spelt(fields)).hexdigest()
    path.write_bytes(spelt(fields))


def bare(dataset: Path) -> Path:
    """Remove all but the tars of a dataset, as another program would write them."""
    for path in [*dataset.rglob("*.parquet"), dataset / "dataset.json"]:
        path.unlink()
    return dataset


class FirstOfAll(random.Random):
    """Chooses the first."""

    def choice(self, seq: Any) -> Any:
        """The first."""
        return seq[0]
