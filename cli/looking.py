"""`worldloop imagine`, `compare`, `plan` and `demo`: see one world at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ..evaluation import CompareConfig, DemoConfig, ImagineConfig, PlanConfig
from .console import OUT, Bars, summary
from .worlds import OneWorld, load_one


@dataclass(frozen=True)
class Compare(OneWorld):
    """Same real state, same actions: real and imagined side by side, on held-out maps."""

    out: Path = Path("runs/compare")
    """Directory for the report (JSON), the curves, the videos and the strips."""
    settings: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)


@dataclass(frozen=True)
class Imagine(OneWorld):
    """Film one imagined episode, from a recorded start: actions you name, or random ones."""

    out: Path = Path("runs/imagine")
    """Directory for the video and the numbers (JSON)."""
    settings: Annotated[ImagineConfig, tyro.conf.arg(name="")] = field(default_factory=ImagineConfig)


@dataclass(frozen=True)
class Plan(OneWorld):
    """Plan in imagination, act in the real world: MPC towards goals on held-out maps, against random actions."""

    out: Path = Path("runs/plan")
    """Directory for the report (JSON), the videos and the maps."""
    settings: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)


@dataclass(frozen=True)
class Demo(OneWorld):
    """See it work: a comparison, planning in the real world, and one page with the pictures and figures."""

    out: Path = Path("demo")
    """Directory for the page and what it shows."""
    seed: int = 0
    """Of maps, goals and imagination."""


def do_compare(verb: Compare) -> None:
    """Compare, and say the figures."""
    from ..evaluation import compare

    with Bars() as bars:
        report = compare(load_one(verb), verb.settings, verb.out, progress=bars)
    lines = {
        "one step ahead, frames that changed": report.next_frame,
        f"mean over {report.config.horizon} imagined steps": report.rollout,
        f"at imagined step {report.config.horizon}": report.rollout_end,
    }
    summary(lines, verb.out)


def do_imagine(verb: Imagine) -> None:
    """Film an imagined episode."""
    from ..evaluation import imagine_episode

    with Bars() as bars:
        report = imagine_episode(load_one(verb), verb.settings, verb.out, progress=bars)
    end = "until the world ended the episode" if report["terminated"] else "to the end"
    OUT.print(f"{report['steps']} steps, {end}; return {report['return']:.3f}. The film: {verb.out / 'imagined.mp4'}")


def do_plan(verb: Plan) -> None:
    """Plan and act, and say the figures."""
    from ..evaluation import run_control

    with Bars() as bars:
        state = None if verb.settings.imagination == "video" else load_one(verb, imagination="state")
        report = run_control(load_one(verb), verb.settings, verb.out, state=state, progress=bars)
    summary({"planning": report.planner, "random actions": report.chance}, verb.out)


def do_demo(verb: Demo) -> None:
    """Make the page."""
    from dataclasses import replace

    from ..evaluation import run_demo

    config = DemoConfig()
    config = replace(
        config, compare=replace(config.compare, seed=verb.seed), plan=replace(config.plan, seed=verb.seed),
        agent=replace(config.agent, seed=verb.seed),
    )  # fmt: skip
    with Bars() as bars:
        report = run_demo(load_one(verb), verb.out, config, progress=bars)
    OUT.print(f"Done in {report.seconds:.0f} s. Open {report.page} in a browser.")
