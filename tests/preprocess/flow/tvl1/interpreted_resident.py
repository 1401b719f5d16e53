"""The `resident` engine from frames to flow without a GPU: pyramids in Triton's interpreter, levels
in the emulator. Started by `test_cuda_engine.py` like `interpreted_tvl1.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.preprocess.flow.tvl1.emulator.chip import EmulatedChip
from tests.preprocess.flow.tvl1.interpreted_tvl1 import moving
from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.tvl1 import cuda_engine, resident_engine
from twinstream.preprocess.flow.tvl1.cuda_engine import PairBatch, open_cuda
from twinstream.preprocess.flow.tvl1.reference import reference_flow
from twinstream.preprocess.flow.tvl1.resident_engine import ResidentEngine


def test_resident_pairs_have_the_references_flow_in_batches_of_any_size(tmp_path: Path) -> None:
    params = TvL1Params(warps=2, epsilon=0.05, iterations=10)
    frames = moving(0, 0.5, 2.0, height=20, width=24)
    engine = ResidentEngine(params, torch.device("cpu"), 1 << 30)
    engine.chip = EmulatedChip(tmp_path)
    flow = engine(frames)
    for t in range(2):
        expected = reference_flow(frames[t], frames[t + 1], params)
        assert np.linalg.norm(flow[t] - expected, axis=-1).max() < 1e-3
    assert engine.pixel_iterations > 0
    assert sorted(engine.places) == [(16, 19), (20, 24)]
    engine.max_bytes = 1
    assert np.array_equal(engine(frames), flow)


def test_where_memory_ends_the_streams_are_waited_for_and_batches_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = TvL1Params(scales=1, warps=1, epsilon=0, iterations=2)
    frames = moving(0, 0.5, 2.0, 1.0, 1.5, 0.5, 0.25, 0, height=16, width=16)
    chip = EmulatedChip(tmp_path)

    def opened() -> ResidentEngine:
        engine = ResidentEngine(params, torch.device("cpu"), 1 << 30)
        engine.chip = chip
        return engine

    expected = opened().stored(frames, 20.0)
    quantized, tries, full = cuda_engine.quantized, [], {0, 1, 3}
    wait, waits = ResidentEngine.wait, []

    def waited(engine: ResidentEngine) -> None:
        waits.append(len(tries))
        wait(engine)

    monkeypatch.setattr(ResidentEngine, "wait", waited)

    def full_at_times(flow: Tensor, bound: float, sums: Tensor) -> Tensor:
        tries.append(len(flow))
        if len(tries) - 1 in full:
            raise torch.OutOfMemoryError("simulated")
        return quantized(flow, bound, sums)

    monkeypatch.setattr(cuda_engine, "quantized", full_at_times)
    stored = opened().stored(frames, 20.0)
    # The one pair that did not fit beside the batch before fits when that is done.
    assert tries == [7, 3, 1, 1, 1, *5 * [1]]
    assert waits == [1, 2, 4, 10]
    assert np.array_equal(stored.planes, expected.planes)
    assert stored.statistics == expected.statistics
    tries.clear()
    full = set(range(9))
    with pytest.raises(InputError, match="no memory for one pair of 16x16"):
        opened().stored(frames, 20.0)
    assert tries == [7, 3, 1]


def test_a_level_that_no_cluster_holds_is_that_of_cuda(tmp_path: Path) -> None:
    params = TvL1Params(warps=1, epsilon=0, iterations=2)
    frames = moving(0, 0.5, height=16, width=16)
    engine = ResidentEngine(params, torch.device("cpu"), 1 << 30)
    engine.chip = EmulatedChip(tmp_path)
    engine.chip.shared_bytes = 0
    assert np.array_equal(engine(frames), open_cuda(params)(frames))


def test_large_batches_are_for_levels_that_no_cluster_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_engine, "PAIRS_OF_BATCH", 1)
    frames = moving(0, 0.5, 2.0, height=16, width=16)
    sizes: list[int] = []
    batch_flow = ResidentEngine.batch_flow

    def counted(engine: ResidentEngine, batch: PairBatch) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch.first))
        return batch_flow(engine, batch)

    monkeypatch.setattr(ResidentEngine, "batch_flow", counted)
    for params in (TvL1Params(warps=1, epsilon=0, iterations=2), TvL1Params(warps=1, median=3)):
        engine = ResidentEngine(params, torch.device("cpu"), 1 << 30)
        engine.chip = EmulatedChip(tmp_path)
        engine(frames)
    assert sizes == [1, 1, 2]
