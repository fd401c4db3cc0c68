"""Planning with what an agent has learned: its policy proposes plans, its critic says what comes after the horizon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from ..planning import CEM, MPC, MPPI, Objective, Planner, PolicySearch, Reward, TerminalValue
from ..planning.sampling import SamplingSolver
from ..world_models.world import World
from .agent import Agent

PlanningSolver = Literal["mppi", "cem", "policy"]
"""``policy``: among the policy's own plans alone, see `PolicySearch`; there must be one."""
_SOLVERS: dict[PlanningSolver, type[SamplingSolver]] = {"mppi": MPPI, "cem": CEM}


@dataclass(frozen=True)
class PlanSearch:
    """How plans for reward are searched."""

    solver: PlanningSolver = "mppi"
    """How candidates are refined; or policy, where all are the policy's own, and one is drawn by what they come to."""
    horizon: int = 8
    """Steps looked ahead."""
    candidates: int = 48
    """Plans tried in each iteration."""
    iterations: int = 2
    """How often they are refined; the policy's own never are."""
    elites: int = 8
    """Best plans to learn from."""
    futures: int = 1
    """Futures that differ by chance, in which every plan is imagined; what it costs is their mean. For worlds that draw
    what comes; one leaves the choice to the luckiest plan."""
    proposals: int = 8
    """Plans that the policy proposes to mppi and cem, where there is one."""
    temperature: float = 0.05
    """With policy: an action is drawn as likely as by the policy times exp(−cost / temperature), so that less than that
    is no reason to leave the policy; costs are discounted rewards. 0 takes the cheapest."""

    def planner(self, seed: int, policy: Agent | None = None) -> Planner:
        """The search, seeded by a policy or not.

        Raises:
            ConfigError: no such solver, one that needs a policy without one, or numbers that contradict each other.
        """
        if self.solver == "policy":
            if policy is None:
                raise ConfigError("Choosing among a policy's plans takes a policy: give an agent, or another solver.")
            return PolicySearch(
                policy, horizon=self.horizon, candidates=self.candidates, temperature=self.temperature,
                futures=self.futures, elites=min(self.elites, self.candidates), seed=seed,
            )  # fmt: skip
        if self.solver not in _SOLVERS:
            raise ConfigError(f"A solver is one of {', '.join(get_args(PlanningSolver))}; got {self.solver!r}.")
        return _SOLVERS[self.solver](
            horizon=self.horizon, candidates=self.candidates, iterations=self.iterations, elites=self.elites,
            futures=self.futures, seed=seed, policy=policy, proposals=self.proposals,
        )  # fmt: skip


def objective_of(discount: float, critic: Agent | None = None) -> Objective:
    """Imagined reward, and what a critic expects after it."""
    return Reward(discount) if critic is None else Reward(discount) + TerminalValue(critic, discount)


def planning_agent(
    world: World,
    discount: float,
    search: PlanSearch,
    agent: Agent | None = None,
    replan_interval: int = 1,
    seed: int = 0,
) -> MPC:
    """Model-predictive control towards reward, as an actor with ``predict``.

    Args:
        world: where to imagine.
        discount: γ, that of the agent where there is one.
        search: how to plan.
        agent: whose policy proposes plans and whose critic ends them; None for planning by reward alone.
        replan_interval: actions carried out of each plan.
        seed: of the candidates.

    Raises:
        ConfigError: numbers that contradict each other.
    """
    return MPC(world, search.planner(seed, agent), objective_of(discount, agent), replan_interval)
