"""Which video goes into which shard: a pure function of the catalog and the settings.

Neither workers nor crashes can change it, so shards are the same bytes on every run. Training
videos are ordered by a hash of seed and key, which mixes classes within a shard and does not depend
on a library's random numbers; other splits keep the order of their keys. Absent videos are in no
shard.
"""

import hashlib
from dataclasses import dataclass
from itertools import groupby

from twinstream.preprocess.catalog import Video


@dataclass(frozen=True)
class Job:
    """One shard to make: `name` is `train-000000`, `split` its folder."""

    split: str
    name: str
    videos: tuple[Video, ...]


def plan_jobs(videos: tuple[Video, ...], videos_per_shard: int, seed: int) -> list[Job]:
    """5 training videos, 2 a shard -> train-000000 (2), train-000001 (2), train-000002 (1)."""
    present = sorted(
        (video for video in videos if video.present), key=lambda video: (video.split, video.key)
    )
    jobs = []
    for split, group in groupby(present, key=lambda video: video.split):
        ordered = list(group)
        if split == "train":
            ordered.sort(key=lambda video: _rank(seed, video.key))
        for number, start in enumerate(range(0, len(ordered), videos_per_shard)):
            members = tuple(ordered[start : start + videos_per_shard])
            jobs.append(Job(split, f"{split}-{number:06d}", members))
    return jobs


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
