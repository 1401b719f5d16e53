"""What a driver's messages cost, without Ray."""

from click.testing import CliRunner

from benchmarks.messages import main
from benchmarks.scale import VIDEOS_PER_SHARD


def test_simulated_workers_tell_of_each_video_twice_and_of_each_shard_once() -> None:
    size = 3 * VIDEOS_PER_SHARD
    done = CliRunner().invoke(main, ["--videos", str(size), "--simulate", "3"])
    # A tenth is of another split: 3 shards and 1.
    num_messages = 3 + 2 * size + 4
    assert f"4 jobs, 3 workers by simulation: {num_messages} messages, " in done.output
