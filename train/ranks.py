"""The processes of one training run, as torchrun starts them: one for each GPU, or on the CPU.

Every rank holds the whole network and reads its part of each batch; after the backward pass the
gradients are summed in one exchange (nccl, or gloo on the CPU). The sum has the same bits on every
rank, so the networks stay equal. The price: DistributedDataParallel would overlap the exchange with
the backward pass, but it must know which parameters a stage leaves out, and the exchange is short
beside a step. When a rank dies, the others report it and end.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twinstream.errors import InputError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """The one that writes files and shows progress."""
        return self.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the ranks; all wait for one another."""
        if self.size == 1:
            return list(values)
        # In float64 counts of videos stay exact.
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks.

        A parameter without a gradient on this rank must have none on any rank.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        # One large exchange: many small ones would each wait for the network's delay.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view(gradient.shape))


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this run while it lasts; InputError when another one is lost."""
    if not started_by_torchrun():
        yield Ranks(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield ranks
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise InputError(
            f"rank {ranks.rank} of {ranks.size}: another rank is gone; the same command with "
            "--resume goes on "
            "from the last checkpoint"
        ) from error
    # Not where the run has failed: it would wait for ranks that are gone.
    dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether torchrun started this process, alone or with others."""
    return dist.is_available() and "RANK" in os.environ and "WORLD_SIZE" in os.environ


def shows_output() -> bool:
    """Whether this process prints results; needs no process group, unlike `Ranks.is_first`."""
    return os.environ.get("RANK", "0") == "0"


def synchronise_batch_norm(model: nn.Module, ranks: Ranks) -> None:
    """Make BatchNorm in training take its statistics from the batch of all ranks."""
    if ranks.size == 1:
        return
    if ranks.device.type == "cuda":
        # torch gives it no types.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        # A kind that is left out would train each rank on statistics of its own.
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GlooBatchNorm):
            raise TypeError(f"{name} is a {type(module).__name__}, which gloo ranks cannot share")
        # The class alone changes, so that parameters and buffers keep their names.
        module.__class__ = GlooBatchNorm


class GlooBatchNorm(_BatchNorm):
    """nn.SyncBatchNorm for the CPU, which torch does not have: statistics over all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]
        broadcast = [-1, *(1 for _ in axes[1:])]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _summed(x.sum(axes)) / count
        centred = x - mean.view(broadcast)
        # A second pass over centred values: E[x^2] - E[x]^2 would lose the digits of a small
        # variance.
        variance = _summed(centred.square().sum(axes)) / count
        # The running variance is the unbiased one, as torch's BatchNorm has it.
        self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(broadcast) + self.bias.view(broadcast)

    def _check_input_dim(self, input: Tensor) -> None:
        """torch asks each kind of BatchNorm; this one takes any number of axes."""

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; backward sums the gradients over the ranks as well."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
