"""`Solver`: what all searches share; its subclasses only say what to try next."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .beliefs import WarmStart
from .planner import IterationReport, OnIteration, Plan, Planner, Question
from .problem import Imagined, PlainFunction, PlanFunction, Problem, refuse_hopeless

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The outcome of B searches.

    Attributes:
        plans: (B, H, ...), the best.
        cost: (B,) float64.
        costs_per_iteration: (B, I) float64, the least cost found up to each iteration.
        elites: (B, E, H, ...), the best candidates of the last iteration, best first.
        elite_costs: (B, E) float64.
    """

    plans: Tensor
    cost: Tensor
    costs_per_iteration: Tensor
    elites: Tensor
    elite_costs: Tensor


@dataclass(frozen=True)
class Solver(Planner):
    """Finds plans by imagining candidates, keeping the best, and trying others in the light of them.

    Attributes:
        horizon: steps to look ahead, H.
        candidates: plans to try in each iteration, N.
        iterations: how often to refine them, I.
        elites: best candidates to learn from and to report, E.
        action_repeat: steps that each decision lasts; divides the horizon.
        max_batch: worlds to imagine at a time.
        seed: of the candidates.
        budget: most steps to imagine for one world and plan; None for what the fields above take. Iterations that do
            not fit are left out, with a warning, and so are candidates where not even one iteration fits.
        patience: iterations without a better plan after which a world's search ends; 0 for never.
        futures: that every candidate is imagined in, where the world draws what it imagines; its cost is their mean
            (trajectory sampling of PETS, Chua et al. 2018). In a single one the cheapest candidate is mostly the
            luckiest. Each takes as many model steps.

    Raises:
        ConfigError: a field outside its range, or a budget too small for one iteration of as many candidates as elites.
    """

    horizon: int = 10
    candidates: int = 64
    iterations: int = 3
    elites: int = 8
    action_repeat: int = 1
    max_batch: int = 256
    seed: int = 0
    budget: int | None = None
    patience: int = 0
    futures: int = 1

    def __post_init__(self) -> None:
        for name in ("horizon", "iterations", "elites", "action_repeat", "max_batch", "futures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"A planner needs {name} >= 1; got {getattr(self, name)}.")
        if self.candidates < 2:
            raise ConfigError(f"A planner needs at least 2 candidates to choose from; got {self.candidates}.")
        if self.patience < 0:
            raise ConfigError(f"patience is 0 or more iterations; got {self.patience}.")
        if self.horizon % self.action_repeat:
            raise ConfigError(f"action_repeat divides the horizon; got {self.action_repeat} and {self.horizon} steps.")
        if self.elites > self.candidates:
            raise ConfigError(f"{self.elites} elites cannot be chosen among {self.candidates} candidates.")
        wanted, fitting = self._wanted(), self.populations()
        if sum(fitting) < sum(wanted):
            warnings.warn(
                f"A budget of {self.budget} model steps holds {len(fitting)} of {len(wanted)} iterations, of "
                f"{fitting[0]} candidates; the rest is left out.",
                stacklevel=3,
            )

    @abstractmethod
    def tries(self, problem: Problem, warm: WarmStart | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Plans (B, N, H, ...) and their costs (B, N) float64, iteration by iteration, as many as `populations` says.

        Args:
            problem: what gives costs; infinite for candidates that have none.
            warm: what is left of the previous search, in decisions.
        """

    def population(self, iteration: int) -> int:
        """Candidates of an iteration, where the budget sets no limit."""
        return self.candidates

    @property
    def passes(self) -> int:
        """Times that each candidate is imagined at most."""
        return 1

    @property
    def overhead(self) -> int:
        """Plans imagined beside the candidates, the chosen one among them."""
        return 1

    def populations(self) -> list[int]:
        """Candidates of each iteration, within the budget."""
        wanted = self._wanted()
        if self.budget is None:
            return wanted
        affordable = (self.budget // (self.horizon * self.futures) - self.overhead) // self.passes
        least = max(2, self.elites)
        if affordable < least:
            needed = (least * self.passes + self.overhead) * self.horizon * self.futures
            raise ConfigError(
                f"A budget of {self.budget} model steps is too small for one iteration: {least} candidates of "
                f"{self.horizon} steps, and what else is imagined, take {needed}."
            )
        fitting: list[int] = []
        for n in wanted:
            if sum(fitting) + n > affordable:
                break
            fitting.append(n)
        return fitting or [affordable]

    def _wanted(self) -> list[int]:
        return [self.population(i) for i in range(self.iterations)]

    @property
    def max_model_steps(self) -> int:
        """The most worlds that planning for one world imagines one step."""
        return self.horizon * self.futures * (sum(self.populations()) * self.passes + self.overhead)

    def answer(self, question: Question) -> Plan:
        problem = Imagined(question.world, question.state, question.objective, self.max_batch, self.futures)
        found = self.search(problem, self._remaining(question), question.on_iteration)
        chosen = problem.tree.roll_out(found.plans.unsqueeze(1), latents=True)
        assert chosen.latents is not None
        plan = Plan(
            actions=found.plans,
            cost=found.cost,
            costs_per_iteration=found.costs_per_iteration,
            elites=found.elites,
            elite_costs=found.elite_costs,
            poses=chosen.poses[:, 0],
            latents=chosen.latents[:, 0],
            uncertainty=chosen.uncertainty[:, 0],
            model_steps=problem.model_steps,
            model_calls=problem.model_calls,
        )
        _LOG.debug("%s: %s", type(self).__name__, plan)
        return plan

    def minimise(
        self, function: PlanFunction, spec: ActionSpec, batch: int = 1, on_iteration: OnIteration | None = None
    ) -> Found:
        """The least of a plain function, without a world.

        Args:
            function: costs (B, N) of plans (B, N, H, ...): integers below ``spec.n``, or vectors in [-1, 1]; made of
                torch operations where the solver follows gradients.
            spec: what one action is.
            batch: B, searches side by side, each with random numbers of its own.
            on_iteration: told after every iteration.
        """
        return self.search(PlainFunction(function, spec, batch), None, on_iteration)

    def search(self, problem: Problem, warm: WarmStart | None = None, on_iteration: OnIteration | None = None) -> Found:
        """Try plans until the iterations are over, no world finds better ones any more, or ``on_iteration`` says so."""
        history: list[Tensor] = []
        elites = elite_costs = waited = torch.empty(0)
        for iteration, (plans, cost) in enumerate(self.tries(problem, warm)):
            order = cost.argsort(dim=1, stable=True)[:, : self.elites]
            new, new_costs = pick(plans, order), cost.gather(1, order)
            if not history:
                elites, elite_costs, waited = new, new_costs, torch.zeros_like(cost[:, 0])
            else:
                better = new_costs[:, 0] < elite_costs[:, 0]
                going_on = torch.ones_like(better) if not self.patience else waited < self.patience
                waited = torch.where(better & going_on, 0.0, waited + 1)
                new, new_costs = _lead(elites, elite_costs, new, new_costs)
                elites = torch.where(going_on.view(-1, *[1] * (new.ndim - 1)), new, elites)
                elite_costs = torch.where(going_on.unsqueeze(1), new_costs, elite_costs)
            refuse_hopeless(elite_costs[:, 0])
            history.append(elite_costs[:, 0])
            report = IterationReport(iteration, plans, cost, elite_costs[:, 0], problem.model_steps)
            if on_iteration is not None and on_iteration(report):
                break
            if self.patience and bool((waited >= self.patience).all()):
                break
        return Found(elites[:, 0], elite_costs[:, 0], torch.stack(history, 1), elites, elite_costs)

    def steps(self, decisions: Tensor) -> Tensor:
        """Actions (B, N, H, ...) of decisions (B, N, L, ...)."""
        return decisions.repeat_interleave(self.action_repeat, 2)

    @property
    def decisions(self) -> int:
        """L, decisions of a plan."""
        return self.horizon // self.action_repeat

    def _remaining(self, question: Question) -> WarmStart | None:
        """What is left of the previous plan and its elites, resting afterwards."""
        previous = question.previous
        if previous is None:
            return None
        plans = torch.cat([previous.actions.unsqueeze(1), previous.elites], 1)
        left = plans[:, :, question.executed : question.executed + self.horizon]
        missing = self.horizon - left.shape[2]
        rest = resting(question.world.actions, left).expand(*left.shape[:2], missing, *left.shape[3:])
        return WarmStart(torch.cat([left, rest], 2)[:, :, :: self.action_repeat], previous.cost.isfinite())


def resting(spec: ActionSpec, like: Tensor) -> Tensor:
    """The action that moves least, of the type of ``like``, shape () or (n,)."""
    return torch.as_tensor(spec.still).to(like)


def pick(plans: Tensor, order: Tensor) -> Tensor:
    """Plans (B, E, ...) of plans (B, N, ...) at indices (B, E)."""
    return plans[torch.arange(len(plans), device=plans.device).unsqueeze(1), order]


def _lead(elites: Tensor, costs: Tensor, new: Tensor, new_costs: Tensor) -> tuple[Tensor, Tensor]:
    """New elites, led by the best of the old ones in worlds where that is better than all of them."""
    kept = costs[:, 0] < new_costs[:, 0]
    shifted = torch.cat([elites[:, :1], new[:, :-1]], 1)
    shifted_costs = torch.cat([costs[:, :1], new_costs[:, :-1]], 1)
    led = torch.where(kept.view(-1, *[1] * (new.ndim - 1)), shifted, new)
    return led, torch.where(kept.unsqueeze(1), shifted_costs, new_costs)
