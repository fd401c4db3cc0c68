"""Coloured noise: random numbers that change slowly along a plan."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def coloured(white: Tensor, exponent: float) -> Tensor:
    """Noise (..., L, n) of unit variance whose power falls with frequency f as f^-exponent along L, from white noise.

    iCEM (Pinneri et al. 2020, §3.1): 0 is white, 2 a random walk. Summed in a fixed order, so that a world draws the
    same numbers alone and among others.
    """
    if exponent == 0:
        return white
    length = white.shape[-2]
    kernel = _kernel(length, exponent)
    total = torch.zeros_like(white)
    for lag in range(length):
        total = total + kernel[lag] * white.roll(lag, -2)
    return total


@lru_cache(maxsize=64)
def _kernel(length: int, exponent: float) -> tuple[float, ...]:
    """The circular filter (L,) whose amplitude at frequency f is f^(-exponent / 2), and at 0 that of the lowest one."""
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64).clamp(min=1 / length)
    kernel = torch.fft.irfft(frequency ** (-exponent / 2) + 0j, n=length)
    return tuple((kernel / kernel.norm()).tolist())
