"""λ-returns, and how large they are. Layout: row b, column t is the step taken from the state s_t of world b."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lambda_returns(
    rewards: Tensor,
    continues: Tensor,
    next_values: Tensor,
    discount: float,
    trace: float,
    truncated: Tensor | None = None,
) -> Tensor:
    """λ-returns R_t = r_t + γ c_t ((1 - λ) v_{t+1} + λ R_{t+1}), the last from its value alone (Sutton & Barto §12.1).

    Nothing is counted past a termination (c_t = 0). At a truncation, and at the horizon, the value of the state arrived
    at stands for what would have come: R_t = r_t + γ c_t v_{t+1}, and no reward of the next episode leaks in.

    Args:
        rewards: (B, H), of the step from s_t to s_{t+1}.
        continues: (B, H) in [0, 1], the probability that the episode goes on at s_{t+1}.
        next_values: (B, H) of s_{t+1}, at an end the state the episode ended in and not the first of the next one.
        discount: γ in [0, 1].
        trace: λ in [0, 1].
        truncated: (B, H) bool, the episode was cut off at s_{t+1}; default nowhere.

    Returns:
        (B, H), differentiable in all of them.

    Raises:
        ValueError: shapes that differ.
    """
    shapes = {tuple(x.shape) for x in (rewards, continues, next_values, *([] if truncated is None else [truncated]))}
    if len(shapes) != 1 or rewards.ndim != 2 or not rewards.shape[1]:
        raise ValueError(f"λ-returns need rewards, continues and values of one shape (B, H); got {sorted(shapes)}.")
    returns = next_values[:, -1]
    columns = []
    for t in range(rewards.shape[1] - 1, -1, -1):
        ahead = torch.lerp(next_values[:, t], returns, trace)
        if truncated is not None:
            ahead = torch.where(truncated[:, t], next_values[:, t], ahead)
        returns = rewards[:, t] + discount * continues[:, t] * ahead
        columns.append(returns)
    return torch.stack(columns[::-1], 1)


def chances(continues: Tensor) -> Tensor:
    """(B, H) the probability of ever being in s_t: 1 at first, 0 past a certain end. Losses are weighed by it."""
    return torch.cat([torch.ones_like(continues[:, :1]), continues[:, :-1]], 1).cumprod(1)


class ReturnScale(nn.Module):
    """The range between two percentiles of the returns, as a moving average (DreamerV3 §3).

    Args:
        least: smaller ranges count as this, so that noise about nothing is not magnified.
        decay: of the average; the first range is taken as it is.
        low, high: percentiles in [0, 1].
    """

    def __init__(self, least: float = 1.0, decay: float = 0.99, low: float = 0.05, high: float = 0.95) -> None:
        super().__init__()
        self.least, self.decay, self.low, self.high = least, decay, low, high
        self.range: Tensor
        self.begun: Tensor
        self.register_buffer("range", torch.zeros(()))
        self.register_buffer("begun", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in ``returns`` (...)."""
        edges = returns.new_tensor([self.low, self.high])
        low, high = returns.flatten().quantile(edges)
        self.range.lerp_(high - low, 1 - self.decay * float(self.begun))
        self.begun.fill_(1.0)

    @property
    def scale(self) -> Tensor:
        """What advantages are divided by, at least ``least``."""
        return self.range.clamp(min=self.least)
