"""Which branch learns and which attend, stage by stage."""

import pytest

from twinstream.errors import InputError
from twinstream.train.network.stages import Stage, plan_stages


def test_the_paper_trains_flow_then_the_branches_in_turn() -> None:
    assert plan_stages(["flow", "iter1", "iter2", "iter3"], "cma") == [
        Stage("flow", "flow", ()),
        Stage("iter1", "rgb", ("rgb",)),
        Stage("iter2", "flow", ("rgb", "flow")),
        Stage("iter3", "rgb", ("rgb", "flow")),
    ]


def test_the_baselines_train_each_branch_by_itself() -> None:
    assert [(s.trains, s.attending) for s in plan_stages(["flow", "rgb"], "two_stream")] == [
        ("flow", ()),
        ("rgb", ()),
    ]


def test_cma_behind_non_local_blocks_is_trained_as_cma_is() -> None:
    assert plan_stages(["flow", "iter1", "iter2"], "cma_nonlocal") == plan_stages(
        ["flow", "iter1", "iter2"], "cma"
    )


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (
            ["flow", "iter1"],
            "two_stream",
            "iter1 trains attention, which model.kind two_stream has not",
        ),
        (
            ["flow", "iter1"],
            "nonlocal",
            "iter1 trains attention, which model.kind nonlocal has not; use cma",
        ),
        (["flow"], "rgb", "flow trains the flow branch, which model.kind rgb has not"),
        (
            ["iter1", "rgb"],
            "cma",
            "rgb trains a branch by itself and must come before every iter stage",
        ),
        (["flow", "flow"], "two_stream", "names a stage twice"),
    ],
)
def test_stages_that_make_no_sense_are_refused(names: list[str], kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_stages(names, kind)
