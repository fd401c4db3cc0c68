"""What plans must not do: constraints, as penalties or for `Lagrangian` to enforce."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .objectives import Objective
from .rollout_batch import RolloutBatch


class Constraint(ABC):
    """Something that roll-outs keep to, or fall short of."""

    @abstractmethod
    def violation(self, rollouts: RolloutBatch) -> Tensor:
        """How far each plan is off (B, N): kept where it is 0 or less. NaN counts as worst."""


@dataclass(frozen=True)
class Penalty(Objective):
    """A cost of ``weight`` for each unit that a constraint is violated by, and none where it is kept."""

    constraint: Constraint
    weight: float = 1.0

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        return self.weight * self.constraint.violation(rollouts).clamp(min=0)


@dataclass(frozen=True)
class Within(Constraint):
    """Stay in a box: world units beyond its nearest face, at the worst step.

    Attributes:
        low, high: (3,) corners; infinite where there is no limit.
    """

    low: Any
    high: Any

    def violation(self, rollouts: RolloutBatch) -> Tensor:
        places = rollouts.poses[..., :3]
        low, high = (torch.as_tensor(corner).to(places) for corner in (self.low, self.high))
        return torch.maximum(low - places, places - high).amax((-2, -1))


@dataclass(frozen=True)
class KeepAway(Constraint):
    """Stay ``radius`` world units away from a place (3,): what is missing at the nearest step."""

    place: Any
    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ConfigError(f"radius is above 0; got {self.radius}.")

    def violation(self, rollouts: RolloutBatch) -> Tensor:
        places = rollouts.poses[..., :3]
        nearest: Tensor = (places - torch.as_tensor(self.place).to(places)).norm(dim=-1).amin(-1)
        return self.radius - nearest


@dataclass(frozen=True)
class Sure(Constraint):
    """Stay where the world's uncertainty is at most ``limit``, at every step."""

    limit: float

    def violation(self, rollouts: RolloutBatch) -> Tensor:
        return rollouts.uncertainty.amax(-1) - self.limit
