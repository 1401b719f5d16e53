"""The CMA block against the formula written out, and the identity it must be at the start."""

import math

import pytest
import torch
from torch import Tensor, nn

from twinstream.train.network.cma import CMABlock


def trained_block(channels: int = 8, context_channels: int | None = None) -> CMABlock:
    """A block whose every parameter has been moved off its initial value, in evaluation mode."""
    torch.manual_seed(3)
    block = CMABlock(channels, context_channels)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        block.bn.running_mean.normal_()
        block.bn.running_var.uniform_(0.5, 2)
    return block.eval()


def linear(conv: nn.Conv2d, features: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix: (B, P, C) -> (B, P, D)."""
    out = features @ conv.weight[:, :, 0, 0].T
    return out if conv.bias is None else out + conv.bias


def written_out(block: CMABlock, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 2 to 5 of the paper with explicit matrices -> (block output, attention map)."""
    # Frame by frame: pooling is over space alone.
    frames = [y] if y.ndim == 4 else y.unbind(2)
    pooled = [nn.functional.max_pool2d(frame, 2, stride=2, ceil_mode=True) for frame in frames]
    context = torch.cat([frame.flatten(2) for frame in pooled], dim=2).transpose(1, 2)
    queries = linear(block.query, x.flatten(2).transpose(1, 2))
    keys, values = linear(block.key, context), linear(block.value, context)
    logits = torch.einsum("bpd,bqd->bpq", queries, keys) / math.sqrt(x.shape[1] // 2)
    weights = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
    # torch 2.14's BatchNorm has a wrong gradient for rows of channels seen as maps of width 1.
    z = linear(block.out, weights @ values).transpose(1, 2).contiguous()
    return x + block.bn(z[..., None])[..., 0].reshape(x.shape), weights


@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_returns_x_to_the_last_bit(training: bool) -> None:
    block = CMABlock(8).train(training)
    x, y = torch.randn(3, 8, 6, 6), torch.randn(3, 8, 6, 6)
    assert block.is_identity
    assert torch.equal(block(x, y), x)


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_block_whose_batch_norm_has_moved_is_no_identity(parameter: str) -> None:
    block = CMABlock(8)
    with torch.no_grad():
        getattr(block.bn, parameter)[2] = 1e-3
    assert not block.is_identity


# Keys are few in the last one of each: there the block folds its convolutions.
@pytest.mark.parametrize("size", [(6, 6), (5, 7), (4, 2)])
def test_forward_and_map_are_the_softmax_written_out(size: tuple[int, int]) -> None:
    block, x, y = trained_block(), torch.randn(2, 8, *size), torch.randn(2, 8, *size)
    expected, weights = written_out(block, x, y)
    torch.testing.assert_close(block(x, y), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.attention_map(x, y), weights, rtol=1e-4, atol=1e-6)


# As above: a block folds where keys are few.
@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("frames", [(1, 1), (2, 2), (3, 3), (2, 3), (3, 1)])
@pytest.mark.parametrize("size", [(6, 6), (5, 7), (3, 1)])
def test_in_3d_it_is_the_softmax_over_all_positions_of_space_and_time(
    size: tuple[int, int], frames: tuple[int, int], folds: bool
) -> None:
    """In float64: features, map and gradients, for two clips that need not be equally long."""
    channels = 160 if folds else 8
    torch.manual_seed(4)
    block = trained_block(channels).double()
    # Small, so that the exponentials below do not leave float64.
    x, y = (
        torch.randn(2, channels, time, *size, dtype=torch.float64).div(9).requires_grad_()
        for time in frames
    )
    found, (expected, weights) = block(x, y), written_out(block, x, y)
    positions, keys = math.prod(size), math.prod(-(-side // 2) for side in size)
    assert (frames[1] * keys <= channels / 4) == (folds or frames[1] * keys <= 2)
    assert weights.shape == (2, frames[0] * positions, frames[1] * keys)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(block.attention_map(x, y), weights, **close)
    inputs = [x, y, *block.parameters()]
    for one, other in zip(
        torch.autograd.grad(found.square().mean(), inputs),
        torch.autograd.grad(expected.square().mean(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("channels", [8, 160])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("is_channels_last", [True, False])
def test_one_frame_in_3d_is_the_2d_block_to_the_last_bit(
    channels: int, training: bool, is_channels_last: bool
) -> None:
    block = trained_block(channels).train(training)
    flat, clip = torch.contiguous_format, torch.contiguous_format
    if is_channels_last:
        flat, clip = torch.channels_last, torch.channels_last_3d
        block = block.to(memory_format=flat)
    x, y = torch.randn(2, channels, 5, 7), torch.randn(2, channels, 4, 3)
    found = block(*(part[:, :, None].contiguous(memory_format=clip) for part in (x, y)))
    plane = [part.contiguous(memory_format=flat) for part in (x, y)]
    assert torch.equal(found[:, :, 0], block(*plane))
    assert torch.equal(block.attention_map(x[:, :, None], y[:, :, None]), block.attention_map(x, y))


@pytest.mark.parametrize("size", [(5, 6), (2, 4)])
def test_gradients_are_those_of_the_softmax_written_out(size: tuple[int, int]) -> None:
    """In float64: a block that folds regroups its convolutions, query's bias included, and nothing
    may be lost.
    """
    block = trained_block().double()
    x, y = (torch.randn(2, 8, *size).double().requires_grad_() for _ in range(2))
    weights, inputs = torch.randn(2, 8, *size).double(), [x, y, *block.parameters()]
    found = torch.autograd.grad((block(x, y) * weights).sum(), inputs)
    expected = torch.autograd.grad((written_out(block, x, y)[0] * weights).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_map_has_a_row_for_each_position_of_x_and_a_column_for_each_pooled_one_of_y() -> None:
    weights = trained_block().attention_map(torch.randn(2, 8, 5, 7), torch.randn(2, 8, 6, 3))
    assert weights.shape == (2, 35, 6)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 35))


def test_forward_reads_the_positions_the_map_points_to() -> None:
    """Changing y where the map has no weight changes nothing; where it has, it does."""
    block = trained_block()
    x, y = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        block.key.weight.mul_(40)
    weights = block.attention_map(x, y)[0, 5]
    unread, read = y.clone(), y.clone()
    for features, column in ((unread, weights.argmin()), (read, weights.argmax())):
        row, left = divmod(int(column), 2)
        features[:, :, 2 * row : 2 * row + 2, 2 * left : 2 * left + 2] -= 3
    before = block(x, y)[..., 1, 1]
    assert (block(x, read)[..., 1, 1] - before).abs().max() > 100 * (
        block(x, unread)[..., 1, 1] - before
    ).abs().max()


def test_with_one_modality_it_is_the_non_local_block() -> None:
    """Embedded Gaussian, sub-sampled by max-pooling, as Wang et al. (2018) write it: z = BN(W
    softmax(t p) g) + x.
    """
    block, x = trained_block(channels=6), torch.randn(2, 6, 4, 4)
    theta = block.query(x).reshape(2, 3, 16).permute(0, 2, 1)
    phi = nn.functional.max_pool2d(x, 2)
    phi, g = block.key(phi).reshape(2, 3, 4), block.value(phi).reshape(2, 3, 4).permute(0, 2, 1)
    z = torch.softmax(theta @ phi / math.sqrt(3), dim=-1) @ g
    non_local = block.bn(block.out(z.permute(0, 2, 1).reshape(2, 3, 4, 4))) + x
    torch.testing.assert_close(block(x, x), non_local, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_the_smallest_feature_maps_pass(size: tuple[int, int]) -> None:
    block = trained_block()
    x, y = torch.randn(2, 8, *size), torch.randn(2, 8, *size)
    torch.testing.assert_close(block(x, y), written_out(block, x, y)[0], rtol=1e-4, atol=1e-5)


def test_x_and_y_may_differ_in_size_and_channels() -> None:
    out = trained_block(8, context_channels=12)(torch.randn(2, 8, 3, 5), torch.randn(2, 12, 8, 6))
    assert out.shape == (2, 8, 3, 5)


def test_at_the_start_only_batch_norm_has_a_gradient_and_after_a_step_every_parameter() -> None:
    torch.manual_seed(0)
    block = CMABlock(8)
    x, y = torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    (block(x, y) * torch.randn(4, 8, 6, 6)).sum().backward()
    assert block.bn.weight.grad is not None
    assert block.bn.weight.grad.abs().min() > 0
    assert block.query.weight.grad is not None
    assert not block.query.weight.grad.any()
    optimizer.step()
    optimizer.zero_grad()
    (block(x, y) * torch.randn(4, 8, 6, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_he_initialisation_has_the_spread_of_its_fan_in() -> None:
    torch.manual_seed(0)
    block = CMABlock(512)
    for conv in (block.query, block.key, block.value, block.out):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / conv.in_channels), rel=0.02)


def test_bfloat16_and_channels_last_come_out_as_they_went_in() -> None:
    block = trained_block().to(torch.bfloat16)
    x = torch.randn(2, 8, 6, 6, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    out = block(x, x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
