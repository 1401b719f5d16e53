"""What a driver's messages cost, without Ray."""

from click.testing import CliRunner

from benchmarks.messages import main


def test_simulated_workers_tell_of_each_video_twice_and_of_each_shard_once() -> None:
    options = ["--videos", "190", "--per-shard", "64", "--simulate", "3"]
    done = CliRunner().invoke(main, options)
    # 171 of split train make 3 shards, 19 of split val 1.
    num_messages = 3 + 2 * 190 + 4
    assert f"4 jobs, 3 workers by simulation: {num_messages} messages, " in done.output
