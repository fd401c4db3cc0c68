"""Random choices of a training step that depend on its number alone, so that a resumed run makes the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import normal, uniform


@dataclass(frozen=True)
class Chance:
    """Numbers that depend on (seed, step, sample, stream) alone."""

    seeds: Tensor
    counter: Tensor

    @classmethod
    def of(cls, seed: int, step: int, batch_size: int, device: torch.device) -> Chance:
        """Of the samples of one training step."""
        seeds = torch.full((batch_size,), seed, dtype=torch.int64, device=device)
        return cls(seeds, step * batch_size + torch.arange(batch_size, device=device))

    def even(self, stream: int, *shape: int) -> Tensor:
        return uniform(self.seeds, self.counter, shape, stream)

    def share(self, stream: int, share: float) -> Tensor:
        """(B,) bool, true for so many."""
        return self.even(stream, 1)[:, 0] < share

    def gauss(self, stream: int, *shape: int) -> Tensor:
        return normal(self.seeds, self.counter, shape, stream)
