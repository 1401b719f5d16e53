"""One branch of any family: residual blocks, and the attention blocks that write into it.

A family (`families`) subclasses `Branch` and says how its layers are made and run. By default
attention blocks follow every other residual block of res3 and res4 (torchvision's layer2 and
layer3): 2 + 3 = 5 for ResNet-50 (paper, sections 4.1 and 5.5). They cut the branch into stretches.
Behind a stretch the branch first reads itself (non-local block), then the other branch (CMA
block). A non-local block (Wang et al., 2018) is a CMA block with x = y. The trap: from iter2 on a
frozen branch reads the branch that learns. Its weights stay, but the gradient goes back through it,
as the formula says; `through_frozen` False drops that part, which is cheaper and another gradient.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twinstream.errors import InputError
from twinstream.train.choices import EVERY_OTHER, LAST_OF_RES4, AttentionAt, BranchName, Trainable
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.weight_files import Adapted, State

RGB_CHANNELS = 3
CLASSIFIER_STD = 0.001
RES3, RES4 = "layer2.", "layer3."
# Children of a branch that no family makes
ATTENTION_AND_DROPOUT = ("non_local", "cma", "dropout")


class Branch(nn.Module, ABC):
    """A residual network cut at its attention blocks: snippets -> (N, num_classes) scores.

    Its residual blocks are those of `layer1` to `layer4` (res2 to res5), its classifier is `fc`.
    """

    family: ClassVar[str]
    first_convolution: ClassVar[str] = "conv1.weight"
    marks: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    )
    """Names that every network of this family has in a file, whatever stands before them; a further
    group for each other spelling that `adapted` knows
    """
    behind_blocks: ClassVar[tuple[str, ...]] = ("fc",)
    """Its children with weights that stand behind the last residual block"""
    avgpool: nn.Module
    fc: nn.Linear

    def __init__(
        self,
        depth: int,
        in_channels: int,
        num_classes: int,
        dropout: float,
        *,
        has_cma: bool = False,
        has_non_local: bool = False,
        attention_at: AttentionAt = EVERY_OTHER,
    ) -> None:
        super().__init__()
        self.add_layers(depth, in_channels, num_classes)
        # As in TSN: scores near zero, so that the first loss is log(num_classes) and no class is
        # preferred.
        nn.init.normal_(self.fc.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(self.fc.bias)
        self.dropout = nn.Dropout(dropout)
        self.depth, self.in_channels = depth, in_channels
        self.learning: Trainable | None = "all"
        self.through_frozen = True
        # Names of residual blocks, not modules: nothing of it enters the state_dict.
        blocks = residual_blocks(self)
        self.attention_after: tuple[str, ...] = ()
        if has_cma or has_non_local:
            self.attention_after = blocks_before_attention(blocks, attention_at)
        self.stretches = cut_at(blocks, self.attention_after)
        self.non_local = _blocks(self, self.attention_after if has_non_local else ())
        self.cma = _blocks(self, self.attention_after if has_cma else ())

    @abstractmethod
    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        """Add the modules with random weights: `layer1` to `layer4`, `avgpool`, `fc`, the others.

        Modules are kept under one name only: some are replaced later.
        """

    @abstractmethod
    def begin(self, x: Tensor) -> Tensor:
        """From the input to that of the first residual block."""

    def run_block(self, name: str, x: Tensor) -> Tensor:
        """A residual block, and what the family has before it."""
        out: Tensor = self.get_submodule(name)(x)
        return out

    @property
    def label(self) -> str:
        """resnet18."""
        return f"{self.family}{self.depth}"

    def imagenet_state(self, name: BranchName) -> State:
        """ImageNet weights for `adapted`; InputError that names the setting of that branch."""
        raise InputError(
            f"model.{name}_weights: there are no imagenet weights of {self.family}; name a file, "
            "or null to start from random weights"
        )

    def adapted(self, state: State, where: str) -> Adapted:
        """Weights of another tool or family with the names and shapes of this one, and how.

        What is not known comes back as it is, and is refused later by the names that do not fit;
        InputError that begins with `where` for what is known and cannot be used.
        """
        return Adapted(state)

    def forward(self, x: Tensor) -> Tensor:
        """The branch by itself, without the other: (N, in_channels, ...) -> (N, num_classes)."""
        for number in range(len(self.stretches)):
            x = self.read_itself(self.run_stretch(x, number), number)
        return self.classify(self.pool(x))

    def run_stretch(self, x: Tensor, number: int) -> Tensor:
        """From the end of stretch `number` - 1 to the end of stretch `number`.

        Stretch 0 begins at the input, the last one ends at the last residual block. For attention
        blocks `read_itself` and `attend` are called.
        """
        with self._gradient():
            if number == 0:
                x = self.begin(x)
            for name in self.stretches[number]:
                x = self.run_block(name, x)
        return x

    def read_itself(self, x: Tensor, number: int) -> Tensor:
        """x (N, C, ...) after the non-local block behind stretch `number`, if there is one."""
        # The last stretch ends before the classifier, where no attention block stands.
        if not self.non_local or number == len(self.attention_after):
            return x
        with self._gradient():
            out: Tensor = self.non_local[_key(self.attention_after[number])](x, x)
        return out

    def attend(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """x (N, C, ...) of this branch after its CMA block `number` has read y of the other."""
        with self._gradient():
            out: Tensor = self.cma[_key(self.attention_after[number])](x, y)
        return out

    def pool(self, x: Tensor) -> Tensor:
        """(N, D, ...) -> (N, D): mean over the positions."""
        with self._gradient():
            features: Tensor = self.avgpool(x).flatten(1)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, num_classes): dropout, linear layer."""
        with self._gradient():
            scores: Tensor = self.fc(self.dropout(features))
        return scores

    def set_learning(self, part: Trainable | None, *, through_frozen: bool = True) -> None:
        """Which layers learn; None: none of them.

        The others are frozen: weights stay, BatchNorm and dropout as at test. With `through_frozen`
        a gradient goes back through a frozen branch to what it has read. InputError for layers
        behind attention where no attention block is.
        """
        self.learning, self.through_frozen = part, through_frozen
        # What needs no gradient is left out of the optimizer, and of the sum over the ranks.
        self.requires_grad_(part is not None)
        for module in self._still(part):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but what is frozen stays in evaluation mode."""
        super().train(mode and self.learning is not None)
        for module in self._still(self.learning):
            module.eval()
        return self

    def _still(self, part: Trainable | None) -> list[nn.Module]:
        """The modules that are frozen while that part learns."""
        if part is None or part == "all":
            return []
        if part == "fc":
            return [child for name, child in self.named_children() if name not in ("dropout", "fc")]
        if not self.attention_after:
            raise InputError("train.trainable: behind_attention, but this model.kind has none")
        return self.before_attention

    @property
    def before_attention(self) -> list[nn.Module]:
        """The modules up to the first attention block."""
        stages = {name.partition(".")[0] for stretch in self.stretches for name in stretch}
        behind = {*stages, *ATTENTION_AND_DROPOUT, *self.behind_blocks}
        before = [child for name, child in self.named_children() if name not in behind]
        return before + [self.get_submodule(name) for name in self.stretches[0]]

    def _gradient(self) -> torch.set_grad_enabled:
        # Frozen weights need no graph of their own: there is one only behind what the branch reads.
        keeps_graph = self.through_frozen or self.learning is not None
        return torch.set_grad_enabled(torch.is_grad_enabled() and keeps_graph)


def blocks_before_attention(blocks: list[str], attention_at: AttentionAt) -> tuple[str, ...]:
    """Those of a network's residual blocks that an attention block follows, in their order.

    every_other, ResNet-50: layer2.1 layer2.3 layer3.1 layer3.3 layer3.5. Depth 18 has 2 of them,
    34 and 50 have 5, 101 has 13, 152 has 22. InputError for a block that is not there.
    """
    if attention_at == EVERY_OTHER:
        return tuple(
            name
            for name in blocks
            if name.startswith((RES3, RES4)) and int(name.rpartition(".")[2]) % 2
        )
    if attention_at == LAST_OF_RES4:
        return tuple([name for name in blocks if name.startswith(RES4)][-1:])
    for name in attention_at:
        if name not in blocks:
            raise InputError(
                f"model.attention_at: {name} is no residual block of this depth; "
                f"{', '.join(blocks)} are"
            )
    # In the order of the network, whatever the order of the setting: stretches run one by one.
    return tuple(name for name in blocks if name in attention_at)


def residual_blocks(net: nn.Module) -> list[str]:
    """Names of a branch's residual blocks in the order of computation: layer1.0, layer1.1, ..."""
    stages = ("layer1", "layer2", "layer3", "layer4")
    return [
        f"{stage}.{name}"
        for stage in stages
        for name, _ in net.get_submodule(stage).named_children()
    ]


def cut_at(blocks: list[str], last_blocks: tuple[str, ...]) -> list[list[str]]:
    """The blocks in len(last_blocks) + 1 lists; each list but the last ends with one of them.

    a b c d e cut at b, d -> [a b] [c d] [e]
    """
    ends = [blocks.index(name) + 1 for name in last_blocks]
    return [blocks[start:end] for start, end in zip([0, *ends], [*ends, len(blocks)], strict=True)]


def _blocks(net: nn.Module, names: tuple[str, ...]) -> nn.ModuleDict:
    """A new attention block, of the right width, for each of these residual blocks."""
    return nn.ModuleDict(
        {_key(name): CMABlock(_channels(net.get_submodule(name))) for name in names}
    )


def _channels(block: nn.Module) -> int:
    """Output channels of a residual block: the width of its last BatchNorm, shortcut's or own."""
    return [module for module in block.modules() if isinstance(module, _BatchNorm)][-1].num_features


def _key(name: str) -> str:
    """A module's name may not hold a dot: layer2.1 -> layer2_1."""
    return name.replace(".", "_")
