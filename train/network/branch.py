"""One branch: a torchvision ResNet, and the attention blocks that write INTO it (paper, sections
4.1 and 5.5).

Blocks stand in res3 and res4 (torchvision's layer2 and layer3) after every other residual block: 2
+ 3 = 5 for ResNet-50. A place ends a "stretch": the branch runs up to it, reads itself there if it
has non-local blocks, then may read the other branch, and goes on. Parameters keep torchvision's
names, so its weights load. A non-local block (Wang et al., 2018) is a CMA block whose two
modalities are one. The trap: a frozen branch, its own blocks included, runs without gradient and
keeps no graph. From iter2 on it reads the trained branch through those blocks; the gradient that
would come back that way round is cut.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.choices import EVERY_OTHER, AttentionAt
from twinstream.train.network.cma import CMABlock

RGB_CHANNELS = 3
CLASSIFIER_STD = 0.001


class Branch(nn.Module):
    """A ResNet in stretches that end at its places: (N, in_channels, H, W) -> (N, num_classes)
    scores.
    """

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
        # As TSN begins: scores near zero, so that the first loss is log(num_classes) and weighs on
        # no class.
        nn.init.normal_(net.fc.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(net.fc.bias)
        for name, child in net.named_children():
            self.add_module(name, child)
        self.dropout = nn.Dropout(dropout)
        self.depth = depth
        self.frozen = False
        self.places = attention_places(net, attention_at) if has_cma or has_non_local else ()
        self.stretches = cut_at(residual_blocks(net), self.places)
        self.non_local = _blocks(net, self.places if has_non_local else ())
        self.cma = _blocks(net, self.places if has_cma else ())

    def forward(self, x: Tensor) -> Tensor:
        """The branch by itself, without the other: (N, in_channels, H, W) -> (N, num_classes)."""
        for number in range(len(self.stretches)):
            x = self.run_stretch(x, number)
        return self.classify(x)

    def run_stretch(self, x: Tensor, number: int) -> Tensor:
        """On from the stretch before (number 0: from the input) to place `number`, or to the last
        block.
        """
        with self._gradient():
            if number == 0:
                x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for name in self.stretches[number]:
                x = self.get_submodule(name)(x)
            if self.non_local and number < len(self.places):
                x = self.non_local[_key(self.places[number])](x, x)
        return x

    def attend(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """This branch's x (N, C, h, w) after its CMA block at place `number` has read the other's
        y.
        """
        with self._gradient():
            out: Tensor = self.cma[_key(self.places[number])](x, y)
        return out

    def classify(self, x: Tensor) -> Tensor:
        """(N, features, h, w) -> (N, num_classes): mean over the positions, dropout,
        linear layer.
        """
        with self._gradient():
            scores: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return scores

    def set_frozen(self, frozen: bool) -> None:
        """Frozen: no gradient, BatchNorm and dropout as at test. Thawed: they follow the next
        train().
        """
        self.frozen = frozen
        # What needs no gradient is left out of the optimizer, and of the sum over the ranks.
        self.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but a frozen branch stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def _gradient(self) -> torch.set_grad_enabled:
        # A frozen branch keeps no graph, even where its input has one.
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen)


def attention_places(net: nn.Module, attention_at: AttentionAt) -> tuple[str, ...]:
    """The residual blocks that an attention block follows, in the order of computation.

    every_other, ResNet-50: layer2.1 layer2.3 layer3.1 layer3.3 layer3.5 Depth 18 has 2 such places,
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
    return tuple(name for name in blocks if name in attention_at)


def residual_blocks(net: nn.Module) -> list[str]:
    """The names of a ResNet's residual blocks in the order of computation: layer1.0,
    layer1.1, ...
    """
    stages = ("layer1", "layer2", "layer3", "layer4")
    return [
        f"{stage}.{name}"
        for stage in stages
        for name, _ in net.get_submodule(stage).named_children()
    ]


def cut_at(blocks: list[str], places: tuple[str, ...]) -> list[list[str]]:
    """The blocks in len(places) + 1 runs, each but the last ending with a place.

    a b c d e cut at b, d -> [a b] [c d] [e]
    """
    ends = [blocks.index(place) + 1 for place in places]
    return [blocks[start:end] for start, end in zip([0, *ends], [*ends, len(blocks)], strict=True)]


def stem(in_channels: int) -> nn.Conv2d:
    """torchvision's first convolution and its initialisation, for any number of input channels."""
    conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _blocks(net: nn.Module, places: tuple[str, ...]) -> nn.ModuleDict:
    """A new block of the right width for each place."""
    return nn.ModuleDict(
        {_key(place): CMABlock(_channels(net.get_submodule(place))) for place in places}
    )


def _channels(block: nn.Module) -> int:
    """What a residual block puts out: the width of its last BatchNorm."""
    # bn2 in the blocks of ResNet-18 and 34, bn3 in those of deeper ones
    norms = [module for name, module in block.named_children() if name.startswith("bn")]
    width = norms[-1].num_features
    assert isinstance(width, int)
    return width


def _key(place: str) -> str:
    """A module's name may not hold a dot: layer2.1 -> layer2_1."""
    return place.replace(".", "_")
