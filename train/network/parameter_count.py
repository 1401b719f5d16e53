"""How many parameters a score needs, relative to one branch: a column of the paper's Table 2.

The network runs on the meta device, where nothing is computed, and the parameters of all modules
that ran are added up. The paper gives 1.8 for CMA iter1-R and does not say what it counts. For
ResNet-50 and 400 classes the RGB branch with its CMA blocks, and flow up to the last block that is
read, give 1.65; with the CMA blocks of that part of flow, which iter1 has not trained, 1.87; with
all of flow 2.30.
"""

from collections.abc import Collection

import torch
from torch import nn

from twinstream.train.choices import DROPOUT, BranchName
from twinstream.train.network.branch import RGB_CHANNELS
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.families import DEFAULT_FAMILY, find_family
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
        time = (model.snippet.frames,) if model.snippet.has_time else ()
        inputs = {
            name: torch.zeros(1, model.branch(name).in_channels, *time, SIDE, SIDE)
            for name in model.names
        }
    model.eval()(inputs.get("rgb"), inputs.get("flow"), outputs=outputs, attending=attending)
    for handle in handles:
        handle.remove()
    return sum(parameter.numel() for parameter in used)


def branch_parameters(depth: int, num_classes: int, family: str = DEFAULT_FAMILY) -> int:
    """Parameters of one network of the family on RGB, without attention."""
    with torch.device("meta"):
        net = find_family(family).build_branch(depth, RGB_CHANNELS, num_classes, DROPOUT)
    return sum(parameter.numel() for parameter in net.parameters())
