"""The gradient of one step, for tests: in one process, or in ranks.

torchrun starts the ranks with `-m tests.support.gradients FILE`. The batch is random, so that ranks
need no dataset. The attention block's output scale is 1 and not 0, so that it has a gradient too.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from twinstream.train.data.batch import Batch, new_batch
from twinstream.train.data.order import rank_part
from twinstream.train.gradient import add_gradients
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.stages import plan_stages
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.ranks import Ranks, joined_ranks, synchronise_batch_norm
from twinstream.train.snippet_shape import SnippetShape

SEGMENTS, CPU = 2, torch.device("cpu")
(STAGE,) = plan_stages(["iter1"], "cma")


# The depth and the snippet of each family's network
NETWORKS = {
    "resnet": (18, SnippetShape(fields=2)),
    "p3d": (14, SnippetShape(frames=3, fields=3, has_time=True)),
}


def drawn_batch(num_videos: int, positions: Tensor, shape: SnippetShape) -> Batch:
    """The videos at `positions` of a batch of `num_videos` videos of random bytes."""
    batch = new_batch(num_videos, SEGMENTS, shape, 48)
    # A fixed seed: each rank draws the whole batch and takes its own part.
    draw = torch.Generator().manual_seed(3)
    rgb, flow = (
        torch.randint(256, part.shape, dtype=torch.uint8, generator=draw)
        for part in (batch.rgb, batch.flow)
    )
    scale, labels = torch.ones(num_videos, 2), torch.arange(num_videos) % 3
    chosen = (part[positions] for part in (rgb, flow, scale, labels))
    return Batch(*chosen, positions)


def one_step(
    num_videos: int,
    ranks: Ranks,
    *,
    learns: bool,
    micro_batch: int | None = None,
    family: str = "resnet",
) -> tuple[float, dict[str, Tensor]]:
    """The loss, gradients and BatchNorm statistics of a random batch.

    With `learns` BatchNorm uses the statistics of the batch. In float64, because float32 rounding
    can move a unit to the other side of a ReLU, which changes a gradient by a percent.
    """
    torch.manual_seed(0)
    depth, shape = NETWORKS[family]
    model = TwoBranch("cma", depth, 3, shape, dropout=0.0, family=family).double()
    model.register_forward_pre_hook(
        lambda _, inputs: tuple(features.double() for features in inputs)
    )
    for block in (module for module in model.modules() if isinstance(module, CMABlock)):
        torch.nn.init.ones_(block.bn.weight)
    model.train_only(STAGE.trains)
    synchronise_batch_norm(model, ranks)
    model.train(learns)
    part = rank_part(torch.arange(num_videos).numpy(), ranks.rank, ranks.size)
    batch = drawn_batch(num_videos, torch.from_numpy(part.positions), shape)
    loss, _ = add_gradients(
        model, batch, part, STAGE, CPU, segments=SEGMENTS, micro_batch=micro_batch
    )
    ranks.sum_gradients(model.parameters())
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {
        name: value
        for name, value in model.named_buffers()
        if name.startswith("rgb") and "running" in name
    }
    return ranks.sums(loss)[0], found


def main() -> None:
    """As a rank: the steps that the tests compare, written by the first one."""
    with joined_ranks(CPU) as ranks:
        steps = {
            "learning": one_step(4, ranks, learns=True),
            "learning, p3d": one_step(4, ranks, learns=True, family="p3d"),
            "frozen, 3 videos": one_step(3, ranks, learns=False),
            "frozen, 1 video": one_step(1, ranks, learns=False),
        }
        if ranks.is_first:
            torch.save(steps, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
