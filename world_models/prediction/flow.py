"""Flow matching, one sign convention everywhere (WorldPlay §3): z_k = (1 - k) noise + k clean, v = clean - noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["euler", "multistep"]
"""How samples are drawn, see `integrate`."""
_EARLY = 1.5
"""Times of the multistep sampler are those of equal steps to this power."""


def _per_sample(k: Tensor, like: Tensor) -> Tensor:
    return k.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def interpolate(clean: Tensor, noise: Tensor, k: Tensor) -> Tensor:
    """z_k (B, ...) at times k (B,): noise at k = 0, clean at k = 1."""
    k = _per_sample(k, clean)
    return (1 - k) * noise + k * clean


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """The constant velocity of the straight path from noise to clean."""
    return clean - noise


def clean_from(noisy: Tensor, predicted_velocity: Tensor, k: Tensor) -> Tensor:
    """The clean end that z_k and its velocity point to: z_k + (1 - k) v."""
    return noisy + (1 - _per_sample(k, noisy)) * predicted_velocity


def integrate(
    field: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, sampler: Sampler = "euler"
) -> tuple[Tensor, Tensor]:
    """From noise (k = 0) to clean (k = 1) with so many calls of ``field``.

    Args:
        field: velocities (B, ...) of z_k (B, ...) at times k (B,).
        noise: (B, ...).
        steps: calls.
        sampler: ``"euler"``: equal steps along the velocity. ``"multistep"``: steps along what the velocity will be
            half-way, from this one and the one before (Adams and Bashforth, second order), short ones first, where
            noise decides what is to be seen: a few of them find what Euler finds in ten times as many.

    Returns:
        The sample (B, ...), and the first step's estimate of the clean end, which is the mean of all that could be
        (equal to the sample when ``steps`` is 1).
    """
    if steps < 1:
        raise ValueError(f"At least one denoising step is needed, got {steps}.")
    power = 1.0 if sampler == "euler" else _EARLY
    times = [(i / steps) ** power for i in range(steps + 1)]
    x, mean, before = noise, noise, None
    for i, (now, then) in enumerate(pairwise(times)):
        v = field(x, torch.full((noise.shape[0],), now, device=noise.device))
        if i == 0:
            mean = x + v
        ahead = v
        if sampler == "multistep" and before is not None:
            ahead = v + (then - now) / (2 * (now - times[i - 1])) * (v - before)
        x, before = x + (then - now) * ahead, v
    return x, mean
