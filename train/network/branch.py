"""One branch: a torchvision ResNet and the attention blocks that write into it.

Attention blocks follow every other residual block of res3 and res4 (torchvision's layer2 and
layer3): 2 + 3 = 5 for ResNet-50 (paper, sections 4.1 and 5.5). They cut the ResNet into stretches.
At the end of a stretch the branch first reads itself (non-local block), then the other branch (CMA
block). A non-local block (Wang et al., 2018) is a CMA block with x = y. Parameters keep
torchvision's names, so that its weights load. The trap: from iter2 on a frozen branch reads the
branch that learns. Its weights stay, but the gradient goes back through it, as the formula says;
`through_frozen` False drops that part, which is cheaper and another gradient.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.choices import EVERY_OTHER, AttentionAt, Trainable
from twinstream.train.network.cma import CMABlock

RGB_CHANNELS = 3
CLASSIFIER_STD = 0.001


class Branch(nn.Module):
    """A ResNet cut at its attention blocks: (N, in_channels, H, W) -> (N, num_classes) scores."""

    conv1: nn.Conv2d
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
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
        net = models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
        if in_channels != RGB_CHANNELS:
            net.conv1 = stem(in_channels)
        # As in TSN: scores near zero, so that the first loss is log(num_classes) and no class is
        # preferred.
        nn.init.normal_(net.fc.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(net.fc.bias)
        for name, child in net.named_children():
            self.add_module(name, child)
        self.dropout = nn.Dropout(dropout)
        self.depth = depth
        self.learning: Trainable | None = "all"
        self.through_frozen = True
        # Names of residual blocks, not modules: nothing of it enters the state_dict.
        self.attention_after: tuple[str, ...] = ()
        if has_cma or has_non_local:
            self.attention_after = blocks_before_attention(net, attention_at)
        self.stretches = cut_at(residual_blocks(net), self.attention_after)
        self.non_local = _blocks(net, self.attention_after if has_non_local else ())
        self.cma = _blocks(net, self.attention_after if has_cma else ())

    def forward(self, x: Tensor) -> Tensor:
        """The branch by itself, without the other: (N, in_channels, H, W) -> (N, num_classes)."""
        for number in range(len(self.stretches)):
            x = self.run_stretch(x, number)
        return self.classify(self.pool(x))

    def run_stretch(self, x: Tensor, number: int) -> Tensor:
        """From the end of stretch `number` - 1 to the end of stretch `number`.

        Stretch 0 begins at the input, the last one ends at the last residual block. The non-local
        block at the end is included, the CMA block is not: `attend` is called for it.
        """
        with self._gradient():
            if number == 0:
                x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for name in self.stretches[number]:
                x = self.get_submodule(name)(x)
            # The last stretch ends before the classifier, where no attention block stands.
            if self.non_local and number < len(self.attention_after):
                x = self.non_local[_key(self.attention_after[number])](x, x)
        return x

    def attend(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """x (N, C, h, w) of this branch after its CMA block `number` has read y of the other."""
        with self._gradient():
            out: Tensor = self.cma[_key(self.attention_after[number])](x, y)
        return out

    def pool(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D): mean over the positions."""
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
        before = ("conv1", "bn1", *self.stretches[0])
        return [self.get_submodule(name) for name in before]

    def _gradient(self) -> torch.set_grad_enabled:
        # Frozen weights need no graph of their own: there is one only behind what the branch reads.
        keeps_graph = self.through_frozen or self.learning is not None
        return torch.set_grad_enabled(torch.is_grad_enabled() and keeps_graph)


def blocks_before_attention(net: nn.Module, attention_at: AttentionAt) -> tuple[str, ...]:
    """The residual blocks that an attention block follows, in the order of computation.

    every_other, ResNet-50: layer2.1 layer2.3 layer3.1 layer3.3 layer3.5. Depth 18 has 2 of them,
    34 and 50 have 5, 101 has 13, 152 has 22. InputError for a block that is not there.
    """
    blocks = residual_blocks(net)
    if attention_at == EVERY_OTHER:
        return tuple(
            name for name in blocks if name.startswith(("layer2.", "layer3.")) and int(name[7:]) % 2
        )
    for name in attention_at:
        if name not in blocks:
            raise InputError(
                f"model.attention_at: {name} is no residual block of this depth; "
                f"{', '.join(blocks)} are"
            )
    # In the order of the network, whatever the order of the setting: stretches run one by one.
    return tuple(name for name in blocks if name in attention_at)


def residual_blocks(net: nn.Module) -> list[str]:
    """Names of a ResNet's residual blocks in the order of computation: layer1.0, layer1.1, ..."""
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


def stem(in_channels: int) -> nn.Conv2d:
    """torchvision's first convolution and its initialisation, for any number of input channels."""
    conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _blocks(net: nn.Module, names: tuple[str, ...]) -> nn.ModuleDict:
    """A new attention block, of the right width, for each of these residual blocks."""
    return nn.ModuleDict(
        {_key(name): CMABlock(_channels(net.get_submodule(name))) for name in names}
    )


def _channels(block: nn.Module) -> int:
    """Output channels of a residual block: the width of its last BatchNorm."""
    # bn2 in the blocks of ResNet-18 and 34, bn3 in those of deeper ones
    norms = [module for name, module in block.named_children() if name.startswith("bn")]
    width = norms[-1].num_features
    assert isinstance(width, int)
    return width


def _key(name: str) -> str:
    """A module's name may not hold a dot: layer2.1 -> layer2_1."""
    return name.replace(".", "_")
