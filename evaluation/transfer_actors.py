"""Who is tried in the real world: agents by their policy alone, by planning alone, and by both; and who comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..agents import Agent, load_agent
from ..agents.dyna import Judged
from ..agents.planning import PlanSearch, planning_agent
from ..agents.returning import ReturningAgent
from ..agents.trials import Actor
from ..envs.explorers import digest_of
from ..errors import ConfigError
from ..planning import CEM, MPC
from ..world_models.config import Imagination, Motions
from ..world_models.prediction.flow import Sampler
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
    proposing plans and its critic saying what comes after the horizon. With the solver policy, which needs one, there
    is no planning alone."""
    imagination: Imagination = "state"
    """Where plans are imagined: in state space, or in video, which is slower."""
    denoising_steps: int | None = None
    """In video: calls of the video model for each frame; default: the world's."""
    sampler: Sampler | None = None
    """In video: how frames are drawn in these steps; default: the world's way."""
    motions: Motions | None = None
    """Where actions lead in imagination: to the likeliest place, or drawn; default: the world's way."""
    replan_interval: int = 1
    """Actions carried out of each plan."""

    def world(self, known: WorldModel, device: str) -> WorldModel:
        """``known`` as plans are imagined in it.

        Raises:
            ConfigError: it was never written anywhere, and imagines in another way.
        """
        drawn = {"denoising_steps": self.denoising_steps, "sampler": self.sampler, "motions": self.motions}
        overrides = {name: value for name, value in drawn.items() if value is not None}
        if known.directory is not None:
            return load_world(str(known.directory), device, imagination=self.imagination, **overrides)
        if overrides:
            raise ConfigError(f"Only a world that is on disk can be told other {', '.join(overrides)}.")
        return known


WITH_MEMORY, WITHOUT = "returning: with memory", "returning: without"


@dataclass(frozen=True)
class Returning:
    """How the task ``return`` is done by imagination: out by wandering, back by planning towards the first frame."""

    add: bool = False
    """Let a world go out and come back, with its memory and without, beside the agents; for the task return alone."""
    world: str = "doom-rooms-nano"
    """Where it is imagined: a bundled world, or the directory of a trained one, that has a memory."""
    imagination: Imagination = "state"
    """Where plans are imagined: in state space, or in video, which is slower."""
    horizon: int = 12
    """Steps looked ahead."""
    candidates: int = 32
    """Plans tried in each iteration."""
    iterations: int = 2
    """How often they are refined."""
    elites: int = 8
    """Best plans to learn from."""
    replan_interval: int = 2
    """Actions carried out of each plan."""

    def cast(self, device: str = "cpu", seed: int = 0) -> Cast:
        """The two, whose way out is the same.

        Args:
            device: where to compute.
            seed: of the wandering and of the candidates.

        Raises:
            ConfigError: a world without a memory, or numbers that contradict each other.
            WorldFormatError: no such world.
        """
        known = load_world(self.world, device, imagination=self.imagination)
        if not known.retrieves:
            raise ConfigError(f"Coming back is compared with memory and without; {self.world} has none.")
        forgetful = load_world(self.world, device, imagination=self.imagination, retrieval="none")
        solver = CEM(
            horizon=self.horizon, candidates=self.candidates, iterations=self.iterations, elites=self.elites, seed=seed
        )
        actors: dict[str, Actor] = {
            name: ReturningAgent(world, solver, self.replan_interval, seed=seed)
            for name, world in ((WITH_MEMORY, known), (WITHOUT, forgetful))
        }
        return Cast(known, actors, {name: f"{name} {_dynamics(known)} {self}" for name in actors})


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


def cast_of(
    agents: Mapping[str, Path],
    planning: AgentPlanning,
    device: str = "cpu",
    seed: int = 0,
    returning: Returning | None = None,
) -> Cast:
    """Agents on disk, each by its policy and, if asked for, by planning alone and by both.

    Args:
        agents: name to directory.
        planning: whether they plan too, and how.
        device: where to compute.
        seed: of the agents' choices and of the candidates.
        returning: whether a world goes out and comes back beside them, and how.

    Raises:
        ConfigError: nobody at all; planning with an agent that has no critic; see also `Returning.cast`.
        WorldFormatError: no such agent.
    """
    opened = {name: load_agent(path, device=device, seed=seed) for name, path in agents.items()}
    back = returning.cast(device, seed) if returning is not None and returning.add else None
    if not opened:
        if back is None:
            raise ConfigError("Give at least one agent, each with a name of its own, or --returning.add.")
        return back
    cast = Cast(next(iter(opened.values())).world)
    for name, agent in opened.items():
        identity = digest_of(agents[name])
        if not planning.add:
            cast.actors[name], cast.identities[name] = agent, identity
            continue
        searched = f"{identity} {_dynamics(agent.world)} {planning}"
        cast.actors[f"{name}: policy"], cast.identities[f"{name}: policy"] = agent, f"policy {identity}"
        for way, actor in _planners(agent, planning, device, seed).items():
            cast.actors[f"{name}: {way}"], cast.identities[f"{name}: {way}"] = actor, f"{way} {searched}"
    if back is not None:
        if (back.world.actions, back.world.frame_size) != (cast.world.actions, cast.world.frame_size):
            raise ConfigError("The agents and the world that comes back see or act differently: try them one by one.")
        cast.actors.update(back.actors)
        cast.identities.update(back.identities)
    return cast


def _planners(agent: Agent, planning: AgentPlanning, device: str, seed: int) -> dict[str, MPC]:
    """Planning alone, where the solver can, and planning with the agent's heads, by name."""
    world = agent.world
    if not isinstance(world, WorldModel):
        raise ConfigError("An agent that sees by frames alone has no world to plan in: leave out --planning.add.")
    world = planning.world(world, device)
    discount, interval = agent.heads.config.discount, planning.replan_interval
    ways = {"both": agent} if planning.solver == "policy" else {"planning": None, "both": agent}
    return {way: planning_agent(world, discount, planning, who, interval, seed) for way, who in ways.items()}


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
