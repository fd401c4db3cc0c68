"""`Solver`: what all planners do; its subclasses only say how they learn from the candidates they tried."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, WorldloopError
from ..world_models.actions import ActionSpec
from ..world_models.state import WorldState
from ..world_models.world import World
from .beliefs import Belief, Draws, initial_belief
from .objectives import Objective
from .rollout import RolloutTree

_LOG = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Solver(ABC):
    """Finds plans by imagining candidates, keeping the best, and refining what to try next.

    A solver keeps nothing between calls: equal arguments give equal plans, and each world of a batch is
    planned for as if it were alone.

    Attributes:
        horizon: steps to look ahead, H.
        candidates: plans to try in each iteration, N.
        iterations: how often to refine them, I.
        elites: best candidates to learn from and to report, E.
        action_repeat: steps that each decision lasts; divides the horizon.
        persistence: how alike consecutive decisions of a candidate are at first, in [0, 1); see
            `Belief.sample`. It falls linearly over the iterations.
        smoothing: how much of the previous belief stays at each refinement, in [0, 1).
        max_batch: worlds to imagine at a time.
        seed: of the candidates.

    Raises:
        ConfigError: a field outside its range.
    """

    horizon: int = 10
    candidates: int = 64
    iterations: int = 3
    elites: int = 8
    action_repeat: int = 1
    persistence: float = 0.5
    smoothing: float = 0.1
    max_batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("horizon", "iterations", "elites", "action_repeat", "max_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"A planner needs {name} >= 1; got {getattr(self, name)}.")
        if self.candidates < 2:
            raise ConfigError(f"A planner needs at least 2 candidates to choose from; got {self.candidates}.")
        for name in ("persistence", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} lies in [0, 1); got {getattr(self, name)}.")
        if self.horizon % self.action_repeat:
            raise ConfigError(
                f"action_repeat divides the horizon; got {self.action_repeat} and {self.horizon} steps."
            )
        if self.elites > self.candidates:
            raise ConfigError(f"{self.elites} elites cannot be chosen among {self.candidates} candidates.")

    @abstractmethod
    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """What to try next, now that plans (B, N, L, ...) turned out to cost (B, N), infinite at worst."""

    @property
    def max_model_steps(self) -> int:
        """The most worlds that planning for one world imagines one step."""
        return self.horizon * (self.candidates * self.iterations + 1)

    def plan(
        self,
        world: World,
        state: WorldState,
        objective: Objective,
        previous: Plan | None = None,
        executed: int = 1,
    ) -> Plan:
        """The best plan found for each of B worlds.

        Args:
            world: where to imagine.
            state: the B worlds, as they are now.
            objective: what to achieve.
            previous: the last plan for them, to begin from (warm start).
            executed: how many of its actions have been carried out since.

        Raises:
            WorldloopError: no candidate of some world has a finite cost.
            ValueError: the objective does not fit the worlds.
        """
        spec, b, decisions = world.actions, state.batch_size, self.horizon // self.action_repeat
        start = None if previous is None else self._remaining(previous, executed, spec)
        belief = initial_belief(spec, b, decisions, start, state.device)
        proven = [] if start is None else [start]
        tree = RolloutTree(world, state, self.max_batch)
        history: list[Tensor] = []
        for iteration in range(self.iterations):
            fixed = [plan.unsqueeze(1) for plan in proven[: self.candidates - 1]]
            sampled = belief.sample(
                Draws(state, self.seed, iteration),
                self.candidates - len(fixed),
                self.persistence * (1 - iteration / self.iterations),
            )
            plans = torch.cat([*fixed, sampled], 1)
            cost = self._cost(objective, tree, plans)
            belief = self.refine(belief, plans, cost)
            order = cost.argsort(dim=1, stable=True)[:, : self.elites]
            elites, elite_costs = _pick(plans, order), cost.gather(1, order)
            history.append(elite_costs[:, 0])
            # The best plan is tried again in the next iteration, so the last one's best is the best of all.
            proven = [elites[:, 0], belief.mode()]
        chosen = tree.roll_out(self._steps(elites[:, :1]), latents=True)
        assert chosen.latents is not None
        _LOG.debug(
            "Planned for %d worlds in %d imagined steps and %d model calls; mean cost %.4g.",
            b,
            tree.model_steps,
            tree.model_calls,
            float(history[-1].mean()),
        )
        return Plan(
            actions=chosen.actions[:, 0],
            cost=history[-1],
            costs_per_iteration=torch.stack(history, 1),
            elites=self._steps(elites),
            elite_costs=elite_costs,
            poses=chosen.poses[:, 0],
            latents=chosen.latents[:, 0],
            uncertainty=chosen.uncertainty[:, 0],
            model_steps=tree.model_steps,
            model_calls=tree.model_calls,
        )

    def _cost(self, objective: Objective, tree: RolloutTree, plans: Tensor) -> Tensor:
        cost = objective.cost(tree.roll_out(self._steps(plans), objective.needs_latents))
        if tuple(cost.shape) != tuple(plans.shape[:2]):
            raise ValueError(
                f"An objective gives one cost per world and plan, {tuple(plans.shape[:2])}; "
                f"got shape {tuple(cost.shape)}."
            )
        cost = cost.to(torch.float64)
        cost = torch.where(cost.isfinite(), cost, torch.inf)
        hopeless = cost.isinf().all(1).nonzero().flatten().tolist()
        if hopeless:
            raise WorldloopError(
                f"None of the {plans.shape[1]} candidate plans has a finite cost in worlds {hopeless}; "
                "look for NaN in the objective's goal or in what the world predicts."
            )
        return cost

    def _steps(self, plans: Tensor) -> Tensor:
        """Actions (B, N, H, ...) of decisions (B, N, L, ...)."""
        return plans.repeat_interleave(self.action_repeat, 2)

    def _remaining(self, previous: Plan, executed: int, spec: ActionSpec) -> Tensor:
        """Decisions (B, L, ...) of what is left of a plan, resting afterwards."""
        left = previous.actions[:, executed : executed + self.horizon]
        missing = self.horizon - left.shape[1]
        rest = _rest(spec, left).expand(left.shape[0], missing, *left.shape[2:])
        return torch.cat([left, rest], 1)[:, :: self.action_repeat]


def _rest(spec: ActionSpec, like: Tensor) -> Tensor:
    """The action that moves least, of the type of ``like``, shape () or (n,)."""
    if spec.kind == "box":
        return like.new_zeros(spec.n)
    return like.new_tensor(min(range(spec.n), key=lambda i: sum(abs(x) for x in spec.motion[i])))


def _pick(plans: Tensor, order: Tensor) -> Tensor:
    """Plans (B, E, ...) of plans (B, N, ...) at indices (B, E)."""
    return plans[torch.arange(len(plans), device=plans.device).unsqueeze(1), order]
