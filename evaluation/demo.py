"""The demonstration: a world compared with the real one and planned in, and an agent that learned in one, on a page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from ..agents import Agent, load_agent
from ..envs.explorers import Explorer
from ..world_models.world import World
from .comparison import CompareConfig, CompareReport
from .control import run_control
from .control_report import ControlReport, PlanConfig
from .demo_agent import AgentConfig, agent_at_work
from .demo_sections import again_section, agent_section, clips_section, horizon_section, planning_section
from .imagined_vs_real import compare
from .page import write_page
from .progress import Progress, silent
from .transfer import TransferReport


@dataclass(frozen=True)
class DemoConfig:
    """What the demonstration shows: a small comparison, a few episodes of planning, and a few of an agent."""

    compare: CompareConfig = field(default_factory=lambda: CompareConfig(maps=24, horizon=16, pictures=2))
    """The comparison."""
    plan: PlanConfig = field(default_factory=lambda: PlanConfig(episodes=8, pictures=2, batch=8))
    """The planning."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """The agent."""


@dataclass(frozen=True)
class DemoReport:
    """What the demonstration found.

    Attributes:
        page: the page, with every picture inside it.
        compare: the comparison; its own files lie in ``compare/`` beside the page.
        plan: the planning; its own files lie in ``plan/``.
        agent: the agent, beside random actions; its own files lie in ``agent/``.
        seconds: how long it all took.
    """

    page: Path
    compare: CompareReport
    plan: ControlReport
    agent: TransferReport
    seconds: float


def run_demo(
    world: World,
    out: Path,
    config: DemoConfig | None = None,
    *,
    agent: Agent | None = None,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> DemoReport:
    """Compare ``world`` with the real one, plan in it, let an agent act, and write ``index.html`` into ``out``.

    Args:
        world: the learned world.
        out: directory for the page; made if missing.
        config: sizes; the default takes minutes on two processor cores.
        agent: who acts, through its own world; default the bundled one that finds things in its room.
        make_env: makes a real environment; default DoomRooms, task explore, and the agent's task for the agent.
        explorer: walks in it; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        WorldloopError: see `load_agent`, `compare`, `run_control` and `evaluate_transfer`.
    """
    begin = time.perf_counter()
    config = config or DemoConfig()
    agent = agent or load_agent("find-near", device=str(world.device))
    real: dict[str, Any] = {"make_env": make_env, "progress": progress}
    comparison = compare(world, config.compare, out / "compare", explorer=explorer, **real)
    planning = run_control(world, config.plan, out / "plan", explorer=explorer, **real)
    acting = agent_at_work(agent, config.agent, out / "agent", **real)
    seconds = time.perf_counter() - begin
    name = comparison.provenance["world"]
    page = write_page(
        out / "index.html",
        "An agent that plans inside a learned world",
        f"The world {name} was learned from recorded frames. Everything below was made just now, in "
        f"{seconds:.0f} seconds, on maps it was never trained on: the real engine on one side, what the "
        "world imagines on the other.",
        [
            clips_section(comparison, out / "compare"),
            horizon_section(comparison, out / "compare"),
            planning_section(planning, out / "plan"),
            agent_section(acting, config.agent, out / "agent"),
            again_section(comparison, planning),
        ],
        f"worldloop {comparison.provenance['worldloop']}, torch {comparison.provenance['torch']}, "
        f"{comparison.provenance['threads']} threads on {comparison.provenance['device']}, "
        f"{comparison.provenance['time']}",
    )
    return DemoReport(page, comparison, planning, acting, seconds)
