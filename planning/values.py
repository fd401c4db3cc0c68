"""What planners ask of agents: policies that propose, priors that rank keys, values that see past the horizon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ConfigError
from .objectives import Objective
from .rollout_batch import RolloutBatch


class Policy(Protocol):
    """Chooses actions from state vectors."""

    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        """Actions (M, ...) in states (M, D), chosen by random numbers (M, n) in (0, 1), n those of `ActionSpec.n`."""


class Prior(Protocol):
    """Says which keys are worth trying."""

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Probabilities (M, K) of the keys in states (M, D)."""


class Value(Protocol):
    """Says what states are worth."""

    def value(self, vectors: Tensor) -> Tensor:
        """Reward (M,) to be expected from states (M, D) on, discounted."""


@dataclass(frozen=True)
class TerminalValue(Objective):
    """What comes after the horizon (TD-MPC2 §3.2): minus the discounted value of the last state.

    It counts with the probability of getting there: not at all past the end of an episode. Add it to `Reward` of the
    same discount.

    Attributes:
        value: of state vectors; the world needs a state space.
        discount: in (0, 1], per step.
    """

    value: Value
    discount: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount lies in (0, 1]; got {self.discount}.")

    @property
    def needs_vectors(self) -> bool:
        return True

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        if rollouts.vectors is None:
            raise ValueError("This objective reads state vectors: roll out with them (needs_vectors says so).")
        worth = self.value.value(rollouts.vectors.flatten(0, 1)).unflatten(0, rollouts.vectors.shape[:2])
        going_on = rollouts.continues.prod(-1)
        steps = rollouts.continues.shape[-1] if rollouts.lengths is None else rollouts.lengths
        counted = -going_on * torch.as_tensor(float(self.discount), device=worth.device) ** steps * worth
        return torch.where(going_on > 0, counted, torch.zeros_like(counted))
