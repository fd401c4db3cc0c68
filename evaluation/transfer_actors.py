"""Who is tried in the real world: agents by their policy alone, by planning alone, and by both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..agents import Agent, load_agent
from ..agents.dyna import Judged
from ..agents.planning import PlanSearch, planning_agent
from ..agents.trials import Actor
from ..envs.explorers import digest_of
from ..errors import ConfigError
from ..planning import MPC
from ..world_models.config import Imagination
from ..world_models.pretrained import load_world
from ..world_models.world import World
from ..world_models.world_model import WorldModel
from .progress import Progress
from .transfer import TransferConfig, evaluate_transfer


@dataclass(frozen=True)
class AgentPlanning(PlanSearch):
    """How agents plan: model-predictive control towards reward, with and without what they have learned."""

    add: bool = False
    """Let every agent act in three ways: by its policy; by planning for imagined reward alone; and by both, its policy
    proposing plans and its critic saying what comes after the horizon."""
    imagination: Imagination = "state"
    """Where plans are imagined: in state space, or in video, which is slower."""
    replan_interval: int = 1
    """Actions carried out of each plan."""


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
    world = agent.world
    if not isinstance(world, WorldModel):
        raise ConfigError("An agent that sees by frames alone has no world to plan in: leave out --planning.add.")
    if world.directory is not None:
        world = load_world(str(world.directory), device, imagination=planning.imagination)
    discount, interval = agent.heads.config.discount, planning.replan_interval
    alone, both = (planning_agent(world, discount, planning, who, interval, seed) for who in (None, agent))
    return alone, both


def _dynamics(world: World) -> str:
    return digest_of(world.directory) if isinstance(world, WorldModel) and world.directory is not None else ""


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
