"""The two-branch network: RGB and flow branches that read each other through CMA blocks.

From section 4 of the paper. `nonlocal` (section 5.5) has non-local blocks instead: each branch
reads only itself. `cma_nonlocal` has them in the RGB branch, each with a CMA block behind it, and a
flow branch as in `cma`. Each call names the scores that are wanted (`outputs`) and the branches
that read the other (`attending`); nothing else is computed, so a CMA block that is not trained yet
costs nothing. The price: the branches run in step, one stretch at a time. Scores belong to a
snippet; those of a video are their mean (`consensus`).
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from twinstream.train.choices import (
    BOTH,
    BRANCHES,
    DROPOUT,
    OTHER,
    WITH_CMA,
    AttentionAt,
    BranchName,
    ModelKind,
    Trainable,
)
from twinstream.train.network.branch import RGB_CHANNELS, Branch
from twinstream.train.network.families import DEFAULT_FAMILY, find_family
from twinstream.train.settings import ModelSettings
from twinstream.train.snippet_shape import SnippetShape

# Of weights with so many axes; features take it over.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

# Which branches read themselves
NON_LOCAL: dict[ModelKind, tuple[BranchName, ...]] = {
    "nonlocal": BOTH,
    "cma_nonlocal": ("rgb",),
}


class TwoBranch(nn.Module):
    """Snippets in, snippet scores of each branch out; computes only what these scores need."""

    rgb: Branch
    flow: Branch

    def __init__(
        self,
        kind: ModelKind,
        depth: int,
        num_classes: int,
        snippet: SnippetShape | None = None,
        dropout: float = DROPOUT,
        attention_at: AttentionAt | None = None,
        family: str = DEFAULT_FAMILY,
    ) -> None:
        """What is None is as the family has it."""
        super().__init__()
        entry = find_family(family)
        self.snippet = snippet or entry.snippet()
        flow_channels = 2 if self.snippet.has_time else 2 * self.snippet.fields
        in_channels: dict[BranchName, int] = {"rgb": RGB_CHANNELS, "flow": flow_channels}
        self.kind = kind
        self.names = BRANCHES[kind]
        self.has_cma = kind in WITH_CMA
        for name in self.names:
            branch = entry.build_branch(
                depth,
                in_channels[name],
                num_classes,
                dropout,
                has_cma=self.has_cma,
                has_non_local=name in NON_LOCAL.get(kind, ()),
                attention_at=attention_at or entry.attention_at,
            )
            self.add_module(name, branch)
        # The same for all branches of a network, so the last one's will do.
        self.attention_after = branch.attention_after
        # Features take the memory format of the weights: a sixth faster on a CPU, and the format of
        # tensor cores.
        for parameter in self.parameters():
            parameter.data = _in_format(parameter.data)

    def forward(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        *,
        outputs: Collection[BranchName] | None = None,
        attending: Collection[BranchName] | None = None,
    ) -> dict[BranchName, Tensor]:
        """(N, 3, H, W), (N, 2L, H, W) -> (N, num_classes) for each branch in `outputs`.

        A family with a time axis takes (N, 3, T, H, W) and (N, 2, T, H, W).

        `attending` names the branches whose CMA blocks are computed. None means every branch, for
        both. An input that the wanted scores do not need may be None.
        """
        wanted = self.names if outputs is None else tuple(outputs)
        readers = () if not self.has_cma else self.names if attending is None else tuple(attending)
        features = self._before_attention(rgb, flow, wanted, readers)
        return {
            name: self.branch(name).classify(pooled)
            for name, pooled in self._pooled(features, wanted, readers).items()
        }

    def fixed_features(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        learner: BranchName,
        attending: Collection[BranchName],
    ) -> dict[BranchName, Tensor]:
        """Of a snippet all that does not change while part of a branch learns (`train_only`).

        Of the last layer alone its (N, D) input; else the maps before the first attention block, of
        the branch and of what it reads.
        """
        wanted, readers = (learner,), tuple(attending)
        features = self._before_attention(rgb, flow, wanted, readers)
        if self.branch(learner).learning == "fc":
            return self._pooled(features, wanted, readers)
        return features

    def scores_of_fixed(
        self,
        features: dict[BranchName, Tensor],
        learner: BranchName,
        attending: Collection[BranchName],
    ) -> Tensor:
        """(N, num_classes) scores of the branch that learns, from its `fixed_features`."""
        if self.branch(learner).learning != "fc":
            # As they come from the layers before.
            maps = {name: _in_format(x) for name, x in features.items()}
            features = self._pooled(maps, (learner,), tuple(attending))
        return self.branch(learner).classify(features[learner])

    def fixed_names(
        self, learner: BranchName, attending: Collection[BranchName]
    ) -> list[BranchName]:
        """The branches that `fixed_features` has features of."""
        if self.branch(learner).learning == "fc":
            return [learner]
        return self.needed((learner,), tuple(attending))

    def fixed_state(self, learner: BranchName) -> dict[str, Tensor]:
        """The weights that `fixed_features` depend on, by name."""
        if self.branch(learner).learning == "fc":
            return {key: value for key, value in self.state_dict().items() if ".fc." not in key}
        return {
            f"{name}.{number}.{key}": value
            for name in self.names
            for number, module in enumerate(self.branch(name).before_attention)
            for key, value in module.state_dict().items()
        }

    def branch(self, name: BranchName) -> Branch:
        """The branch of that name; ValueError where this kind of model has none."""
        if name not in self.names:
            raise ValueError(
                f"model.kind {self.kind} has no {name} branch, it has {', '.join(self.names)}"
            )
        found: Branch = getattr(self, name)
        return found

    def train_only(
        self, name: BranchName, *, part: Trainable = "all", through_frozen: bool = True
    ) -> None:
        """For one stage of training: that part of the branch learns, the other branch is frozen.

        `through_frozen`: a frozen branch that reads the learning one passes its gradient back.
        """
        # For its ValueError: a wrong name must not leave every branch frozen.
        self.branch(name)
        for each in self.names:
            learning = part if each == name else None
            self.branch(each).set_learning(learning, through_frozen=through_frozen)
        self.train(self.training)

    def needed(
        self, wanted: tuple[BranchName, ...], readers: tuple[BranchName, ...]
    ) -> list[BranchName]:
        """The branches that must run: those wanted, and those that they read."""
        read = {OTHER[name] for name in wanted if name in readers}
        # For the ValueError of `branch`: the list below would leave a wrong name out unseen.
        for name in wanted:
            self.branch(name)
        return [name for name in self.names if name in wanted or name in read]

    def _before_attention(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        wanted: tuple[BranchName, ...],
        readers: tuple[BranchName, ...],
    ) -> dict[BranchName, Tensor]:
        """The maps before the first attention block, of every branch that must run."""
        inputs: dict[BranchName, Tensor | None] = {"rgb": rgb, "flow": flow}
        return {
            name: self.branch(name).run_stretch(_given(inputs[name], name), 0)
            for name in self.needed(wanted, readers)
        }

    def _pooled(
        self,
        features: dict[BranchName, Tensor],
        wanted: tuple[BranchName, ...],
        readers: tuple[BranchName, ...],
    ) -> dict[BranchName, Tensor]:
        """Maps before the first attention block -> (N, D) of the branches that are wanted."""
        for number in range(len(self.attention_after)):
            features = {
                name: self.branch(name).read_itself(x, number) for name, x in features.items()
            }
            # After the last attention block a branch that is only read has nothing left to do.
            last = number == len(self.attention_after) - 1
            features = self._exchange(features, wanted if last else self.names, readers, number)
            features = {
                name: self.branch(name).run_stretch(x, number + 1) for name, x in features.items()
            }
        return {name: self.branch(name).pool(features[name]) for name in wanted}

    def _exchange(
        self,
        features: dict[BranchName, Tensor],
        going_on: tuple[BranchName, ...],
        readers: tuple[BranchName, ...],
        number: int,
    ) -> dict[BranchName, Tensor]:
        """Both directions from the same x and y: neither branch sees the other's new features."""
        return {
            name: self.branch(name).attend(x, features[OTHER[name]], number)
            if name in readers
            else x
            for name, x in features.items()
            if name in going_on
        }


def build_model(model: ModelSettings, num_classes: int) -> TwoBranch:
    """The network of section `model` for that many classes, with random weights."""
    return TwoBranch(
        model.kind,
        model.depth,
        num_classes,
        model.snippet,
        model.dropout,
        model.attention_at,
        model.family,
    )


def attending_branches(model: TwoBranch) -> tuple[BranchName, ...]:
    """The branches whose CMA blocks act: at least one of them is no identity any more."""
    return tuple(
        name
        for name in model.names
        if not all(block.is_identity for block in model.branch(name).cma.values())
    )


def consensus(scores: Tensor, segments: int) -> Tensor:
    """(B * segments, C) snippet scores -> (B, C) mean of each video's rows, at least float32.

    The rows of a video stand together. ValueError where B * segments does not divide.
    """
    if segments < 1 or len(scores) % segments:
        raise ValueError(
            f"{len(scores)} snippet scores cannot be shared among videos of {segments} segments"
        )
    # Autocast gives bfloat16, whose 8 bits are too few to add scores in.
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return wide.reshape(-1, segments, scores.shape[1]).mean(dim=1)


def _in_format(x: Tensor) -> Tensor:
    return x.to(memory_format=FORMATS[x.ndim]) if x.ndim in FORMATS else x


def _given(x: Tensor | None, name: BranchName) -> Tensor:
    if x is None:
        raise ValueError(f"the {name} branch is needed for these scores, but its input is None")
    return x
