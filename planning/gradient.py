"""`GradientPlanner`: follow the gradient of the cost through the world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from .beliefs import Draws, WarmStart, initial_belief
from .problem import Problem, checked_costs
from .solver import Solver

Method = Literal["adam", "projected"]
"""``adam``: Adam (Kingma & Ba 2015). ``projected``: steps of equal length down the slope (projected gradient descent).
Both come back to the nearest allowed plan after each step."""

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-12


@dataclass(frozen=True)
class GradientPlanner(Solver):
    """Moves every candidate down the slope of its cost, on its own.

    It needs a world that gradients flow through: one that imagines in state space is cheap, video goes through every
    denoising step. Vectors stay within the bounds. Keys are relaxed to shares of keys, which start even but for chance
    and are rounded to the largest in order to be judged, so each candidate is imagined twice; see `soft_rollout` for
    what a share of a key does. Candidates whose cost or gradient is no finite number stay where they are.

    Attributes:
        candidates: starting points, N.
        iterations: steps down the slope and judgements, I.
        method: see `Method`.
        rate: length of a step, above 0: about what a coordinate of a plan or a share of a key changes by at first.
    """

    candidates: int = 16
    iterations: int = 20
    method: Method = "adam"
    rate: float = 0.2

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"method is one of {', '.join(get_args(Method))}; got {self.method!r}.")
        if self.rate <= 0:
            raise ConfigError(f"rate is above 0; got {self.rate}.")
        super().__post_init__()

    @property
    def passes(self) -> int:
        return 2

    def tries(self, problem: Problem, warm: WarmStart | None) -> Iterator[tuple[Tensor, Tensor]]:
        keys = problem.spec.kind == "discrete"
        populations = self.populations()
        x = self._start(problem, warm, populations[0])
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for iteration in range(len(populations)):
            with torch.inference_mode(False), torch.enable_grad():
                leaf = x.clone().requires_grad_()
                soft = self.steps(leaf)
                cost, along_steps = problem.slope(soft.detach())
                (gradient,) = torch.autograd.grad(soft, leaf, along_steps)
            alive = cost.isfinite() & gradient.flatten(2).isfinite().all(-1)
            plans = self.steps(x.argmax(-1) if keys else x)
            yield plans, problem.cost(plans) if keys else checked_costs(cost, tuple(plans.shape[:2]))
            gradient = torch.where(_like(alive, x), gradient, torch.zeros_like(x))
            # Steps shrink to a tenth: else they would jump to and fro over the best point.
            rate = self.rate * (1 - 0.9 * iteration / len(populations))
            if self.method == "adam":
                first, second = _FIRST * first + (1 - _FIRST) * gradient, _SECOND * second + (1 - _SECOND) * gradient**2
                mean, square = first / (1 - _FIRST ** (iteration + 1)), second / (1 - _SECOND ** (iteration + 1))
                moved = x - rate * mean / (square.sqrt() + _TINY)
            else:
                steepest = gradient.abs().flatten(2).amax(-1)
                moved = x - rate * gradient / _like(steepest + _TINY, x)
            x = torch.where(_like(alive, x), _nearest_shares(moved) if keys else moved.clamp(-1, 1), x)

    def _start(self, problem: Problem, warm: WarmStart | None, n: int) -> Tensor:
        """Points (B, n, L, ...) to begin from: the rest of the last plan, and others drawn at random."""
        draws = Draws(problem.seeds, problem.step, self.seed, 0)
        spec, b = problem.spec, len(problem.seeds)
        if spec.kind == "box":
            belief = initial_belief(spec, b, self.decisions, warm, problem.seeds.device)
            points, last = belief.sample(draws, n, 0.5), None if warm is None else warm.plans[:, :1]
        else:
            points = _nearest_shares(1 / spec.n + 0.2 * draws.normal(n, self.decisions, spec.n))
            shares = None if warm is None else torch.nn.functional.one_hot(warm.plans[:, :1], spec.n).to(points)
            # Not quite pressed: from a corner of the simplex the slope leads nowhere soon.
            last = None if shares is None else 0.8 * shares + 0.2 / spec.n
        if warm is None or last is None:
            return points
        return torch.where(_like(warm.usable, points), torch.cat([last, points[:, : n - 1]], 1), points)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """``mask`` (B,) or (B, N) with trailing axes, to go with x (B, N, ...)."""
    return mask.view(*mask.shape, *[1] * (x.ndim - mask.ndim))


def _nearest_shares(x: Tensor) -> Tensor:
    """The nearest points (..., K) that are 0 or more and sum to 1 (Duchi et al. 2008, fig. 1)."""
    falling = x.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, device=x.device)
    rank = (falling * count > excess).sum(-1, keepdim=True)
    return (x - excess.gather(-1, rank - 1) / rank).clamp(min=0)
