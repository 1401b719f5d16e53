"""A dataset in a real S3 server: made, killed, resumed, checked, looked at, and trained from, as on
a disk.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.command import cli
from tests.support.datasets import BOUND, SETTINGS, make_catalog, write_dataset, write_job
from tests.support.digests import dataset_digests
from tests.support.paths import ROOT
from tests.support.stores import KEY, SECRET, Store, Wire
from tests.support.videos import moving_square, write_video
from twinstream.errors import InputError
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.duet import draw_video
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.shards.format.video_table import Reason, Status, VideoError, video_row
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames, read_snippets
from twinstream.shards.storage.block_cache import open_cache
from twinstream.shards.storage.location import file_sizes, locate
from twinstream.shards.verify import faults
from twinstream.shards.write.writer import write_shard

HEAD_BYTES = 2000


def config(folder: Path, root: str, out: str) -> str:
    tree = {
        "dataset": {"kind": "folders", "root": root},
        "preprocess": {
            "size": 48,
            "engine": "opencv",
            "workers": 1,
            "tvl1": {"warps": 1, "iterations": 10},
        },
        "shards": {"path": out, "videos_per_shard": 2},
        "model": {"kind": "rgb", "depth": 18, "rgb_weights": None},
        "train": {
            "stages": ["rgb"],
            "epochs": 1,
            "batch_size": 4,
            "crop_size": 40,
            "segments": 1,
            "workers": 2,
        },
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.fixture
def drawn(store: Store, tmp_path: Path) -> Iterator[str]:
    """Videos in the store, two of them of no use; a key's folder."""
    name = tmp_path.name
    for number in range(8):
        path = (
            store.folder
            / name
            / "videos"
            / ("train" if number < 6 else "test")
            / f"class{number % 2}"
        )
        write_video(
            path / f"{number}.avi", draw_video(np.random.default_rng(number), 0, 1, 48, 8 + number)
        )
    (path / "empty.avi").write_bytes(b"")
    (path / "notes.txt").write_text("no video")
    cut = write_video(path / "cut.mp4", moving_square(60))
    cut.write_bytes(cut.read_bytes()[:-500])
    yield name
    shutil.rmtree(store.folder / name)


def test_a_run_that_is_killed_and_resumed_gives_the_bytes_of_a_local_one(
    store: Store, drawn: str, tmp_path: Path
) -> None:
    uri, videos = store.uri(f"{drawn}/shards"), store.folder / drawn / "videos"
    assert (
        cli("preprocess", "-c", config(tmp_path, str(videos), str(tmp_path / "local"))).returncode
        == 0
    )
    command = ["preprocess", "-c", config(tmp_path, store.uri(f"{drawn}/videos"), uri)]
    process = subprocess.Popen(
        [sys.executable, "-m", "twinstream", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    stored = store.folder / drawn / "shards"
    while not list(stored.glob("*/*.parquet")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (stored / "dataset.json").exists()
    printed = [cli(*command)]
    assert printed[0].returncode == 0, printed[0].stderr
    assert dataset_digests(stored) == dataset_digests(tmp_path / "local")
    assert json.loads((stored / "run.json").read_text())["videos"] == {
        "unreadable": 2,
        "written": 8,
    }

    run = str(tmp_path / "run")
    cached = ["--set", f"shards.cache_dir={tmp_path / 'cache'}"]
    printed += [
        cli("shards", "verify", uri),
        cli("shards", "verify", "--fast", uri),
        cli("shards", "info", uri),
        cli("shards", "preview", uri, "--out", str(tmp_path / "preview.png")),
        cli("train", "-c", config(tmp_path, "", uri), *cached, "--out", run),
        cli("test", run, "--segments", "1", "--crops", "1"),
    ]
    assert [done.returncode for done in printed] == [0] * len(printed), [
        done.stderr for done in printed
    ]
    assert printed[1].stdout == f"{uri}: sound\n"
    assert "8 written · 2 skipped: unreadable 2" in printed[3].stdout
    assert list((tmp_path / "cache").glob("*.blocks"))
    everything = "".join(done.stdout + done.stderr for done in printed)
    written = [
        path.read_bytes() for top in (stored, tmp_path) for path in top.rglob("*") if path.is_file()
    ]
    assert not any(word in everything for word in (KEY, SECRET))
    assert not any(word.encode() in data for word in (KEY, SECRET) for data in written)


def test_changed_bytes_and_strangers_in_the_store_are_found(store: Store, tmp_path: Path) -> None:
    folder = write_dataset(store.folder / tmp_path.name / "shards", {"train": 3, "test": 2})
    uri = store.uri(f"{tmp_path.name}/shards")
    tar = folder / "train" / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-600] + bytes(600 - 1) + b"x")
    (folder / "test" / "test-000000.parquet").unlink()
    (folder / "train" / "train-000009.tar").write_bytes(b"")
    for options in ((), ("--fast",)):
        done = cli("shards", "verify", *options, uri)
        assert done.returncode == 1
        for line in (
            "train/train-000009.tar: a file that dataset.json does not name",
            "test/test-000000.parquet: No such file or directory",
            "train/train-000000.tar: changed since it was written (its SHA-256 differs)",
        ):
            assert f"{line}\n" in done.stderr


def test_datasets_are_combined_and_converted_in_the_store(
    store: Store, dataset: Path, tmp_path: Path
) -> None:
    here = tmp_path.name
    shutil.copytree(dataset, store.folder / here / "a")
    uri = store.uri(here)
    done = [
        cli("shards", "subset", f"{uri}/a", "--split", "train", "--out", f"{uri}/part"),
        cli("shards", "merge", f"{uri}/part", "--out", f"{uri}/merged"),
        cli("shards", "export", f"{uri}/merged", "--out", str(tmp_path / "raw")),
        cli("shards", "import", str(tmp_path / "raw"), "--bound", "20", "--out", f"{uri}/imported"),
        cli("shards", "verify", f"{uri}/imported"),
        cli("shards", "verify", f"file://{dataset}"),
    ]
    assert [one.returncode for one in done] == [0] * len(done), [one.stderr for one in done]
    for line in ("dataset.json", "videos.parquet"):
        (store.folder / here / "a" / line).unlink()
    for index in (store.folder / here / "a").rglob("*.parquet"):
        index.unlink()
    indexed = cli("shards", "index", f"{uri}/a", "--bound", "20")
    assert indexed.returncode == 0, indexed.stderr
    assert cli("shards", "verify", f"{uri}/a").returncode == 0


def test_only_the_members_asked_for_are_read_neighbours_in_one_request(
    store: Store, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, store.folder / tmp_path.name)
    wire = Wire(store.endpoint)
    uri = f"{store.uri(tmp_path.name)}?endpoint_override={wire.endpoint}"
    remote, local = ShardDataset(uri), ShardDataset(dataset)
    sample, other = (one.sample("right/train1") for one in (remote, local))
    before, wire.requests[:] = wire.num_received, []
    frames, stacks = read_snippets(sample, [0, 2], 3)
    ranges = [request for request in wire.requests if request.startswith("GET")]
    assert len(ranges) == 4
    sizes = sample.index.sizes
    first_flow = 1 + sample.index.num_frames
    spans = [[1], [3], range(first_flow, first_flow + 6), range(first_flow + 4, first_flow + 10)]
    padded = sum(
        int(sample.index.offsets[s[-1]] + sizes[s[-1]] - sample.index.offsets[s[0]]) for s in spans
    )
    assert padded <= wire.num_received - before <= padded + HEAD_BYTES * len(wire.requests)
    assert np.array_equal(np.stack([*frames]), read_frames(other, [0, 2]))
    _, second = stacks
    assert np.array_equal(
        np.stack([*second]).reshape(3, 2, 24, 32).transpose(0, 2, 3, 1), read_flow(other, 2, 3)
    )
    wire.close()


def test_what_was_read_once_is_not_fetched_again(
    store: Store, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, store.folder / tmp_path.name)
    wire = Wire(store.endpoint)
    uri = f"{store.uri(tmp_path.name)}?endpoint_override={wire.endpoint}"
    data = ShardDataset(uri, open_cache(str(tmp_path / "cache"), 2**30))
    sample = data.samples("train")[1]
    once = read_snippets(sample, [0, 2], 3)
    wire.requests[:] = []
    again = read_snippets(sample, [0, 2], 3)
    assert wire.requests == []
    assert all(np.array_equal(a, b) for a, b in zip(once[0], again[0], strict=True))
    wire.close()


def test_a_shard_that_is_gone_and_a_store_that_does_not_answer_are_told(
    store: Store, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, store.folder / tmp_path.name)
    samples = ShardDataset(store.uri(tmp_path.name)).samples("train")
    sample = samples[0]
    (store.folder / tmp_path.name / "train" / "train-000000.tar").unlink()
    with pytest.raises(InputError, match=r"train-000000\.tar: this shard is gone"):
        read_frames(sample, [0])
    silent = replace(
        sample, tar=replace(sample.tar, options=(("endpoint_override", "http://127.0.0.1:1"),))
    )
    with pytest.raises(
        InputError, match=rf"train-000000\.tar: {sample.index.key}: the store does not answer \("
    ):
        read_frames(silent, [0])


def test_a_video_in_the_store_is_decoded_like_one_on_disk(store: Store, tmp_path: Path) -> None:
    path = write_video(store.folder / tmp_path.name / "a b.mp4", moving_square(12))
    location = locate(store.uri(f"{tmp_path.name}/a b.mp4"))
    options = {"size": (32, 24), "short_side": None, "chunk_frames": 5}
    with open_video(path, **options) as one, open_video(location, **options) as other:
        assert one.info == other.info
        assert np.array_equal(np.concatenate(list(one)), np.concatenate(list(other)))
    cut = path.read_bytes()[:-300]
    path.write_bytes(cut)
    with pytest.raises(VideoError) as local, open_video(path, **options) as one:
        list(one)
    with pytest.raises(VideoError) as remote, open_video(location, **options) as other:
        list(other)
    assert str(local.value) == str(remote.value)
    path.unlink()
    with pytest.raises(VideoError) as printed, open_video(location, **options):
        pass
    assert printed.value.reason == Reason.MISSING


def test_a_job_without_a_usable_video_leaves_nothing_in_the_store(
    store: Store, tmp_path: Path
) -> None:
    out, catalog = locate(store.uri(tmp_path.name)), make_catalog({"train": 4})
    good, bad = plan_jobs(catalog.videos, 2, seed=0)
    write_job(out, good)
    rows = [video_row(video, Status.SKIPPED, Reason.UNREADABLE) for video in bad.items]
    with write_shard(out / bad.split, bad.name, SETTINGS, rows):
        pass
    build = dataset_build(out, catalog, [good, bad], SETTINGS, BOUND)
    assert sorted(build.done_shards()) == ["train/train-000000", "train/train-000001"]
    build.finish()
    named = [
        "dataset.json",
        f"train/{good.name}.parquet",
        f"train/{good.name}.tar",
        "videos.parquet",
    ]
    assert list(file_sizes(out)) == named
    assert list(faults(out)) == []


def test_lists_are_read_from_the_store(store: Store, tmp_path: Path) -> None:
    here = tmp_path.name
    write_video(store.folder / here / "videos" / "a" / "v.avi", moving_square(8))
    (store.folder / here / "list.csv").write_text(
        "path,label,split\r\na/v.avi,run,train\r\na/w.avi,run,test\r\n"
    )
    command = config(tmp_path, store.uri(f"{here}/videos"), store.uri(f"{here}/shards"))
    options = [
        "--set",
        "dataset.kind=csv",
        "--set",
        f"dataset.annotations={store.uri(f'{here}/list.csv')}",
    ]
    done = cli("preprocess", "-c", command, *options, "--dry-run")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "2 videos of 1 classes: 1 train; 1 missing",
    ), done.stderr


# Importing webdataset imports torch, whose own modules warn of things that are not ours to mend.
@pytest.mark.filterwarnings("ignore")
def test_a_shard_in_the_store_can_be_streamed(store: Store, dataset: Path, tmp_path: Path) -> None:
    from twinstream.train.data.stream import stream_samples

    shutil.copytree(dataset, store.folder / tmp_path.name)
    name = "train/train-000000.tar"
    streamed = [
        list(stream_samples(where))
        for where in (store.uri(f"{tmp_path.name}/{name}"), str(dataset / name))
    ]
    assert [members["__key__"] for members in streamed[0]] == [
        members["__key__"] for members in streamed[1]
    ]
    assert streamed[0][0]["rgb.00003.jpg"] == streamed[1][0]["rgb.00003.jpg"]
