"""The family `resnet`: torchvision's 2-D ResNets on one frame, or on a stack of flow fields.

Parameters keep torchvision's names, so that its weights load.
"""

import torch
from torch import Tensor, nn
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.choices import BranchName
from twinstream.train.network.branch import RGB_CHANNELS, Branch
from twinstream.train.network.p3d_weights import PORT_MARKS, is_p3d
from twinstream.train.network.weight_files import Adapted, State


class ResNetBranch(Branch):
    """(N, in_channels, H, W) -> (N, num_classes) scores."""

    family = "resnet"
    # Found in order to be refused by its name
    marks = (*Branch.marks, PORT_MARKS)
    conv1: nn.Conv2d
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module

    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        """torchvision's, the first convolution for `in_channels`."""
        net = models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
        if in_channels != RGB_CHANNELS:
            net.conv1 = stem(in_channels)
        for name, child in net.named_children():
            self.add_module(name, child)

    def imagenet_state(self, name: BranchName) -> State:
        """torchvision's."""
        return imagenet_state(self.depth, name)

    def adapted(self, state: State, where: str) -> Adapted:
        """Weights of P3D are refused: they hang on time, which is no axis here."""
        if is_p3d(state):
            raise InputError(f"{where}: holds a p3d network; set model.family p3d")
        return super().adapted(state, where)

    def begin(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 64, H/4, W/4)."""
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return out


def stem(in_channels: int) -> nn.Conv2d:
    """torchvision's first convolution and its initialisation, for any number of input channels."""
    conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def imagenet_state(depth: int, name: BranchName) -> State:
    """torchvision's ImageNet weights (IMAGENET1K_V1), from its cache or the network.

    InputError that names the setting of that branch.
    """
    if f"resnet{depth}" not in models.list_models():
        raise InputError(
            f"model.{name}_weights: imagenet has no ResNet of depth {depth}; name a file, or null "
            "to start from random weights"
        )
    weights = models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"ImageNet weights for resnet{depth} cannot be downloaded ({said}); put "
            f"{weights.url} into {torch.hub.get_dir()}/checkpoints, or name a file instead: "
            f"model.{name}_weights=FILE, or null to start from random weights"
        ) from error
    return state
