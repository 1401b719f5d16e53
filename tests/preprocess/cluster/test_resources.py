"""What a worker takes of a machine: tables of machines, and what fits them."""

from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.cluster import session
from twinstream.preprocess.cluster.resources import (
    Node,
    WorkerResources,
    cluster_engine,
    default_chunk_frames,
    num_workers_that_fit,
    worker_resources,
)
from twinstream.preprocess.run import preprocess
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.shards.settings import ShardSettings


@pytest.mark.parametrize(
    ("nodes", "workers_per_gpu", "cores_per_gpu", "expected"),
    [
        ([Node(16, 1)], 4, None, WorkerResources(4, 0.25)),
        ([Node(16, 1)], 4, 8, WorkerResources(2, 0.25)),
        ([Node(16, 1)], 4, 999, WorkerResources(4, 0.25)),
        ([Node(16, 1)], 1, None, WorkerResources(16, 1.0)),
        ([Node(3, 1)], 4, None, WorkerResources(1, 1 / 3)),
        ([Node(64, 8)], 4, None, WorkerResources(2, 0.25)),
        ([Node(4, 8)], 4, None, WorkerResources(1, 1.0)),
        ([Node(2, 0), Node(64, 4), Node(16, 2)], 4, None, WorkerResources(2, 0.25)),
        ([Node(8, 0)], 4, None, WorkerResources(1, 0.0)),
    ],
)
def test_workers_with_cuda_share_gpus_and_the_cores_beside_them(
    nodes: list[Node], workers_per_gpu: int, cores_per_gpu: int | None, expected: WorkerResources
) -> None:
    found = worker_resources(
        "cuda", nodes, threads=3, workers_per_gpu=workers_per_gpu, cores_per_gpu=cores_per_gpu
    )
    assert found == expected
    for node in nodes:
        if node.gpus:
            num_workers = min(node.cores // found.cores, round(node.gpus / found.gpu))
            assert num_workers >= node.gpus or node.cores < node.gpus


def test_workers_of_a_cpu_engine_take_their_threads() -> None:
    nodes = [Node(2), Node(8, 1)]
    assert worker_resources(
        "numba", nodes, threads=8, workers_per_gpu=4, cores_per_gpu=1
    ) == WorkerResources(8, 0.0)
    with pytest.raises(
        InputError, match=r"preprocess\.threads is 9; no node has more than 8 CPU cores"
    ):
        worker_resources("numba", nodes, threads=9, workers_per_gpu=4, cores_per_gpu=None)


def test_a_clusters_engine_is_decided_by_its_nodes() -> None:
    without, mixed = [Node(2), Node(8)], [Node(2), Node(8, 1)]
    newer = [Node(2), Node(8, 1, has_clusters=True)]
    assert cluster_engine("auto", newer) == "resident"
    assert cluster_engine("auto", [*newer, *mixed]) == "cuda"
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
    ("resources", "gpu", "cores", "count"),
    [
        ({"CPU": 16, "GPU": 1}, 0.25, 1, 4),
        ({"CPU": 16, "GPU": 1}, 0.25, 8, 2),
        ({"CPU": 16, "GPU": 1}, 0.0, 1, 16),
        ({"CPU": 2, "GPU": 8}, 0.5, 1, 2),
        ({"CPU": 4}, 1, 1, 0),
        ({"CPU": 7}, 0.0, 2, 3),
    ],
)
def test_there_are_as_many_workers_as_fit(
    resources: dict[str, float], gpu: float, cores: int, count: int
) -> None:
    assert num_workers_that_fit(resources, WorkerResources(cores, gpu)) == count


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
        monkeypatch.setattr(session, "cluster_nodes", lambda address, nodes=nodes: nodes)
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
