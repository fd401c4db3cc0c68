"""Planning put to the test: held-out maps, plans made in imagination, carried out in the real world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from ..envs.explorers import Explorer, WaypointExplorer
from ..envs.imagination import check_fits
from ..files import write_json
from ..planning import Objective, Uncertainty
from ..world_models.actions import ActionSpec
from ..world_models.world import World
from .baselines import RandomAgent
from .control_config import ControlConfig
from .control_pictures import draw_episode
from .control_report import ControlReport, PlanConfig, summarise
from .execution import execute
from .goal_forms import GoalForm
from .goal_sampling import sample_goals
from .goals import GoalTask, Place
from .planning_agent import PlanningAgent
from .planning_methods import Worlds
from .progress import Progress, silent
from .real import doom_rooms


def run_control(
    world: World,
    config: PlanConfig,
    out: Path,
    *,
    state: World | None = None,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> ControlReport:
    """Plan in ``world``, act in the real one; write ``plan.json``, videos and maps into ``out``.

    Goals are drawn as `goal_sampling.sample_goals` says. A planner and random actions then have the same
    number of real steps for the same goals.

    Args:
        world: the learned world.
        config: goals, planner and criterion.
        out: directory for the report; made if missing.
        state: the same world in state space, where ``config.imagination`` asks for it.
        make_env: makes a real environment, called ``config.batch`` times; default DoomRooms, task explore.
        explorer: gathers what is seen before a start; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit the world, or a contradictory configuration.
        WorldloopError: too many maps on which no goal was found.
    """
    place, planner = Worlds(world, state).set_up(config.imagination, config.search(config.solver))
    with ExitStack() as stack:
        make = make_env or (lambda: doom_rooms(world, config.split))
        envs = [stack.enter_context(closing(make())) for _ in range(min(config.batch, config.episodes))]
        check_fits(world, envs[0])
        tasks = draw_goals(envs[0], explorer or WaypointExplorer(), world.actions, config, config.place, progress)
        agent = PlanningAgent(
            "planning",
            place,
            planner,
            objective_for(place, config.form, config.uncertainty_weight),
            config.replan_interval,
            watch=config.pictures > 0,
        )
        budget = config.real_steps(config.place)
        rules: dict[str, Any] = {"reached": config.reached, "budget": budget, "seed": config.seed}
        planned = execute(agent, tasks, envs, **rules, progress=progress)
        chance = execute(
            RandomAgent(world.actions), tasks, envs, **rules, repeats=config.random_repeats, progress=progress
        )
    report = summarise(world, config, planned, chance)
    files: list[str] = []
    for i, trace in enumerate(planned[: config.pictures]):
        files += draw_episode(place, trace, out, f"episode-{i}", config.elites)
        progress("drawing", i + 1, min(config.pictures, len(planned)))
    report = replace(report, files=tuple(files))
    write_json(out / "plan.json", report.to_json())
    return report


def draw_goals(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    spec: ActionSpec,
    config: ControlConfig,
    place: Place,
    progress: Progress = silent,
) -> list[GoalTask]:
    """The goals that ``config`` asks for, at ``place``; errors as `goal_sampling.sample_goals`."""
    return sample_goals(
        env,
        explorer,
        spec,
        config.maps(),
        count=config.episodes,
        place=place,
        target="object" if config.goal == "reward" else "pose",
        context=config.seen(place),
        steps=config.steps(place),
        reached=config.reached,
        ago=config.ago if config.goal == "ago" else None,
        seed=config.seed,
        progress=progress,
    )


def objective_for(
    world: World, form: GoalForm, uncertainty_weight: float = 0.0
) -> Callable[[Sequence[GoalTask]], Objective]:
    """Makes the objective of a batch of tasks: one goal for each, told as ``form`` says."""

    def objective(tasks: Sequence[GoalTask]) -> Objective:
        goal = form.objective(world, tasks)
        return goal + uncertainty_weight * Uncertainty() if uncertainty_weight else goal

    return objective
