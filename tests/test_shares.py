"""What a worker takes of a machine: tables of machines, and what fits them."""

from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess import stage
from twinstream.preprocess.run import preprocess
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.preprocess.shares import (
    Node,
    Share,
    cluster_engine,
    default_chunk_frames,
    worker_share,
)
from twinstream.shards.settings import ShardSettings


@pytest.mark.parametrize(
    ("nodes", "workers_per_gpu", "cores_per_gpu", "share"),
    [
        ([Node(16, 1)], 4, None, Share(4, 0.25)),
        ([Node(16, 1)], 4, 8, Share(2, 0.25)),
        ([Node(16, 1)], 4, 999, Share(4, 0.25)),
        ([Node(16, 1)], 1, None, Share(16, 1.0)),
        ([Node(3, 1)], 4, None, Share(1, 1 / 3)),
        ([Node(64, 8)], 4, None, Share(2, 0.25)),
        ([Node(4, 8)], 4, None, Share(1, 1.0)),
        ([Node(2, 0), Node(64, 4), Node(16, 2)], 4, None, Share(2, 0.25)),
        ([Node(8, 0)], 4, None, Share(1, 0.0)),
    ],
)
def test_workers_with_cuda_share_gpus_and_the_cores_beside_them(
    nodes: list[Node], workers_per_gpu: int, cores_per_gpu: int | None, share: Share
) -> None:
    found = worker_share(
        "cuda", nodes, threads=3, workers_per_gpu=workers_per_gpu, cores_per_gpu=cores_per_gpu
    )
    assert found == share
    for node in nodes:
        if node.gpus:
            places = min(node.cores // found.cores, round(node.gpus / found.gpu))
            assert places >= node.gpus or node.cores < node.gpus


def test_workers_of_a_cpu_engine_take_their_threads() -> None:
    nodes = [Node(2), Node(8, 1)]
    assert worker_share("numba", nodes, threads=8, workers_per_gpu=4, cores_per_gpu=1) == Share(
        8, 0.0
    )
    with pytest.raises(
        InputError, match=r"preprocess\.threads is 9; no node has more than 8 CPU cores"
    ):
        worker_share("numba", nodes, threads=9, workers_per_gpu=4, cores_per_gpu=None)


def test_a_clusters_engine_is_decided_by_its_nodes() -> None:
    without, mixed = [Node(2), Node(8)], [Node(2), Node(8, 1)]
    assert [cluster_engine(name, mixed) for name in ("auto", "cuda", "numba")] == [
        "cuda",
        "cuda",
        "numba",
    ]
    assert [cluster_engine(name, without) for name in ("auto", "opencv")] == ["numba", "opencv"]
    with pytest.raises(
        InputError, match=r"^engine: cuda needs a GPU, and no node[^\n]*; use `engine: numba`$"
    ):
        cluster_engine("cuda", without)


@pytest.mark.parametrize(
    ("engine", "width", "height", "frames"),
    [
        ("numba", 256, 256, 32),
        ("cuda", 16, 16, 256),
        ("cuda", 256, 256, 256),
        ("cuda", 512, 340, 128),
        ("cuda", 4096, 4096, 32),
    ],
)
def test_a_gpu_gets_many_frames_at_once_as_long_as_they_are_small(
    engine: str, width: int, height: int, frames: int
) -> None:
    assert default_chunk_frames(engine, width, height) == frames


def test_the_engine_of_a_cluster_is_not_that_of_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.avi").touch()
    dataset = DatasetSettings(kind="folders", root=str(tmp_path))
    shards = ShardSettings(path=str(tmp_path / "out"))
    for nodes, engine in (([Node(2), Node(8, 1)], "cuda"), ([Node(2)], "numba")):
        monkeypatch.setattr(stage, "cluster_nodes", lambda address, nodes=nodes: nodes)
        preprocess(dataset, PreprocessSettings(), shards, address="10.0.0.1:6379", dry_run=True)
        assert f"engine {engine}\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="no node of the cluster has one; use `engine: numba`"):
        preprocess(
            dataset,
            PreprocessSettings(engine="cuda"),
            shards,
            address="10.0.0.1:6379",
            dry_run=True,
        )
