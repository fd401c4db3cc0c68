"""What a search is given: plans in, costs out, and a count of what they took."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import WorldloopError
from ..world_models.actions import ActionSpec
from ..world_models.state import WorldState
from ..world_models.world import World
from .objectives import Objective
from .rollout import RolloutTree
from .soft_rollout import soft_costs

PlanFunction = Callable[[Tensor], Tensor]
"""Costs (B, N) of plans (B, N, H, ...)."""


class Problem(ABC):
    """B searches side by side.

    Attributes:
        spec: what one action of a plan is.
        seeds: (B,) int64, and
        step: (B,) int64, which the random numbers of each search are a function of.
    """

    def __init__(self, spec: ActionSpec, seeds: Tensor, step: Tensor) -> None:
        self.spec, self.seeds, self.step = spec, seeds, step

    @property
    @abstractmethod
    def model_steps(self) -> int:
        """Worlds imagined one step so far."""

    @abstractmethod
    def raw_cost(self, plans: Tensor) -> Tensor:
        """Cost (B, N) of plans (B, N, H, ...), whatever comes."""

    @abstractmethod
    def slope(self, plans: Tensor) -> tuple[Tensor, Tensor]:
        """Cost (B, N) and its gradient, of plans (B, N, H, n) of vectors, or (B, N, H, K) of shares of K keys.

        Raises:
            WorldloopError: the cost has no gradient.
        """

    def cost(self, plans: Tensor) -> Tensor:
        """Cost (B, N) float64 of plans (B, N, H, ...); what is no finite number is infinite.

        Raises:
            ValueError: the objective gives another shape.
        """
        return checked_costs(self.raw_cost(plans), tuple(plans.shape[:2]))


def checked_shape(cost: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``cost`` (B, N) as it is; errors as `Problem.cost`."""
    if tuple(cost.shape) != shape:
        raise ValueError(f"An objective gives one cost per world and plan, {shape}; got shape {tuple(cost.shape)}.")
    return cost


def checked_costs(cost: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``cost`` (B, N) as float64 with infinity for what is no finite number; errors as `Problem.cost`."""
    cost = checked_shape(cost, shape).detach().to(torch.float64)
    return torch.where(cost.isfinite(), cost, torch.inf)


def refuse_hopeless(best: Tensor) -> None:
    """Refuse worlds of which nothing better than infinity was found: best (B,).

    Raises:
        WorldloopError: with which they are.
    """
    hopeless = best.isinf().nonzero().flatten().tolist()
    if hopeless:
        raise WorldloopError(
            f"None of the candidate plans has a finite cost in worlds {hopeless}; "
            "look for NaN in the objective's goal or in what the world predicts."
        )


class Imagined(Problem):
    """What plans cost where a world imagines them: in ``futures`` that differ by chance, their mean."""

    def __init__(
        self, world: World, state: WorldState, objective: Objective, max_batch: int, futures: int = 1
    ) -> None:
        super().__init__(world.actions, state.seeds, state.step)
        self.world, self.state, self.objective, self.max_batch = world, state, objective, max_batch
        self.futures = futures
        self.tree = RolloutTree(world, state, max_batch, futures=futures)
        self._soft_steps = self._soft_calls = 0

    @property
    def model_steps(self) -> int:
        return self.tree.model_steps + self._soft_steps

    @property
    def model_calls(self) -> int:
        """Calls of `World.imagine` so far."""
        return self.tree.model_calls + self._soft_calls

    def raw_cost(self, plans: Tensor) -> Tensor:
        return self.mean_cost(plans.repeat_interleave(self.futures, 1))

    def mean_cost(self, plans: Tensor) -> Tensor:
        """Cost (B, N), whatever comes, of plans (B, N·F, H, ...): of each the mean over F in a row, each of which is
        imagined in a future of its own."""
        batch = self.tree.roll_out(plans, self.objective.needs_latents, self.objective.needs_vectors)
        cost = checked_shape(self.objective.cost(batch), tuple(plans.shape[:2]))
        mean: Tensor = cost.unflatten(1, (-1, self.futures)).mean(2)
        return mean

    def slope(self, plans: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for future in range(self.futures):
            state = self.tree.future(future)
            *cost_and_gradient, calls = soft_costs(self.world, state, self.objective, plans, self.max_batch)
            found.append(cost_and_gradient)
            self._soft_steps += plans.shape[0] * plans.shape[1] * plans.shape[2]
            self._soft_calls += calls
        cost, gradient = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
        return cost, gradient


class PlainFunction(Problem):
    """What plans cost where a function says so, ``batch`` times side by side."""

    def __init__(self, function: PlanFunction, spec: ActionSpec, batch: int) -> None:
        super().__init__(spec, torch.arange(batch), torch.zeros(batch, dtype=torch.int64))
        self._function, self._steps = function, 0

    @property
    def model_steps(self) -> int:
        return self._steps

    def raw_cost(self, plans: Tensor) -> Tensor:
        self._steps += plans.shape[0] * plans.shape[1] * plans.shape[2]
        return self._function(plans)

    def slope(self, plans: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.kind == "discrete":
            raise WorldloopError("A function of whole keys has no gradient; choose a solver that samples.")
        with torch.inference_mode(False), torch.enable_grad():
            x = plans.clone().requires_grad_()
            cost = self.raw_cost(x)
            if not cost.requires_grad:
                raise WorldloopError("This function's cost has no gradient; choose a solver that samples.")
            (gradient,) = torch.autograd.grad(cost.sum(), x)
        return cost.detach(), gradient
