"""The two-branch network: RGB and flow branches that read each other through CMA blocks (paper,
section 4).

`nonlocal` is the paper's rival (section 5.5): two branches with non-local blocks, each reading only
itself; `cma_nonlocal` has them in the RGB branch, a CMA block behind each, and a flow branch as in
`cma`.

At every place both directions are computed from the same x and y, before either branch goes on.
Each call says whose scores are wanted (`outputs`) and which branches read the other (`attending`),
and nothing beyond that is computed: a block that is still the identity is never paid for, and for
the RGB scores alone the flow branch stops at its last place. Scores are a snippet's; a video's are
their mean (`consensus`).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from twinstream.shards.settings import DEFAULT_STACK_LENGTH
from twinstream.train.choices import (
    BOTH,
    BRANCHES,
    DROPOUT,
    EVERY_OTHER,
    WITH_CMA,
    AttentionAt,
    BranchName,
    ModelKind,
)
from twinstream.train.network.branch import RGB_CHANNELS, Branch
from twinstream.train.settings import ModelSettings

# Which branches read themselves
NON_LOCAL: dict[ModelKind, tuple[BranchName, ...]] = {
    "nonlocal": BOTH,
    "cma_nonlocal": ("rgb",),
}
OTHER: dict[BranchName, BranchName] = {"rgb": "flow", "flow": "rgb"}


class TwoBranch(nn.Module):
    """Snippets in, snippet scores of each branch out; computes no more than the scores asked for
    need.
    """

    rgb: Branch
    flow: Branch

    def __init__(
        self,
        kind: ModelKind,
        depth: int,
        num_classes: int,
        stack_length: int = DEFAULT_STACK_LENGTH,
        dropout: float = DROPOUT,
        attention_at: AttentionAt = EVERY_OTHER,
    ) -> None:
        super().__init__()
        in_channels: dict[BranchName, int] = {"rgb": RGB_CHANNELS, "flow": 2 * stack_length}
        self.kind = kind
        self.names = BRANCHES[kind]
        self.has_cma = kind in WITH_CMA
        for name in self.names:
            branch = Branch(
                depth,
                in_channels[name],
                num_classes,
                dropout,
                has_cma=self.has_cma,
                has_non_local=name in NON_LOCAL.get(kind, ()),
                attention_at=attention_at,
            )
            self.add_module(name, branch)
        # All branches of a network have the same ones.
        self.places = branch.places
        # What the convolutions put out follows their weights. A sixth faster on a CPU, and what
        # tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        *,
        outputs: Collection[BranchName] | None = None,
        attending: Collection[BranchName] | None = None,
    ) -> dict[BranchName, Tensor]:
        """(N, 3, H, W), (N, 2L, H, W) -> (N, num_classes) for each branch in `outputs`.

        `attending` names the branches whose CMA blocks are computed. Left out, both mean every
        branch. An input that nothing asked for depends on may be None.
        """
        wanted = self.names if outputs is None else tuple(outputs)
        readers = () if not self.has_cma else self.names if attending is None else tuple(attending)
        inputs: dict[BranchName, Tensor | None] = {"rgb": rgb, "flow": flow}
        features = {name: _given(inputs[name], name) for name in self._needed(wanted, readers)}
        for number in range(len(self.places)):
            features = {
                name: self.branch(name).run_stretch(x, number) for name, x in features.items()
            }
            # Behind the last place a branch that is only read has no more to do.
            last = number == len(self.places) - 1
            features = self._exchange(features, wanted if last else self.names, readers, number)
        return {name: self._finish(name, features[name]) for name in wanted}

    def branch(self, name: BranchName) -> Branch:
        """The branch of that name, or a ValueError where this kind of model has none."""
        if name not in self.names:
            raise ValueError(
                f"model.kind {self.kind} has no {name} branch, it has {', '.join(self.names)}"
            )
        found: Branch = getattr(self, name)
        return found

    def freeze(self, name: BranchName) -> None:
        """No gradient, fixed BatchNorm statistics, no dropout in that branch, CMA
        blocks included.
        """
        self.branch(name).set_frozen(True)

    def train_only(self, name: BranchName) -> None:
        """One stage's choice: that branch learns, the other is frozen."""
        # A ValueError for a name that is not there, before anything is frozen.
        self.branch(name)
        for each in self.names:
            self.branch(each).set_frozen(each != name)
        self.train(self.training)

    def _needed(
        self, wanted: tuple[BranchName, ...], readers: tuple[BranchName, ...]
    ) -> list[BranchName]:
        read = {OTHER[name] for name in wanted if name in readers}
        for name in wanted:
            self.branch(name)
        return [name for name in self.names if name in wanted or name in read]

    def _exchange(
        self,
        features: dict[BranchName, Tensor],
        going_on: tuple[BranchName, ...],
        readers: tuple[BranchName, ...],
        number: int,
    ) -> dict[BranchName, Tensor]:
        """Both directions from the same x and y: no branch sees what the other has just
        been given.
        """
        return {
            name: self.branch(name).attend(x, features[OTHER[name]], number)
            if name in readers
            else x
            for name, x in features.items()
            if name in going_on
        }

    def _finish(self, name: BranchName, x: Tensor) -> Tensor:
        branch = self.branch(name)
        return branch.classify(branch.run_stretch(x, len(self.places)))


def build_model(model: ModelSettings, num_classes: int) -> TwoBranch:
    """The network of section `model` for that many classes, with random weights."""
    return TwoBranch(
        model.kind,
        model.depth,
        num_classes,
        model.stack_length,
        model.dropout,
        attention_at=model.attention_at,
    )


def consensus(scores: Tensor, segments: int) -> Tensor:
    """(B * segments, C) snippet scores, a video's rows together -> (B, C) their mean, at least
    float32.
    """
    if segments < 1 or len(scores) % segments:
        raise ValueError(
            f"{len(scores)} snippet scores cannot be shared among videos of {segments} segments"
        )
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return wide.reshape(-1, segments, scores.shape[1]).mean(dim=1)


def _given(x: Tensor | None, name: BranchName) -> Tensor:
    if x is None:
        raise ValueError(f"the {name} branch is needed for these scores, but its input is None")
    return x
