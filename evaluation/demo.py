"""The demonstration: a bundled world compared with the real one, and planned in, on one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from ..envs.explorers import Explorer
from ..world_models.world import World
from .comparison import CompareConfig, CompareReport
from .control import run_control
from .control_report import ControlReport, PlanConfig
from .demo_sections import again_section, clips_section, horizon_section, planning_section
from .imagined_vs_real import compare
from .page import write_page
from .progress import Progress, silent


@dataclass(frozen=True)
class DemoConfig:
    """What the demonstration shows: a small comparison, and a few episodes of planning."""

    compare: CompareConfig = field(default_factory=lambda: CompareConfig(maps=24, horizon=16, pictures=2))
    """The comparison."""
    plan: PlanConfig = field(default_factory=lambda: PlanConfig(episodes=8, pictures=2, batch=8))
    """The planning."""


@dataclass(frozen=True)
class DemoReport:
    """What the demonstration found.

    Attributes:
        page: the page, with every picture inside it.
        compare: the comparison; its own files lie in ``compare/`` beside the page.
        plan: the planning; its own files lie in ``plan/``.
        seconds: how long it all took.
    """

    page: Path
    compare: CompareReport
    plan: ControlReport
    seconds: float


def run_demo(
    world: World,
    out: Path,
    config: DemoConfig | None = None,
    *,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> DemoReport:
    """Compare ``world`` with the real one, plan in it, and write ``index.html`` into ``out``.

    Args:
        world: the learned world.
        out: directory for the page; made if missing.
        config: sizes; the default takes about two minutes on two processor cores.
        make_env: makes a real environment; default DoomRooms, task explore.
        explorer: walks in it; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        WorldloopError: see `compare` and `run_control`.
    """
    begin = time.perf_counter()
    config = config or DemoConfig()
    real: dict[str, Any] = {"make_env": make_env, "explorer": explorer, "progress": progress}
    comparison = compare(world, config.compare, out / "compare", **real)
    planning = run_control(world, config.plan, out / "plan", **real)
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
            again_section(comparison, planning),
        ],
        f"worldloop {comparison.provenance['worldloop']}, torch {comparison.provenance['torch']}, "
        f"{comparison.provenance['threads']} threads on {comparison.provenance['device']}, "
        f"{comparison.provenance['time']}",
    )
    return DemoReport(page, comparison, planning, seconds)
