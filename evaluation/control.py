"""Planning put to the test: held-out maps, plans made in imagination, carried out in the real world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ..envs.explorers import Explorer, WaypointExplorer
from ..envs.imagination import check_fits
from ..files import write_json
from ..planning import GoalFrame, GoalPose, Objective
from ..rollouts.splits import seed_range
from ..world_models.world import World
from .control_pictures import draw_episode
from .control_report import ControlReport, PlanConfig, summarise
from .execution import execute_plans, execute_random
from .goal_sampling import sample_goals
from .goals import GoalTask
from .progress import Progress, silent
from .real import doom_rooms


def run_control(
    world: World,
    config: PlanConfig,
    out: Path,
    *,
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
        make_env: makes a real environment, called ``config.batch`` times; default DoomRooms, task explore.
        explorer: gathers what is seen before a start; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit the world, or a contradictory configuration.
        WorldloopError: a map on which no goal was found.
    """
    solver, reached = config.make_solver(), config.reached
    maps = np.random.default_rng(config.seed).choice(seed_range(config.split), config.episodes, replace=False)
    with ExitStack() as stack:
        make = make_env or (lambda: doom_rooms(world, config.split))
        envs = [stack.enter_context(closing(make())) for _ in range(min(config.batch, config.episodes))]
        check_fits(world, envs[0])
        tasks = sample_goals(
            envs[0],
            explorer or WaypointExplorer(),
            world.actions,
            maps.tolist(),
            context=config.context,
            steps=(config.nearest, config.farthest),
            reached=reached,
            seed=config.seed,
            progress=progress,
        )
        planned = execute_plans(
            world,
            solver,
            lambda chosen: goal_objective(world, chosen, config),
            tasks,
            envs,
            reached=reached,
            budget=config.budget,
            replan_interval=config.replan_interval,
            seed=config.seed,
            progress=progress,
        )
        chance = execute_random(
            world.actions,
            tasks,
            envs[0],
            reached=reached,
            budget=config.budget,
            repeats=config.random_repeats,
            seed=config.seed,
            progress=progress,
        )
    report = summarise(world, config, planned, chance)
    files: list[str] = []
    for i, trace in enumerate(planned[: config.pictures]):
        files += draw_episode(world, trace, out, f"episode-{i}")
        progress("drawing", i + 1, min(config.pictures, len(planned)))
    report = replace(report, files=tuple(files))
    write_json(out / "plan.json", report.to_json())
    return report


def goal_objective(world: World, tasks: Sequence[GoalTask], config: PlanConfig) -> Objective:
    """The objective of a batch of tasks: one goal for each."""
    if config.goal == "frame":
        with torch.inference_mode():
            return GoalFrame.of(world, np.stack([task.goal_frame for task in tasks]))
    poses = np.stack([task.goal_pose for task in tasks])
    return GoalPose(poses, length=world.actions.step_length, angle=world.actions.step_angle)
