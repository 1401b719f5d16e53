"""Reading chosen members, and saying where it does not fit."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from twinstream.errors import InputError
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames, read_meta


def test_frames_and_flow_are_those_asked_for(dataset: Path) -> None:
    data = ShardDataset(dataset)
    sample = data.sample("right/train1")
    frames = read_frames(sample, [5, 0, 3])
    assert frames.shape == (3, 24, 32, 3)
    assert (
        np.abs(
            frames.astype(int) - np.array([(50, 0, 0), (0, 0, 0), (30, 0, 0)])[:, None, None]
        ).max()
        <= 2
    )
    flow = data.flow_pixels(read_flow(sample, 2, 4))
    assert flow.shape == (4, 24, 32, 2)
    assert np.abs(flow[..., 0] - np.array([2, 3, 4, 5])[:, None, None]).max() < 0.1
    assert (flow[..., 1] == 0).all()


def test_splits_hold_their_samples_and_the_json_is_read(dataset: Path) -> None:
    data = ShardDataset(dataset)
    assert sorted(sample.index.key for sample in data.samples("test")) == [
        "left/test0",
        "right/test1",
    ]
    meta = read_meta(data.sample("left/train2"))
    assert (meta.class_name, meta.label, meta.num_frames, meta.source_width) == ("left", 0, 9, 64)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (6, 2), (8, 1)])
def test_flow_beyond_the_end_is_refused(dataset: Path, start: int, length: int) -> None:
    sample = ShardDataset(dataset).sample("right/train1")
    with pytest.raises(InputError, match="right/train1: flow field"):
        read_flow(sample, start, length)


def test_unknown_splits_and_keys_are_named_with_what_there_is(dataset: Path) -> None:
    data = ShardDataset(dataset)
    with pytest.raises(InputError, match="no split 'val'; it has test, train"):
        data.samples("val")
    with pytest.raises(InputError, match="no sample 'x' among 5"):
        data.sample("x")


def test_a_damaged_member_names_shard_and_key(dataset: Path) -> None:
    sample = ShardDataset(dataset).sample("left/train0")
    data = bytearray(sample.tar.read_bytes())
    begin = int(sample.index.offsets[3])
    data[begin : begin + int(sample.index.sizes[3])] = bytes(int(sample.index.sizes[3]))
    sample.tar.write_bytes(data)
    with pytest.raises(
        InputError, match=rf"{sample.tar.name}: left/train0: frame 2: .* do not decode"
    ):
        read_frames(sample, [2])


def test_a_truncated_shard_is_told(dataset: Path) -> None:
    sample = ShardDataset(dataset).sample("left/train0")
    sample.tar.write_bytes(sample.tar.read_bytes()[:3000])
    with pytest.raises(InputError, match="the shard ends at byte"):
        read_flow(sample, 0, 5)


def test_a_sample_travels_to_another_process(dataset: Path) -> None:
    sample = pickle.loads(pickle.dumps(ShardDataset(dataset).sample("left/train0")))
    assert len(read_frames(sample, [0])) == 1


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dataset\.json"):
        ShardDataset(tmp_path)


def test_another_format_version_is_told(dataset: Path) -> None:
    manifest = dataset / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="shard format 2; this twinstream reads format 1"):
        ShardDataset(dataset)
