"""Late fusion learns as one linear layer over both branches' features would, and goes on."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.proofs.late_fusion import late_fusion, train_late_fusion
from tests.support.datasets import write_dataset
from tests.support.training import kill_after, losses, make_settings
from twinstream.train.checkpoint import load_checkpoint
from twinstream.train.fit import train
from twinstream.train.run_folder import RunSettings
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.predictions import read_predictions

FUSED = ("model.kind=two_stream", "train.stages=[rgb]", "model.dropout=0")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """The settings of a late fusion that begins with a two-stream run."""
    folder = tmp_path_factory.mktemp("late_fusion")
    dataset = write_dataset(folder / "shards", {"train": 4, "test": 2})
    base = make_settings(
        dataset, "model.kind=two_stream", "train.stages=[flow, rgb]", "train.epochs=1"
    )
    train(base, folder / "base", resume=False)
    return make_settings(dataset, *FUSED, f"model.weights={folder / 'base' / 'rgb.safetensors'}")


def test_its_gradient_is_that_of_one_layer_over_both_features(begun: RunSettings) -> None:
    model = late_fusion(begun, num_classes=2)
    model.train_only("rgb")
    rgb, flow, labels = torch.rand(2, 3, 40, 40), torch.rand(2, 10, 40, 40), torch.tensor([0, 1])
    scores = model(rgb, flow, outputs=("rgb",), attending=())["rgb"]
    F.cross_entropy(scores, labels).backward()

    features = []
    for name, x in (("rgb", rgb), ("flow", flow)):
        model.branch(name).fc.register_forward_hook(lambda _, given, __: features.append(given[0]))
        model.branch(name)(x)
    both = torch.cat([each.detach() for each in features], dim=1)
    layers = [model.rgb.fc, model.flow.fc]
    weight = torch.cat([each.weight for each in layers], 1).detach().requires_grad_()
    bias = (layers[0].bias + layers[1].bias).detach().requires_grad_()
    written_out = F.linear(both, weight, bias)
    torch.testing.assert_close(scores, written_out)
    F.cross_entropy(written_out, labels).backward()
    given = torch.cat([each.weight.grad for each in layers], 1)
    torch.testing.assert_close(given, weight.grad)
    for name in model.names:
        assert model.branch(name).conv1.weight.grad.abs().sum() > 0


def test_both_branches_learn_and_a_stop_changes_no_loss(
    begun: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_late_fusion(begun, tmp_path / "whole")
    with monkeypatch.context() as patched:
        kill_after(3, patched)
        with pytest.raises(KeyboardInterrupt):
            train_late_fusion(begun, tmp_path / "stopped")
    train_late_fusion(begun, tmp_path / "stopped")
    # Once more: there is nothing left to do.
    train_late_fusion(begun, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 4
    score_run(tmp_path / "whole", begun.test)
    found = read_predictions(tmp_path / "whole" / "predictions.parquet")
    assert {*found.scores} == {"rgb", "flow"}
    first = read_state(begun.model.weights or "")
    last = read_state(tmp_path / "whole" / "checkpoint.pt")
    for name in ("rgb", "flow"):
        assert not torch.equal(first[f"{name}.conv1.weight"], last[f"{name}.conv1.weight"])


def read_state(path: Path | str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(path)).model
