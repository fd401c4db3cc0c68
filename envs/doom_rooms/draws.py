"""Random draws that no library update can change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of draws from whole-number ``keys``, the same on every machine and NumPy version.

    NumPy promises stability for the raw bits of a bit generator but not for the distributions of `Generator`, and a
    map must stay the map its seed named.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(keys)))

    def below(self, n: int) -> int:
        """An integer in 0 … n - 1."""
        return (int(self._bits.random_raw()) * n) >> 64

    def between(self, low: int, high: int, step: int = 1) -> int:
        """One of low, low + step, … up to high."""
        return low + step * self.below((high - low) // step + 1)

    def choice(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """``n`` different ones of ``items``, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(n)]
