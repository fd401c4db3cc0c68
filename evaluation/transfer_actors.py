"""Who is tried in the real world: agents by their policy alone, by planning alone, and by both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..agents import Agent, load_agent
from ..agents.dyna import Judged
from ..envs.explorers import digest_of
from ..errors import ConfigError
from ..planning import CEM, MPC, MPPI, Reward, TerminalValue
from ..planning.sampling import SamplingSolver
from ..world_models.config import Imagination
from ..world_models.pretrained import load_world
from ..world_models.world import World
from .acting_time import Actor
from .progress import Progress
from .transfer import TransferConfig, evaluate_transfer

PlanningSolver = Literal["mppi", "cem"]
_SOLVERS: dict[PlanningSolver, type[SamplingSolver]] = {"mppi": MPPI, "cem": CEM}


@dataclass(frozen=True)
class AgentPlanning:
    """How agents plan: model-predictive control towards reward, with and without what they have learned."""

    add: bool = False
    """Let every agent act in three ways: by its policy; by planning for imagined reward alone; and by both, its policy
    proposing plans and its critic saying what comes after the horizon."""
    solver: PlanningSolver = "mppi"
    """How plans are searched."""
    imagination: Imagination = "state"
    """Where they are imagined: in state space, or in video, which is slower."""
    horizon: int = 8
    """Steps looked ahead."""
    candidates: int = 48
    """Plans tried in each iteration."""
    iterations: int = 2
    """How often they are refined."""
    elites: int = 8
    """Best plans to learn from."""
    proposals: int = 8
    """Plans that the policy proposes."""
    replan_interval: int = 1
    """Actions carried out of each plan."""

    def search(self, seed: int, policy: Agent | None = None) -> SamplingSolver:
        """The search, seeded by a policy or not.

        Raises:
            ConfigError: numbers that contradict each other.
        """
        if self.solver not in _SOLVERS:
            raise ConfigError(f"A solver is one of {', '.join(_SOLVERS)}; got {self.solver!r}.")
        return _SOLVERS[self.solver](
            horizon=self.horizon, candidates=self.candidates, iterations=self.iterations, elites=self.elites,
            seed=seed, policy=policy, proposals=self.proposals,
        )  # fmt: skip


@dataclass(frozen=True)
class Cast:
    """Who is compared.

    Attributes:
        world: that the first of them perceives through.
        actors: by name.
        identities: by name, what tells each from others of that name; see `evaluate_transfer`.
    """

    world: World
    actors: dict[str, Actor] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)


def cast_of(agents: Mapping[str, Path], planning: AgentPlanning, device: str = "cpu", seed: int = 0) -> Cast:
    """Agents on disk, each by its policy and, if asked for, by planning alone and by both.

    Args:
        agents: name to directory.
        planning: whether they plan too, and how.
        device: where to compute.
        seed: of the agents' choices and of the candidates.

    Raises:
        ConfigError: no agents, or planning with one that has no critic.
        WorldFormatError: no such agent.
    """
    opened = {name: load_agent(path, device=device, seed=seed) for name, path in agents.items()}
    if not opened:
        raise ConfigError("Give at least one agent, each with a name of its own.")
    cast = Cast(next(iter(opened.values())).world)
    for name, agent in opened.items():
        identity = digest_of(agents[name])
        if not planning.add:
            cast.actors[name], cast.identities[name] = agent, identity
            continue
        alone, both = _planners(agent, planning, device, seed)
        searched = f"{identity} {_dynamics(agent.world)} {planning}"
        for way, actor, what in (
            ("policy", agent, identity), ("planning", alone, searched), ("both", both, searched)
        ):  # fmt: skip
            cast.actors[f"{name}: {way}"], cast.identities[f"{name}: {way}"] = actor, f"{way} {what}"
    return cast


def _planners(agent: Agent, planning: AgentPlanning, device: str, seed: int) -> tuple[MPC, MPC]:
    """Planning alone, and planning with the agent's heads."""
    if not isinstance(agent, Agent):
        raise ConfigError("Only an agent with a critic of state vectors can plan with what it has learned.")
    world = agent.world
    at = getattr(world, "directory", None)
    if isinstance(at, Path):
        world = load_world(str(at), device, imagination=planning.imagination)
    discount = agent.heads.config.discount
    alone = MPC(world, planning.search(seed), Reward(discount), planning.replan_interval)
    return alone, MPC(
        world, planning.search(seed, agent), Reward(discount) + TerminalValue(agent, discount),
        planning.replan_interval,
    )  # fmt: skip


def _dynamics(world: World) -> str:
    at = getattr(world, "directory", None)
    return digest_of(at) if isinstance(at, Path) else ""


@dataclass(frozen=True)
class TransferJudge:
    """Tries the agents of `worldloop.agents.dyna.run`: a `Judge`.

    Attributes:
        transfer: tasks and maps.
        planning: whether they plan too, and how.
        device: where to compute.
    """

    transfer: TransferConfig
    planning: AgentPlanning = field(default_factory=AgentPlanning)
    device: str = "cpu"

    @property
    def decides(self) -> dict[str, Any]:
        """See `Judge.decides`."""
        return {"tests": asdict(self.transfer), "planning": asdict(self.planning)}

    def __call__(self, agent: Path, out: Path, tell: Progress) -> Judged:
        """See `Judge`."""
        cast = cast_of({"agent": agent}, self.planning, self.device, self.transfer.seed)
        report = evaluate_transfer(
            cast.world, cast.actors, self.transfer, out, identities=cast.identities, progress=tell
        )
        played = sum(len(episodes) for task in report.episodes.values() for episodes in task.values())
        return Judged(played, {"rows": report.to_json()["rows"]}, str(report))
