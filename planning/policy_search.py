"""`PolicySearch`: a policy's own plans, weighed by what imagination says they come to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .beliefs import Draws
from .planner import IterationReport, Plan, Planner, Question
from .problem import Imagined, checked_costs, refuse_hopeless
from .solver import pick
from .values import Policy


@dataclass(frozen=True)
class PolicySearch(Planner):
    """Improves a policy by looking ahead: chooses among plans that the policy itself makes in imagination.

    What an action comes to, Q, is the mean cost of all plans that begin with it. The first action is drawn among those
    of the plans with probability proportional to exp(−Q / temperature): the policy π improved to π · exp(−Q /
    temperature), no farther from it than the temperature allows (rollout, Tesauro & Galperin 1996; the weights of MPO,
    Abdolmaleki et al. 2018). Where imagination says the same of all, the policy is what remains. Of the plans beginning
    with that action one is drawn in the same way, by its own cost; vectors are each begun with once, so that Q is their
    plan's.

    Attributes:
        policy: whose plans they are; the world needs a state space.
        horizon: steps of a plan.
        candidates: plans, at least 2.
        temperature: of the choice, in units of the objective, 0 or more; 0 takes the cheapest.
        futures: that each plan's first action is followed up in by the policy, every time acting on what it sees there;
            the cost is their mean. What is returned is the plan of the first.
        elites: cheapest plans to report, at most as many as there are candidates.
        max_batch: worlds to imagine at a time.
        seed: of the policy's draws and of the choice.

    Raises:
        ConfigError: a field outside its range.
    """

    policy: Policy
    horizon: int = 8
    candidates: int = 8
    temperature: float = 0.05
    futures: int = 1
    elites: int = 4
    max_batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.horizon, self.futures, self.max_batch) < 1:
            raise ConfigError(
                f"horizon, futures and max_batch are 1 or more; got {self.horizon}, {self.futures} and "
                f"{self.max_batch}."
            )
        if self.candidates < 2:
            raise ConfigError(f"A planner needs at least 2 candidates to choose from; got {self.candidates}.")
        if not 1 <= self.elites <= self.candidates:
            raise ConfigError(f"elites lie between 1 and the {self.candidates} candidates; got {self.elites}.")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is 0 or more; got {self.temperature}.")

    @property
    def max_model_steps(self) -> int:
        """The most worlds that planning for one world imagines one step; plans of keys share their beginnings."""
        return (2 * self.candidates * self.futures + 1) * self.horizon

    def answer(self, question: Question) -> Plan:
        problem = Imagined(question.world, question.state, question.objective, self.max_batch, self.futures)
        draws = Draws(problem.seeds, problem.step, self.seed, 0)
        drawn = self.candidates * self.futures
        followed = problem.tree.follow(self.policy, self.horizon, drawn, draws, self.futures)
        plans = followed[:, :: self.futures]
        cost = checked_costs(problem.mean_cost(followed), tuple(plans.shape[:2]))
        least = cost.min(1).values
        refuse_hopeless(least)
        begun = plans[:, :, 0].reshape(*plans.shape[:2], -1)
        alike = (begun.unsqueeze(2) == begun.unsqueeze(1)).all(-1)
        first = self._drawn(_mean_cost(cost, alike), draws)
        chosen = self._drawn(cost.masked_fill(~pick(alike, first)[:, 0], torch.inf), draws)
        order = cost.argsort(dim=1, stable=True)[:, : self.elites]
        if question.on_iteration is not None:
            question.on_iteration(IterationReport(0, plans, cost, least, problem.model_steps))
        actions = pick(plans, chosen)
        imagined = problem.tree.roll_out(actions, latents=True)
        assert imagined.latents is not None
        return Plan(
            actions=actions[:, 0],
            cost=cost.gather(1, chosen)[:, 0],
            costs_per_iteration=least.unsqueeze(1),
            elites=pick(plans, order),
            elite_costs=cost.gather(1, order),
            poses=imagined.poses[:, 0],
            latents=imagined.latents[:, 0],
            uncertainty=imagined.uncertainty[:, 0],
            model_steps=problem.model_steps,
            model_calls=problem.model_calls,
        )

    def _drawn(self, cost: Tensor, draws: Draws) -> Tensor:
        """Indices (B, 1) of costs (B, N), drawn with probability proportional to exp(−cost / temperature)."""
        # The largest of logits with Gumbel noise is a draw from their softmax; without noise it is the likeliest.
        gumbel = -(-draws.uniform(self.candidates).to(torch.float64).log()).log()
        return (self.temperature * gumbel - cost).argmax(1, keepdim=True)


def _mean_cost(cost: Tensor, alike: Tensor) -> Tensor:
    """What plans of costs (B, N) come to on the average of those they are ``alike`` (B, N, N); infinite ones count for
    none and stay as they are."""
    counted = alike & cost.isfinite().unsqueeze(1)
    mean = torch.where(counted, cost.unsqueeze(1), 0.0).sum(2) / counted.sum(2).clamp(min=1)
    return torch.where(cost.isfinite(), mean, torch.inf)
