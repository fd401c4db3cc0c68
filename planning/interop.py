"""Solvers and costs of other projects: our world for stable-worldmodel's solvers, our solvers on a plain function."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.state import WorldState
from ..world_models.world import World
from .constraints import Constraint
from .objectives import Objective
from .problem import PlanFunction
from .rollout import RolloutTree
from .rollout_batch import RolloutBatch
from .soft_rollout import soft_roll_out
from .solver import Found, Solver

WORLD = "world"
"""Key of the dictionaries that stable-worldmodel's solvers pass on, under which `StableCost` finds which world a row
is."""


class StableCost:
    """An imagined world as the cost that stable-worldmodel's solvers minimise (their protocol ``Costable``).

    It has no need of that package. Its solvers slice and repeat a dictionary of arrays for every candidate; here that
    only
    says which of the B worlds a row is: ``cost.info`` is what to hand to ``solve``.

    Example:
        >>> cost = StableCost(world, state, GoalPose(goal))
        >>> solver = stable_worldmodel.solver.CEMSolver(cost, num_samples=64)
        >>> solver.configure(action_space=cost.action_space, n_envs=state.batch_size, config=PlanConfig(horizon=8, …))
        >>> plan = solver.solve(cost.info)["actions"]                   # (B, 8, n)

    Candidates outside the bounds, which those solvers draw, are brought back to them first; keys come one-hot, as its
    categorical solver has them. Gradients flow where the world lets them.

    Args:
        world: where to imagine.
        state: B worlds to plan for, as they are now. Make another `StableCost` for the next step.
        objective: what to achieve, of all B worlds alike: a goal for each of them does not fit rows in any order.
        constraints: what its Lagrangian solver keeps to.
        max_batch: worlds to imagine at a time.
    """

    def __init__(
        self,
        world: World,
        state: WorldState,
        objective: Objective,
        constraints: tuple[Constraint, ...] = (),
        max_batch: int = 256,
    ) -> None:
        self._world, self._state, self._objective = world, state, objective
        self._constraints, self._max_batch = constraints, max_batch
        self.model_steps = 0
        """Worlds imagined one step so far."""
        if constraints:
            # The solver looks whether there is such a method at all.
            self.get_constraints = self._get_constraints

    @property
    def info(self) -> dict[str, Tensor]:
        """(B, 1) the number of each world."""
        return {WORLD: torch.arange(self._state.batch_size).unsqueeze(1)}

    @property
    def action_space(self) -> gym.Space[Any]:
        """What ``configure`` asks for: batched vectors, or one set of keys."""
        spec, b = self._world.actions, self._state.batch_size
        if spec.kind == "discrete":
            return gym.spaces.Discrete(spec.n)
        return gym.spaces.Box(-1, 1, (b, spec.n))

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs (R, S) of candidates (R, S, H, n) for rows of worlds; see `info`."""
        return self._objective.cost(self._rollouts(info_dict, action_candidates)).to(torch.float32)

    def criterion(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """`get_cost`: imagining and judging are not apart here."""
        return self.get_cost(info_dict, action_candidates)

    def _get_constraints(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """(R, S, C), 0 or less where a constraint is kept."""
        rollouts = self._rollouts(info_dict, action_candidates)
        return torch.stack([c.violation(rollouts) for c in self._constraints], -1).to(torch.float32)

    def _rollouts(self, info: dict[str, Any], candidates: Tensor) -> RolloutBatch:
        if WORLD not in info:
            raise ValueError(f"Hand the solver this cost's info: its dictionary has no {WORLD!r}.")
        rows = torch.as_tensor(info[WORLD]).reshape(len(candidates), -1)[:, 0].long()
        # An action block is several steps side by side.
        plans = candidates.to(torch.float32).unflatten(-1, (-1, self._world.actions.n)).flatten(2, 3)
        keys = self._world.actions.kind == "discrete"
        if not keys:
            plans = plans.clamp(-1, 1)
        self.model_steps += plans.shape[0] * plans.shape[1] * plans.shape[2]
        if plans.requires_grad:
            return soft_roll_out(self._world, self._state[rows], self._objective, plans)
        tree = RolloutTree(self._world, self._state[rows], self._max_batch)
        whole = plans.argmax(-1) if keys else plans
        return tree.roll_out(whole, self._objective.needs_latents, self._objective.needs_vectors)


def minimise(solver: Solver, function: PlanFunction, space: gym.Space[Any], batch: int = 1) -> Found:
    """The least of a plain function over plans of actions in a Gymnasium space.

    Example:
        >>> space = gym.spaces.Box(0, 5, (2,))
        >>> found = minimise(CEM(horizon=3), lambda plans: (plans - 2).square().sum((-1, -2)), space)
        >>> found.plans                                                 # (1, 3, 2), all near 2

    Args:
        solver: how to search.
        function: costs (B, N) of plans (B, N, H, ...) in the space's own units; made of torch operations where the
            solver follows gradients.
        space: ``Discrete``, or ``Box`` with finite bounds.
        batch: B, searches side by side.

    Returns:
        Plans and elites in the space's own units.

    Raises:
        ConfigError: another space, or bounds that are not finite.
    """
    if isinstance(space, gym.spaces.Discrete):
        first, count = int(space.start), int(space.n)
        keys = ActionSpec("discrete", tuple(map(str, range(count))), ((0.0,) * 5,) * count)
        return _mapped(solver.minimise(lambda plans: function(plans + first), keys, batch), lambda plans: plans + first)
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(f"A plan is made of actions of a Discrete or Box space; got {space}.")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(f"Candidates are drawn within bounds, so a Box needs finite ones; got {space}.")
    shape = space.shape
    low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (space.low, space.high))

    def own(plans: Tensor) -> Tensor:
        shares: Tensor = (plans.unflatten(-1, shape) + 1) / 2
        return low + shares * (high - low)

    n = int(np.prod(space.shape))
    axes = ActionSpec("box", tuple(map(str, range(n))), ((0.0,) * 5,) * n)
    return _mapped(solver.minimise(lambda plans: function(own(plans)), axes, batch), own)


def _mapped(found: Found, own: PlanFunction) -> Found:
    return Found(own(found.plans), found.cost, found.costs_per_iteration, own(found.elites), found.elite_costs)
