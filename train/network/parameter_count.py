"""How many parameters a score needs, relative to one ResNet: a column of the paper's Table 2.

The network runs on the meta device, where nothing is computed, and the parameters of all modules
that ran are added up. The paper gives 1.8 for CMA iter1-R and does not say what it counts. For
ResNet-50 and 400 classes the RGB branch with its CMA blocks, and flow up to the last block that is
read, give 1.65; with the CMA blocks of that part of flow, which iter1 has not trained, 1.87; with
all of flow 2.30.
"""

from collections.abc import Collection

import torch
from torch import nn
from torchvision import models

from twinstream.train.choices import BranchName
from twinstream.train.network.branch import RGB_CHANNELS
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.two_branch import TwoBranch

SIDE = 64


def parameters_used(
    model: TwoBranch, outputs: Collection[BranchName], attending: Collection[BranchName]
) -> int:
    """Parameters of the modules that these scores run, each once; the model is on meta."""
    used: set[nn.Parameter] = set()

    def count(module: nn.Module, args: object) -> None:
        # A CMA block uses the weights of its query convolution without calling it (folded keys).
        used.update(module.parameters(recurse=isinstance(module, CMABlock)))

    parts = [module for name in model.names for module in model.branch(name).modules()]
    handles = [module.register_forward_pre_hook(count) for module in parts]
    # Any size will do that leaves a position in the last map: parameters do not depend on it.
    with torch.device("meta"):
        rgb = torch.zeros(1, RGB_CHANNELS, SIDE, SIDE)
        flow = (
            torch.zeros(1, model.branch("flow").conv1.in_channels, SIDE, SIDE)
            if "flow" in model.names
            else None
        )
    model.eval()(rgb, flow, outputs=outputs, attending=attending)
    for handle in handles:
        handle.remove()
    return sum(parameter.numel() for parameter in used)


def resnet_parameters(depth: int, num_classes: int) -> int:
    """Parameters of one torchvision ResNet."""
    with torch.device("meta"):
        net = models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
    return sum(parameter.numel() for parameter in net.parameters())
