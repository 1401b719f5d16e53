"""Which video goes into which shard."""

from collections import Counter
from dataclasses import replace

from tests.datasets import make_catalog
from twinstream.preprocess.plan import plan_jobs


def test_five_videos_at_two_a_shard_make_three_shards() -> None:
    jobs = plan_jobs(make_catalog({"train": 5, "test": 2}).videos, 2, seed=0)
    assert [(job.name, len(job.videos)) for job in jobs] == [
        ("test-000000", 2),
        ("train-000000", 2),
        ("train-000001", 2),
        ("train-000002", 1),
    ]


def test_every_present_video_is_in_exactly_one_shard() -> None:
    videos = make_catalog({"train": 9, "test": 7}).videos
    absent = {videos[3].key, videos[11].key}
    videos = tuple(replace(video, present=video.key not in absent) for video in videos)
    planned = Counter(video.key for job in plan_jobs(videos, 4, seed=0) for video in job.videos)
    assert planned == Counter(video.key for video in videos if video.key not in absent)


def test_the_plan_does_not_depend_on_the_order_of_the_catalog() -> None:
    videos = make_catalog({"train": 9, "test": 7}).videos
    assert plan_jobs(videos, 3, seed=5) == plan_jobs(tuple(reversed(videos)), 3, seed=5)


def test_training_shards_mix_classes_and_test_shards_keep_the_order() -> None:
    jobs = plan_jobs(make_catalog({"train": 10, "test": 10}).videos, 5, seed=0)
    for job in jobs:
        keys = [video.key for video in job.videos]
        assert (keys == sorted(keys)) == (job.split == "test")
        assert (len({video.label for video in job.videos}) == 2) == (job.split == "train")


def test_another_seed_is_another_plan() -> None:
    videos = make_catalog({"train": 10}).videos
    assert plan_jobs(videos, 5, seed=0) != plan_jobs(videos, 5, seed=1)
