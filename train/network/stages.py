"""The stages of training (paper, section 4.3): which branch learns in each, and which attend.

    flow   flow alone            iter1  RGB learns, attending to the frozen flow branch
    rgb    RGB alone             iter2  flow learns, attending to RGB, which attends to it

The CMA blocks of a branch are the identity until a stage has trained them. So a branch attends from
its own first `iter` stage on; before that its blocks are not computed. Where the first weights are
those of another run, their trained blocks act from the first stage on (`with_acting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinstream.errors import InputError
from twinstream.train.choices import BOTH, BRANCHES, WITH_CMA, BranchName, ModelKind, iteration


@dataclass(frozen=True)
class Stage:
    """One stage: the branch that learns, and the branches whose CMA blocks are computed."""

    name: str
    trains: BranchName
    attending: tuple[BranchName, ...]


def plan_stages(names: Sequence[str], kind: ModelKind) -> list[Stage]:
    """flow iter1 iter2 -> flow learns, none attends; rgb learns, rgb attends; flow, both attend.

    InputError for stages that the kind of model does not have, a wrong order or a name twice.
    """
    stages: list[Stage] = []
    attending: tuple[BranchName, ...] = ()
    for name in names:
        trains = _learner(name)
        if trains not in BRANCHES[kind]:
            raise InputError(
                f"train.stages: {name} trains the {trains} branch, which model.kind {kind} has not"
            )
        if iteration(name):
            if kind not in WITH_CMA:
                raise InputError(
                    f"train.stages: {name} trains attention, which model.kind {kind} has not; use "
                    "cma"
                )
            # Once trained, the CMA blocks of a branch stay in use in all later stages.
            attending = (*attending, *({trains} - {*attending}))
        # Blocks once trained stay in use, so this stage would not train its branch by itself.
        elif attending:
            raise InputError(
                f"train.stages: {name} trains a branch by itself and must come before every iter "
                "stage"
            )
        stages.append(Stage(name, trains, attending))
    # Their files are named after them: the second would replace the first.
    if len({*names}) != len(names):
        raise InputError(f"train.stages: {', '.join(names)} names a stage twice")
    return stages


def with_acting(stage: Stage, acting: Sequence[BranchName]) -> Stage:
    """The stage with these branches attending too: those whose blocks are trained already."""
    both = {*stage.attending, *acting}
    return replace(stage, attending=tuple(name for name in BOTH if name in both))


def _learner(stage: str) -> BranchName:
    if not iteration(stage):
        return "rgb" if stage == "rgb" else "flow"
    return "rgb" if iteration(stage) % 2 else "flow"
