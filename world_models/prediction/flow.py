"""Flow matching, one sign convention everywhere (WorldPlay §3): z_k = (1 - k) noise + k clean, v = clean - noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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


def integrate(field: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Euler from noise (k = 0) to clean (k = 1) in ``steps`` equal steps.

    Returns:
        The sample (B, ...), and the first step's estimate of the clean end, which is the mean of all that could be
        (equal to the sample when ``steps`` is 1).
    """
    if steps < 1:
        raise ValueError(f"At least one denoising step is needed, got {steps}.")
    x, mean = noise, noise
    for i in range(steps):
        k = torch.full((noise.shape[0],), i / steps, device=noise.device)
        v = field(x, k)
        if i == 0:
            mean = x + v
        x = x + v / steps
    return x, mean
