"""Parameters that a score needs: what runs is counted, once, and what does not run is not."""

import pytest
import torch

from twinstream.train.choices import BranchName, ModelKind
from twinstream.train.network.parameter_count import branch_parameters, parameters_used
from twinstream.train.network.two_branch import TwoBranch

BOTH: tuple[BranchName, ...] = ("rgb", "flow")


@pytest.mark.parametrize(
    ("kind", "outputs", "attending", "ratio"),
    [
        ("rgb", ("rgb",), (), 1.0),
        ("two_stream", BOTH, (), 2.0009),
        ("two_stream", ("rgb",), (), 1.0),
        ("nonlocal", ("rgb",), (), 1.3021),
        ("nonlocal", BOTH, (), 2.6052),
        ("cma", ("rgb",), ("rgb",), 1.6542),
        ("cma", ("rgb",), BOTH, 1.8700),
        ("cma", BOTH, ("rgb",), 2.3030),
        ("cma", BOTH, BOTH, 2.6052),
        ("cma_nonlocal", ("rgb",), ("rgb",), 1.9564),
    ],
)
def test_parameters_relative_to_one_resnet50_of_400_classes(
    kind: ModelKind,
    outputs: tuple[BranchName, ...],
    attending: tuple[BranchName, ...],
    ratio: float,
) -> None:
    with torch.device("meta"):
        model = TwoBranch(kind, 50, 400)
    used = parameters_used(model, outputs, attending)
    assert used / branch_parameters(50, 400) == pytest.approx(ratio, abs=1e-4)


def test_counting_leaves_no_hook_behind() -> None:
    with torch.device("meta"):
        model = TwoBranch("cma", 18, 5)
    parameters_used(model, ("rgb",), ("rgb",))
    assert not any(module._forward_pre_hooks for module in model.modules())
