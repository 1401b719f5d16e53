"""What preprocessing makes: which video goes into which shard, and what else the dataset tells.

A pure function of the catalog and the settings. The seed changes which training videos lie in one
shard. Absent videos are in no shard, and have a row nevertheless.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twinstream.preprocess.catalog.catalog import Catalog, Video, presence
from twinstream.shards.format.columns import Some
from twinstream.shards.format.manifest import our_codec
from twinstream.shards.format.video_table import Reason, Status, VideoRow, video_row
from twinstream.shards.storage.location import Location
from twinstream.shards.write.dataset import DatasetBuild
from twinstream.shards.write.finished import Contents
from twinstream.shards.write.plan import ShardPlan, key_hash, plan_shards

Job = ShardPlan[Video]


def plan_jobs(videos: Sequence[Video], videos_per_shard: int, seed: int) -> list[Job]:
    """One job a shard; videos that are not on disk are left out."""
    present: Some[Video] = Some(videos, np.flatnonzero(presence(videos)).astype(np.int32))
    return plan_shards(present, videos_per_shard, lambda key: key_hash(f"{seed}/{key}"))


def missing_rows(videos: Sequence[Video]) -> Sequence[VideoRow]:
    """The rows of the videos that are not on disk, each made when it is looked at."""
    absent = np.flatnonzero(~presence(videos)).astype(np.int32)
    return Some(videos, absent, _missing_row)


def _missing_row(video: Video) -> VideoRow:
    return video_row(video, Status.MISSING, Reason.MISSING, detail="no such file")


def dataset_build(
    out: Location, catalog: Catalog, jobs: list[Job], settings: dict[str, Any], bound: float
) -> DatasetBuild[Video]:
    """The dataset of these jobs at `out`.

    `settings` are all that change bytes; `bound` is the largest flow in pixels that is stored.
    """
    contents = Contents(catalog.classes, our_codec(bound), settings, missing_rows(catalog.videos))
    # The log of the run lies there too.
    return DatasetBuild(out, jobs, contents, option="shards.path", beside_others=True)
