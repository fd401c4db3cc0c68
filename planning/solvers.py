"""The solvers that sample: ways of learning from the candidates that were tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .beliefs import Belief, Draws, WarmStart
from .problem import Problem
from .sampling import SamplingSolver
from .solver import pick

_HUGE = 1e200


@dataclass(frozen=True)
class RandomShooting(SamplingSolver):
    """The best of ``candidates · iterations`` random plans: what a search that learns nothing finds."""

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """The belief stays as it was."""
        return belief


@dataclass(frozen=True)
class PredictiveSampling(SamplingSolver):
    """Predictive sampling (Howell et al. 2022): random plans around the best one, in every iteration.

    Attributes:
        width: standard deviation around the best plan; with keys the probability of pressing another one. Above 0, at
            most 1.
    """

    width: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= 1:
            raise ConfigError(f"width lies in (0, 1]; got {self.width}.")

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """The belief that the best plan is nearly right."""
        return belief.around(pick(plans, cost.argmin(1, keepdim=True))[:, 0], self.width)


@dataclass(frozen=True)
class CEM(SamplingSolver):
    """Cross-entropy method: refit the belief to the elites, all alike.

    Vectors are drawn from normal distributions within the bounds, keys from probabilities per step.
    """

    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """Equal weight to the `elites` cheapest plans (of finite cost), none to the others."""
        chosen = cost.argsort(dim=1, stable=True)[:, : self.elites]
        weights = torch.zeros_like(cost).scatter(1, chosen, 1.0) * cost.isfinite()
        return belief.fit(plans, weights / weights.sum(1, keepdim=True), self.smoothing)


@dataclass(frozen=True)
class CategoricalCEM(CEM):
    """Cross-entropy method over keys alone: what `CEM` does with them, and an error where actions are vectors."""

    def tries(self, problem: Problem, warm: WarmStart | None) -> Iterator[tuple[Tensor, Tensor]]:
        if problem.spec.kind != "discrete":
            raise ConfigError("CategoricalCEM chooses among keys, and this world's actions are vectors; use CEM.")
        return super().tries(problem, warm)


@dataclass(frozen=True)
class ICEM(CEM):
    """iCEM (Pinneri et al. 2020): CEM with coloured noise, elites kept from iteration to iteration and from plan to
    plan, and fewer candidates in later iterations.

    Attributes:
        exponent: of the noise's spectrum, 0 for white; `persistence` means nothing here.
        decay: by which the candidates grow fewer from one iteration to the next, at least 1; never fewer than twice the
            elites.
        keep: share of the elites to try again, in [0, 1].
    """

    exponent: float = 2.0
    decay: float = 1.25
    keep: float = 0.3

    def __post_init__(self) -> None:
        if self.exponent < 0 or self.decay < 1 or not 0 <= self.keep <= 1:
            raise ConfigError(
                "exponent is 0 or more, decay 1 or more and keep lies in [0, 1]; got "
                f"{self.exponent}, {self.decay} and {self.keep}."
            )
        super().__post_init__()

    def population(self, iteration: int) -> int:
        least = min(2 * self.elites, self.candidates)
        return max(least, int(self.candidates * self.decay**-iteration))

    def sample(self, belief: Belief, draws: Draws, n: int, iteration: int) -> Tensor:
        return belief.sample_coloured(draws, n, self.exponent)

    def inherit(self, warm: WarmStart) -> Tensor:
        return warm.plans[:, : 1 + self._kept]

    def retain(self, elites: Tensor, belief: Belief) -> Tensor:
        return torch.cat([elites[:, : max(1, self._kept)], belief.mode().unsqueeze(1)], 1)

    @property
    def _kept(self) -> int:
        return round(self.keep * self.elites)


@dataclass(frozen=True)
class MPPI(SamplingSolver):
    """Model predictive path integral control: refit the belief to all candidates, weighted by exp(-cost / temperature).

    Attributes:
        temperature: above 0, in units of the standard deviation of the elites' costs, so that it need not be tuned to
            the objective's scale.
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
        scale = (finite - least[:, :1]).std(1, keepdim=True, correction=0).nan_to_num(_HUGE, posinf=_HUGE)
        weights = torch.softmax(-(cost - least[:, :1]) / (self.temperature * scale.clamp(min=1 / _HUGE)), 1)
        return belief.fit(plans, weights, self.smoothing)
