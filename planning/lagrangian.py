"""`Lagrangian`: any planner, made to keep to constraints."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from .constraints import Constraint
from .objectives import Objective
from .planner import Plan, Planner, Question
from .rollout import RolloutTree
from .rollout_batch import RolloutBatch


@dataclass(frozen=True)
class Lagrangian(Planner):
    """Augmented Lagrangian method: plan, raise the price of what was violated, plan again.

    In every round the objective has λ·g + ρ/2·g² added for each constraint violated by g, and λ grows by ρ·g. Of all
    rounds' plans the cheapest that keeps to the constraints is taken, or, where none does, the one that violates them
    least.

    Attributes:
        planner: what plans in every round.
        constraints: what to keep to.
        rounds: how often to plan, each time from the last plan.
        stiffness: ρ, above 0: cost of one unit of violation, squared.
        tolerance: violation that counts as none.
    """

    planner: Planner
    constraints: tuple[Constraint, ...]
    rounds: int = 4
    stiffness: float = 1.0
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.constraints or self.rounds < 1 or self.stiffness <= 0 or self.tolerance < 0:
            raise ConfigError(
                "A Lagrangian needs a constraint, rounds >= 1, stiffness > 0 and tolerance >= 0; got "
                f"{len(self.constraints)} constraints, {self.rounds}, {self.stiffness} and {self.tolerance}."
            )

    @property
    def horizon(self) -> int:
        return self.planner.horizon

    @property
    def futures(self) -> int:
        return self.planner.futures

    def answer(self, question: Question) -> Plan:
        state, objective = question.state, question.objective
        prices = torch.zeros(state.batch_size, len(self.constraints), dtype=torch.float64, device=state.device)
        tree = RolloutTree(question.world, state, futures=self.futures)
        best: Plan | None = None
        worst = own = torch.empty(0)
        steps = calls = 0
        for _ in range(self.rounds):
            priced = _Priced(objective, self.constraints, prices, self.stiffness)
            plan = self.planner.answer(replace(question, objective=priced))
            question = replace(question, previous=plan, executed=0)
            steps, calls = steps + plan.model_steps, calls + plan.model_calls
            plans = plan.actions.unsqueeze(1).repeat_interleave(self.futures, 1)
            rollout = tree.roll_out(plans, objective.needs_latents, objective.needs_vectors)
            violated = violations(self.constraints, rollout).mean(1)
            cost, off = objective.cost(rollout).mean(1).to(torch.float64), violated.amax(-1)
            if best is None:
                best, worst, own = plan, off, cost
            else:
                kept, keeps = worst <= self.tolerance, off <= self.tolerance
                better = torch.where(kept & keeps, cost < own, torch.where(kept | keeps, keeps, off < worst))
                best = chosen(better, plan, best)
                worst, own = torch.where(better, off, worst), torch.where(better, cost, own)
            prices = (prices + self.stiffness * violated).clamp(min=0)
        assert best is not None
        return replace(best, cost=own, model_steps=steps + tree.model_steps, model_calls=calls + tree.model_calls)


@dataclass(frozen=True)
class _Priced(Objective):
    """An objective, and what violations cost at ``prices`` (B, C)."""

    objective: Objective
    constraints: tuple[Constraint, ...]
    prices: Tensor
    stiffness: float

    @property
    def needs_latents(self) -> bool:
        return self.objective.needs_latents

    @property
    def needs_vectors(self) -> bool:
        return self.objective.needs_vectors

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        off = violations(self.constraints, rollouts)
        priced = self.prices.unsqueeze(1) * off + self.stiffness / 2 * off.square()
        return self.objective.cost(rollouts) + priced.sum(-1)


def violations(constraints: tuple[Constraint, ...], rollouts: RolloutBatch) -> Tensor:
    """(B, N, C) float64, by how much each plan violates each constraint; 0 where it is kept."""
    return torch.stack([c.violation(rollouts).to(torch.float64) for c in constraints], -1).clamp(min=0)


def chosen(mask: Tensor, plan: Plan, other: Plan) -> Plan:
    """World by world, ``plan`` where ``mask`` (B,) holds and ``other`` elsewhere."""

    def pick(name: str) -> Tensor:
        a, b = getattr(plan, name), getattr(other, name)
        if a.ndim == 2 and a.shape[1] != b.shape[1]:
            # A search that ended sooner found nothing better later.
            length = max(a.shape[1], b.shape[1])
            a, b = (torch.cat([x, x[:, -1:].expand(-1, length - x.shape[1])], 1) for x in (a, b))
        return torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)

    return Plan(
        actions=pick("actions"),
        cost=pick("cost"),
        costs_per_iteration=pick("costs_per_iteration"),
        elites=pick("elites"),
        elite_costs=pick("elite_costs"),
        poses=pick("poses"),
        latents=pick("latents"),
        uncertainty=pick("uncertainty"),
        model_steps=plan.model_steps,
        model_calls=plan.model_calls,
    )
