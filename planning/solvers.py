"""The solvers: ways of learning from the candidates that were tried."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .beliefs import Belief
from .solver import Solver


@dataclass(frozen=True)
class CEM(Solver):
    """Cross-entropy method: refit the belief to the elites, all alike.

    Vectors are drawn from normal distributions within the bounds, keys from probabilities per step. As in
    iCEM, the best plan so far and the most likely one are always among the candidates, so the cost never
    rises.
    """

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """Equal weight to the `elites` cheapest plans (of finite cost), none to the others."""
        chosen = cost.argsort(dim=1, stable=True)[:, : self.elites]
        weights = torch.zeros_like(cost).scatter(1, chosen, 1.0) * cost.isfinite()
        return belief.fit(plans, weights / weights.sum(1, keepdim=True), self.smoothing)


@dataclass(frozen=True)
class MPPI(Solver):
    """Model predictive path integral control: refit the belief to all candidates, weighted by exp(-cost /
    temperature).

    Attributes:
        temperature: above 0, in units of the standard deviation of the elites' costs, so that it need not be
            tuned to the objective's scale.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ConfigError(f"temperature is above 0; got {self.temperature}.")

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """Softmax weights; infinite costs weigh nothing."""
        least = cost.sort(1).values[:, : self.elites]
        finite = torch.where(least.isfinite(), least, least[:, :1])
        scale = finite.std(1, keepdim=True, correction=0).clamp(min=1e-200)
        weights = torch.softmax(-(cost - least[:, :1]) / (self.temperature * scale), 1)
        return belief.fit(plans, weights, self.smoothing)


@dataclass(frozen=True)
class RandomShooting(Solver):
    """The best of ``candidates · iterations`` random plans: what a search that learns nothing finds."""

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """The belief stays as it was."""
        return belief
