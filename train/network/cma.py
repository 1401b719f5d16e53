"""The cross-modality attention (CMA) block: x of one branch attends to y of the other.

From section 3 and Figure 1 of the paper:

    out = x + BatchNorm(W(softmax(q(x) k(pool(y))^T / sqrt(d)) v(pool(y))))     d = C / 2, one head

BatchNorm's scale begins at zero, so that a new block returns x unchanged, to the last bit. With
x = y it is the non-local block of Wang et al. (2018). In 3-D every position of space and time is a
query, and pooling is over space alone (section 5.6). The price: every position is compared with a
quarter of all positions, so the paper keeps to res3 and res4. Where keys are few, as in res4, the
query and output convolutions are folded into keys and values: x (Wq^T k) for q k, and
softmax(..) (W v) for W (softmax(..) v). The result differs by rounding only; a block of res4 takes
up to a quarter less time.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

# Folding makes attention's products twice as wide, and they run at half the speed of convolutions
# on a CPU.
FOLDED_KEYS_PER_CHANNEL = 1 / 4


class CMABlock(nn.Module):
    """(B, C, H, W), (B, C', H', W') -> (B, C, H, W); C' is `context_channels`, by default C.

    Or (B, C, T, H, W), (B, C', T', H', W') -> (B, C, T, H, W), with the same parameters.
    """

    def __init__(self, channels: int, context_channels: int | None = None) -> None:
        super().__init__()
        inner = channels // 2
        context = channels if context_channels is None else context_channels
        # Only the query's bias can reach the output: softmax cancels the key's, BatchNorm those of
        # v and W.
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(context, inner, 1, bias=False)
        self.value = nn.Conv2d(context, inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation by fan-in, and a scale of zero for BatchNorm."""
        # By fan-out, q and k, which have half the channels, would double the logits.
        for conv in (self.query, self.key, self.value, self.out):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
        assert self.query.bias is not None
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x after it has read y: the shape of x."""
        shape, x, context = x.shape, _plane(x), _plane(self.pool(y))
        key, value = self.key(context), self.value(context)
        if key.shape[2] * key.shape[3] > FOLDED_KEYS_PER_CHANNEL * x.shape[1]:
            z = self.out(_attention(self.query(x), key, value))
        else:
            assert self.query.bias is not None
            scale = 1 / math.sqrt(key.shape[1])
            keys = F.conv2d(key, self.query.weight.transpose(0, 1))
            offsets = scale * F.conv2d(key, self.query.bias[None, :, None, None]).flatten(2)
            z = _attention(x, keys, self.out(value), offsets, scale)
        read: Tensor = self.bn(z)
        return (x + read).reshape(shape)

    def attention_map(self, x: Tensor, y: Tensor) -> Tensor:
        """The weights that `forward` uses: (B, H*W, ceil(H'/2)*ceil(W'/2)), every row sums to 1.

        In 3-D (B, T*H*W, T'*ceil(H'/2)*ceil(W'/2)).
        """
        query, key = _rows(self.query(_plane(x))), _rows(self.key(_plane(self.pool(y))))
        return (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(dim=2)

    @staticmethod
    def pool(y: Tensor) -> Tensor:
        """The positions that keys and values are of: pooled by 2 over space, not over time."""
        # Rounding up keeps the last row and column of an odd map, and a 1x1 map whole.
        if y.ndim == 4:
            return F.max_pool2d(y, 2, ceil_mode=True)
        return F.max_pool3d(y, (1, 2, 2), ceil_mode=True)

    @property
    def is_identity(self) -> bool:
        """Whether the block returns x unchanged, as it does until it is trained."""
        return not (self.bn.weight.any() or self.bn.bias.any())


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """(B, d, H, W), (B, d, h, w), (B, e, h, w) -> (B, e, H, W).

    `offsets` (B, 1, h*w) are added to the logits; `scale` is 1 / sqrt(d) when None.
    """
    # The unit axis is the head: the fused kernels take tensors of four axes only.
    q, k, v = (_rows(features)[:, None] for features in (query, key, value))
    mask = None if offsets is None else offsets[:, None]
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    # No copy where features are channels_last, as they are in TwoBranch.
    return z.squeeze(1).transpose(1, 2).reshape(query.shape[0], -1, *query.shape[2:])


def _plane(features: Tensor) -> Tensor:
    """(B, d, T, H, W) -> (B, d, T*H, W), without a copy; (B, d, H, W) as it is."""
    # To attention positions are a list: time and height are one axis of it.
    return features.flatten(2, -2)


def _rows(features: Tensor) -> Tensor:
    """(B, d, H, W) -> (B, H*W, d), without a copy."""
    return features.flatten(2).transpose(1, 2)
