"""The family `p3d`: pseudo-3-D residual networks (Qiu et al., 2017) on clips of frames or flow.

As the authors' graph for Kinetics has it: a bottleneck's 3x3x3 convolution is 1x3x3 over space (S)
and 3x1x1 over time (T), put together in three ways that take turns over all blocks of res2 to res4,
never beginning anew at a stage; time is halved four times, rounding up, and res5 is 2-D. Layers of
ResNet-50, 101 and 152 make P3D-63, 131 and 199; depth 14 has one block a stage. Strides are in the
first 1x1x1 convolution and not, as torchvision has them, in the 3x3. Names of parameters are those
of a ResNet, with `conv2_t` and `bn2_t` for T.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from twinstream.train.choices import BranchName
from twinstream.train.network.branch import Branch
from twinstream.train.network.p3d_weights import PORT_MARKS, adapt_to_p3d
from twinstream.train.network.resnet import imagenet_state
from twinstream.train.network.weight_files import Adapted, State

LAYERS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
# As the authors begin: the network starts as one that looks at frames one by one.
T_STD = 0.001
# What halves time stands before the first block of res3, res4 and res5.
BEHIND_A_POOL = ("layer2.0", "layer3.0", "layer4.0")
RES5 = "layer4.0"


class P3DBranch(Branch):
    """(N, in_channels, T, H, W), T up to 16 -> (N, num_classes) scores."""

    family = "p3d"
    marks = (*Branch.marks, PORT_MARKS)
    conv1: nn.Conv3d
    bn1: nn.Module

    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        """Convolutions begin as torchvision's ResNets have them, T with small values."""
        self.conv1 = nn.Conv3d(in_channels, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        inputs, number = 64, 0
        for stage, (width, num_blocks) in enumerate(zip(WIDTHS, LAYERS[depth], strict=True)):
            blocks = nn.Sequential()
            for place in range(num_blocks):
                stride = 2 if stage and not place else 1
                kind = "2d" if stage == 3 else "abc"[number % 3]
                blocks.append(Bottleneck(inputs, width, stride, kind))
                inputs, number = width * EXPANSION, number + 1
            self.add_module(f"layer{stage + 1}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if name.endswith("conv2_t"):
                nn.init.normal_(module.get_parameter("weight"), std=T_STD)

    def imagenet_state(self, name: BranchName) -> State:
        """Those of the ResNet of this depth."""
        return imagenet_state(self.depth, name)

    def adapted(self, state: State, where: str) -> Adapted:
        """Weights of Caffe, of the PyTorch port, or of a 2-D ResNet, for this network."""
        return adapt_to_p3d(state, self.state_dict(), where)

    def begin(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, 64, T/2, H/4, W/4), without padding in the pool."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.max_pool3d(x, (2, 3, 3), stride=2, ceil_mode=True)

    def run_block(self, name: str, x: Tensor) -> Tensor:
        """A residual block, behind a pool of two time steps where it begins res3, res4 or res5."""
        if name in BEHIND_A_POOL:
            x = F.max_pool3d(x, (2, 1, 1), stride=(2, 1, 1), ceil_mode=True)
        if name == RES5:
            if x.shape[2] != 1:
                raise ValueError(f"{x.shape[2]} time steps at res5, a clip is too long for p3d")
            x = x.squeeze(2)
        return super().run_block(name, x)


class Bottleneck(nn.Module):
    """(N, C, T, H, W) -> (N, 4 * width, T, H/stride, W/stride), or the same without T for 2d.

    With s = relu(bn(S a)) of a = relu(bn(1x1x1)), the middle is

        a: relu(bn(T s))    b: relu(s + bn(T a))    c: relu(0.5 s + 0.5 bn(T s))    2d: s
    """

    def __init__(self, inputs: int, width: int, stride: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        is_3d = kind != "2d"
        conv: Callable[..., nn.Module] = nn.Conv3d if is_3d else nn.Conv2d
        norm = nn.BatchNorm3d if is_3d else nn.BatchNorm2d
        # The axis of time, along which S and the 1x1x1 convolutions look at one step at a time
        time, no_pad, outputs = (1,) * is_3d, (0,) * is_3d, width * EXPANSION
        one, step = (*time, 1, 1), (*time, stride, stride)
        self.conv1 = conv(inputs, width, one, step, bias=False)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, (*time, 3, 3), padding=(*no_pad, 1, 1), bias=False)
        self.bn2 = norm(width)
        if is_3d:
            self.conv2_t = conv(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
            self.bn2_t = norm(width)
        self.conv3 = conv(width, outputs, one, bias=False)
        self.bn3 = norm(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = conv(inputs, outputs, one, step, bias=False)
            self.downsample = nn.Sequential(shortcut, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, behind its ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn3(self.conv3(self.middle(F.relu(self.bn1(self.conv1(x)), inplace=True))))
        added: Tensor = shortcut + out
        return F.relu(added, inplace=True)

    def middle(self, a: Tensor) -> Tensor:
        """(N, width, ...) -> the same shape: S and T in the way of this kind of block."""
        s = F.relu(self.bn2(self.conv2(a)), inplace=True)
        if self.kind == "2d":
            return s
        # Only A has a ReLU on T alone; in B and C it stands behind the sum.
        t: Tensor = self.bn2_t(self.conv2_t(a if self.kind == "b" else s))
        if self.kind == "b":
            t = s + t
        elif self.kind == "c":
            t = 0.5 * s + 0.5 * t
        return F.relu(t, inplace=True)
