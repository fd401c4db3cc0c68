"""`SamplingSolver`: solvers that draw candidates from a belief and sharpen it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .beliefs import Belief, Draws, WarmStart, initial_belief
from .problem import Imagined, Problem
from .solver import Solver, pick
from .values import Policy


@dataclass(frozen=True)
class SamplingSolver(Solver):
    """Draws candidates from a belief, which `refine` makes of what they cost.

    The best plan so far and the most likely one are always among the candidates, so the cost never rises.

    Attributes:
        persistence: how alike consecutive decisions of a candidate are at first, in [0, 1); see `Belief.sample`. It
            falls linearly over the iterations.
        smoothing: how much of the previous belief stays at each refinement, in [0, 1).
        policy: proposes plans of its own in its imagination, which compete with the candidates in every iteration
            (TD-MPC2 §3.2); the world needs a state space. Proposing them takes as many model steps as imagining them.
        proposals: how many plans of it, at most `candidates` less 2.
    """

    persistence: float = 0.5
    smoothing: float = 0.1
    policy: Policy | None = None
    proposals: int = 8

    def __post_init__(self) -> None:
        for name in ("persistence", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} lies in [0, 1); got {getattr(self, name)}.")
        if self.policy is not None and not 1 <= self.proposals <= self.candidates - 2:
            raise ConfigError(
                f"proposals lie between 1 and two less than the {self.candidates} candidates; got {self.proposals}."
            )
        super().__post_init__()

    @abstractmethod
    def refine(self, belief: Belief, plans: Tensor, cost: Tensor) -> Belief:
        """What to try next, now that plans (B, N, L, ...) turned out to cost (B, N), infinite at worst."""

    def sample(self, belief: Belief, draws: Draws, n: int, iteration: int) -> Tensor:
        """n plans (B, n, L, ...) to try."""
        return belief.sample(draws, n, self.persistence * (1 - iteration / self.iterations))

    def inherit(self, warm: WarmStart) -> Tensor:
        """Plans (B, P, L, ...) of the previous search to try first."""
        return warm.plans[:, :1]

    def retain(self, elites: Tensor, belief: Belief) -> Tensor:
        """Plans (B, P, L, ...) to try again beside new ones, of elites (B, E, L, ...) and what they taught."""
        return torch.stack([elites[:, 0], belief.mode()], 1)

    @property
    def overhead(self) -> int:
        return 1 if self.policy is None else 1 + 2 * self.proposals

    def tries(self, problem: Problem, warm: WarmStart | None) -> Iterator[tuple[Tensor, Tensor]]:
        b = len(problem.seeds)
        belief = initial_belief(problem.spec, b, self.decisions, warm, problem.seeds.device)
        proposed, proposed_cost = self._propose(problem)
        fixed = None if warm is None else self.inherit(warm)
        usable = None if warm is None else warm.usable
        for iteration, n in enumerate(self.populations()):
            sampled = self.sample(belief, Draws(problem.seeds, problem.step, self.seed, iteration), n, iteration)
            plans = sampled
            if fixed is not None:
                fixed = fixed[:, : n - 1]
                plans = torch.cat([fixed, sampled[:, : n - fixed.shape[1]]], 1)
            if usable is not None:
                # A world without a previous plan draws what it would draw alone.
                plans = torch.where(usable.view(-1, *[1] * (plans.ndim - 1)), plans, sampled)
                usable = None
            cost = problem.cost(self.steps(plans))
            if proposed is not None and proposed_cost is not None:
                # What they cost is known: they are not imagined again.
                plans, cost = torch.cat([plans, proposed], 1), torch.cat([cost, proposed_cost], 1)
            yield self.steps(plans), cost
            belief = self.refine(belief, plans, cost)
            order = cost.argsort(dim=1, stable=True)[:, : self.elites]
            fixed = self.retain(pick(plans, order), belief)

    def _propose(self, problem: Problem) -> tuple[Tensor | None, Tensor | None]:
        """The policy's plans (B, P, L, ...) and their costs (B, P)."""
        if self.policy is None:
            return None, None
        if not isinstance(problem, Imagined):
            raise ConfigError("A policy proposes plans in a world; a plain function has none to offer it.")
        draws = Draws(problem.seeds, problem.step, self.seed, self.iterations)
        plans = problem.tree.follow(self.policy, self.horizon, self.proposals, draws)[:, :, :: self.action_repeat]
        return plans, problem.cost(self.steps(plans))
