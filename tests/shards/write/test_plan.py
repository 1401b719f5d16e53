"""Which video goes into which shard."""

from collections import Counter
from dataclasses import replace

from tests.support.datasets import make_catalog
from twinstream.preprocess.plan import plan_jobs
from twinstream.shards.rawframes.videos import VideoFolder
from twinstream.shards.write.plan import key_hash, plan_shards


def test_five_videos_at_two_a_shard_make_three_shards() -> None:
    jobs = plan_jobs(make_catalog({"train": 5, "test": 2}).videos, 2, seed=0)
    assert [(job.name, len(job.items)) for job in jobs] == [
        ("test-000000", 2),
        ("train-000000", 2),
        ("train-000001", 2),
        ("train-000002", 1),
    ]


def test_every_present_video_is_in_exactly_one_shard() -> None:
    videos = make_catalog({"train": 9, "test": 7}).videos
    absent = {videos[3].key, videos[11].key}
    videos = tuple(replace(video, present=video.key not in absent) for video in videos)
    planned = Counter(video.key for job in plan_jobs(videos, 4, seed=0) for video in job.items)
    assert planned == Counter(video.key for video in videos if video.key not in absent)


def test_the_plan_does_not_depend_on_the_order_of_the_catalog() -> None:
    videos = make_catalog({"train": 9, "test": 7}).videos
    assert plan_jobs(videos, 3, seed=5) == plan_jobs(tuple(reversed(videos)), 3, seed=5)


def test_training_shards_mix_classes_and_test_shards_keep_the_order() -> None:
    jobs = plan_jobs(make_catalog({"train": 10, "test": 10}).videos, 5, seed=0)
    for job in jobs:
        keys = [video.key for video in job.items]
        assert (keys == sorted(keys)) == (job.split == "test")
        assert (len({video.label for video in job.items}) == 2) == (job.split == "train")


def test_another_seed_is_another_plan() -> None:
    videos = make_catalog({"train": 10}).videos
    assert plan_jobs(videos, 5, seed=0) != plan_jobs(videos, 5, seed=1)


def test_the_plan_mixes_training_samples_by_their_keys_hash_and_keeps_the_order_of_other_keys() -> (
    None
):
    items = [
        VideoFolder(f"a/v{n}", f"a/v{n}", "a", 0, split)
        for split in ("val", "train")
        for n in (3, 0, 2, 1)
    ]
    plans = plan_shards(items, 3, key_hash)
    assert [(plan.path, [item.key for item in plan.items]) for plan in plans] == [
        ("train/train-000000", ["a/v0", "a/v3", "a/v2"]),
        ("train/train-000001", ["a/v1"]),
        ("val/val-000000", ["a/v0", "a/v1", "a/v2"]),
        ("val/val-000001", ["a/v3"]),
    ]


def test_the_rank_orders_training_samples_alone() -> None:
    items = [
        VideoFolder(f"a/v{n}", f"a/v{n}", "a", 0, split)
        for split in ("train", "val")
        for n in range(3)
    ]
    plans = plan_shards(items, 3, lambda key: bytes([255 - ord(key[-1])]))
    assert [[item.key for item in plan.items] for plan in plans] == [
        ["a/v2", "a/v1", "a/v0"],
        ["a/v0", "a/v1", "a/v2"],
    ]
