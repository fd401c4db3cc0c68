"""Values as distributions over fixed numbers, two-hot: regression by classification, at any scale.

Bins lie evenly in symlog(x) = sign(x) · ln(1 + |x|), so that they are dense near 0; a number is shared between its two
neighbours (DreamerV3 §3, TD-MPC2 §3.1). Expectations are taken over the numbers themselves, hence unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError


def symlog(x: Tensor) -> Tensor:
    """sign(x) · ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Numbers as probabilities of ``bins`` fixed ones, and back.

    Args:
        bins: K, an odd number of at least 3, so that 0 is one of them.
        limit: symlog of the largest; numbers beyond it are clamped.
    """

    def __init__(self, bins: int, limit: float) -> None:
        super().__init__()
        if bins < 3 or bins % 2 == 0 or not limit > 0:
            raise ConfigError(f"Two-hot values need an odd number of bins >= 3 and a limit > 0; got {bins}, {limit}.")
        half = symexp(torch.linspace(0, limit, bins // 2 + 1, dtype=torch.float64)).to(torch.float32)
        self.bins: Tensor
        self.register_buffer("bins", torch.cat([-half[1:].flip(0), half]), persistent=False)

    def encode(self, numbers: Tensor) -> Tensor:
        """Probabilities (..., K) whose expectation is ``numbers`` (...)."""
        inside = numbers.to(torch.float32).clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, inside.contiguous(), right=True).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        share = (inside - low) / (high - low)
        weights = inside.new_zeros(*inside.shape, len(self.bins))
        weights.scatter_(-1, above.unsqueeze(-1), share.unsqueeze(-1))
        return weights.scatter_(-1, above.unsqueeze(-1) - 1, 1 - share.unsqueeze(-1))

    def mean(self, logits: Tensor) -> Tensor:
        """Expectation (...) under ``logits`` (..., K)."""
        expected: Tensor = (logits.float().softmax(-1) * self.bins).sum(-1)
        return expected

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (...) of ``logits`` (..., K) against ``targets`` (...), which get no gradient."""
        return -(self.encode(targets.detach()) * F.log_softmax(logits.float(), -1)).sum(-1)
