"""`Planner`: what makes plans, and `Plan`: what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..world_models.state import WorldState
from ..world_models.world import World
from .objectives import Objective


@dataclass(frozen=True)
class Plan:
    """The best plan found for each of B worlds, and how it was found.

    Attributes:
        actions: (B, H, ...) in the world's action space, one per imagined step.
        cost: (B,) float64.
        costs_per_iteration: (B, I) float64, the least cost found up to each iteration.
        elites: (B, E, H, ...), the best candidates of the last iteration, best first.
        elite_costs: (B, E) float64.
        poses: (B, H, 5) float64 canonical poses that the plan is imagined to lead to.
        latents: (B, H, C, h, w) of the frames; `World.render` shows them.
        uncertainty: (B, H).
        model_steps: worlds imagined one step to find it, over all B.
        model_calls: calls of `World.imagine`.
        draft_steps: worlds imagined one step in another world that drafted the plan, see `DraftThenRefine`.
    """

    actions: Tensor
    cost: Tensor
    costs_per_iteration: Tensor
    elites: Tensor
    elite_costs: Tensor
    poses: Tensor
    latents: Tensor
    uncertainty: Tensor
    model_steps: int
    model_calls: int
    draft_steps: int = 0

    def __getitem__(self, rows: Tensor) -> Plan:
        """The plans of worlds ``rows`` (M,); what was imagined stays counted for all."""
        picked: dict[str, Any] = {name: x[rows] if isinstance(x, Tensor) else x for name, x in vars(self).items()}
        return Plan(**picked)

    def __str__(self) -> str:
        drafted = f" after {self.draft_steps} drafted" if self.draft_steps else ""
        return (
            f"plan of {self.actions.shape[1]} steps for {len(self.actions)} world(s), mean cost "
            f"{float(self.cost.mean()):.4g}: {self.model_steps} model steps in {self.model_calls} calls{drafted}"
        )


@dataclass(frozen=True)
class IterationReport:
    """One iteration of a search.

    Attributes:
        iteration: from 0.
        plans: (B, N, H, ...) that were tried.
        cost: (B, N) float64 of them, infinite for those that have none.
        best: (B,) float64, the least found so far.
        model_steps: worlds imagined one step so far, over all B.
    """

    iteration: int
    plans: Tensor
    cost: Tensor
    best: Tensor
    model_steps: int


OnIteration = Callable[[IterationReport], bool | None]
"""Told after every iteration; True ends the search."""


@dataclass(frozen=True)
class Question:
    """What a planner is asked; see `Planner.plan`."""

    world: World
    state: WorldState
    objective: Objective
    previous: Plan | None = None
    executed: int = 1
    on_iteration: OnIteration | None = None


class Planner(ABC):
    """Finds plans of ``horizon`` steps.

    It keeps nothing between calls: equal arguments give equal plans, and each world of a batch is planned for as if it
    were alone.
    """

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Steps that a plan has, H."""

    @property
    def futures(self) -> int:
        """Futures that a plan's cost is the mean of, see `RolloutTree`."""
        return 1

    @abstractmethod
    def answer(self, question: Question) -> Plan:
        """`plan`, its arguments in one: what a planner implements."""

    def plan(
        self,
        world: World,
        state: WorldState,
        objective: Objective,
        previous: Plan | None = None,
        executed: int = 1,
        on_iteration: OnIteration | None = None,
    ) -> Plan:
        """The best plan found for each of B worlds.

        Args:
            world: where to imagine.
            state: the B worlds, as they are now.
            objective: what to achieve.
            previous: the last plan for them, to begin from (warm start). A world whose plan has an infinite cost begins
                anew.
            executed: how many of its actions have been carried out since.
            on_iteration: told after every iteration.

        Raises:
            WorldloopError: no candidate of some world has a finite cost.
            ConfigError: the planner does not fit the world's actions.
            ValueError: the objective does not fit the worlds.
        """
        return self.answer(Question(world, state, objective, previous, executed, on_iteration))
