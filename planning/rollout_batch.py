"""`RolloutBatch`: what candidate plans lead to, for objectives to judge."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RolloutBatch:
    """What N candidate plans of H steps lead to in each of B worlds.

    Attributes:
        actions: (B, N, H, ...) in the world's action space.
        poses: (B, N, H, 5) float64 canonical, after each action.
        reward: (B, N, H).
        continues: (B, N, H) in [0, 1], the probability that the episode goes on after the step.
        uncertainty: (B, N, H) >= 0.
        latents: (B, N, H, C, h, w), or None where no objective asked for them.
        vectors: (B, N, D), the state vectors after the last action, or None where no objective asked for them.
        start: (B, 5) canonical poses before the first action, where known.
        lengths: (B, N) int64, steps of each plan that were imagined, the others standing still for nothing; None for
            all H.
    """

    actions: Tensor
    poses: Tensor
    reward: Tensor
    continues: Tensor
    uncertainty: Tensor
    latents: Tensor | None = None
    vectors: Tensor | None = None
    start: Tensor | None = None
    lengths: Tensor | None = None
