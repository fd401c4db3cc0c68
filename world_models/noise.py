"""Counter-based noise: a function of (world's seed, step, position), never of call order.

Every element is hashed on its own (splitmix64 finaliser over a Weyl sequence), so that a world draws the same noise
alone, in a batch of 64, after a fork, or restored in another process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hash64(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 tensors, element by element."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def uniform(seeds: Tensor, step: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Uniform numbers strictly inside (0, 1), float32 with 23 random bits, of shape (B, *shape).

    Args:
        seeds: (B,) int64.
        step: (B,) int64.
        shape: shape of one world's draw.
        stream: number of an independent stream for the same seed and step.
    """
    count = math.prod(shape)
    key = hash64(hash64(hash64(seeds) ^ step) ^ stream)
    position = torch.arange(count, dtype=torch.int64, device=seeds.device)
    bits = _shift_right(hash64(key.unsqueeze(1) + position * _GOLDEN), 41)
    return ((bits.to(torch.float32) + 0.5) * 2.0**-23).view(-1, *shape)


def normal(seeds: Tensor, step: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Standard normal numbers, float32, of shape (B, *shape): the inverse distribution function of `uniform`."""
    draws: Tensor = torch.special.ndtri(uniform(seeds, step, shape, stream))
    return draws
