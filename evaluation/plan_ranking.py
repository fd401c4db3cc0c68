"""Do plans that are imagined to be good turn out good? Every plan of a set is imagined, and carried out for real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..envs.doom_rooms.tasks import STEP_COST
from ..envs.explorers import Explorer, WaypointExplorer
from ..envs.imagination import check_fits
from ..files import write_json
from ..planning import RandomShooting, RolloutBatch, RolloutTree, Uncertainty
from ..world_models.world import World
from .control import draw_goals
from .figures import write_figure
from .goal_forms import GoalForm
from .goal_object import OBJECT_REACHED
from .goals import GoalTask
from .plan_ranking_report import PlanRankingConfig, PlanRankingReport, Ranked, ranking_figure, summarise
from .planning_methods import Search, Worlds
from .progress import Progress, silent
from .real import doom_rooms
from .report import provenance


@dataclass(frozen=True)
class Happened:
    """What N plans of H steps led to in the real world, from the start of one task.

    Attributes:
        frames: (N, H, height, width, 3) uint8.
        poses: (N, H, 5) float64.
    """

    frames: NDArray[np.uint8]
    poses: NDArray[np.float64]


def plan_ranking(
    worlds: Mapping[str, Worlds],
    config: PlanRankingConfig,
    out: Path,
    *,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> PlanRankingReport:
    """Imagine random plans and carry all of them out; write ``ranking.json`` and a figure into ``out``.

    A return is minus the planner's own cost, of what was imagined and of what really came, so that the two are one
    quantity. All worlds are asked about the same plans.

    Args:
        worlds: name to world.
        config: goals, plans, and what to choose by.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore.
        explorer: gathers what is seen before a start; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit a world, or a contradictory configuration.
        WorldloopError: too many maps on which no goal was found.
    """
    first, control = next(iter(worlds.values())).video, config.control()
    with closing(make_env() if make_env else doom_rooms(first, config.split)) as env:
        for world in worlds.values():
            check_fits(world.video, env)
        tasks = draw_goals(env, explorer or WaypointExplorer(), first.actions, control, config.place, progress)
        plans = random_plans(first, len(tasks), config)
        happened = []
        for i, task in enumerate(tasks):
            happened.append(carry_out(env, task, plans[i]))
            progress("carrying plans out", i + 1, len(tasks))
    ranked = {}
    for name, world in worlds.items():
        for imagination in config.imaginations:
            place, _ = world.set_up(imagination, Search())
            label = name if imagination == "video" else f"{name}, {imagination}"
            ranked[label] = judge(
                place, tasks, plans, happened, control.form, config.seed, progress, f"imagining with {label}"
            )
    report = summarise(config, ranked, {name: provenance(world.video) for name, world in worlds.items()})
    write_json(out / "ranking.json", report.to_json())
    write_figure(out / "ranking.png", ranking_figure(report))
    return report


@torch.inference_mode()
def judge(
    world: World,
    tasks: Sequence[GoalTask],
    plans: Sequence[NDArray[Any]],
    happened: Sequence[Happened],
    form: GoalForm,
    seed: int = 0,
    progress: Progress = silent,
    stage: str = "imagining",
) -> Ranked:
    """Costs of the same plans as imagined and as they came out, and how unsure the world was of each."""
    imagined, real, doubt = [], [], []
    for i, (task, tried, came) in enumerate(zip(tasks, plans, happened, strict=True)):
        objective = form.objective(world, [task])
        state = world.observe(
            world.start(1, [seed * 1_000_003 + i]), task.frames[None], task.actions[None], task.poses[None]
        )
        asked = torch.as_tensor(tried, device=world.device).unsqueeze(0)
        rollouts = RolloutTree(world, state).roll_out(asked, objective.needs_latents, objective.needs_vectors)
        imagined.append(objective.cost(rollouts)[0].to(torch.float64).cpu().numpy())
        doubt.append(Uncertainty().cost(rollouts)[0].to(torch.float64).cpu().numpy())
        truth = as_rollouts(world, task, asked, came)
        real.append(objective.cost(truth)[0].to(torch.float64).cpu().numpy())
        progress(stage, i + 1, len(tasks))
    return Ranked(np.stack(imagined), np.stack(real), np.stack(doubt), np.array([t.map_seed for t in tasks]))


def random_plans(world: World, starts: int, config: PlanRankingConfig) -> list[NDArray[Any]]:
    """For each start, N plans (N, H, ...) as a planner first draws them."""
    shooting = RandomShooting(horizon=config.horizon, candidates=config.plans, iterations=1, elites=1, seed=config.seed)
    drawn: list[Tensor] = []
    shooting.minimise(
        lambda plans: torch.zeros(plans.shape[:2]),
        world.actions,
        starts,
        on_iteration=lambda report: drawn.append(report.plans),
    )
    return list(drawn[0].cpu().numpy())


def carry_out(env: gym.Env[Any, Any], task: GoalTask, plans: NDArray[Any]) -> Happened:
    """Carry out each of ``plans`` (N, H, ...) from the start of ``task``."""
    frames, poses = [], []
    # Going back to a saved moment is exact and quicker than walking there again, where an environment can.
    real: Any = env.unwrapped
    task.begin(env)
    moment = real.save_state() if hasattr(real, "save_state") else None
    for plan in plans:
        if moment is None:
            task.begin(env)
        else:
            real.load_state(moment)
        steps = [env.step(action) for action in plan]
        frames.append(np.stack([step[0] for step in steps]))
        poses.append(np.stack([np.asarray(step[4]["pose"], np.float64) for step in steps]))
    return Happened(np.stack(frames), np.stack(poses))


def as_rollouts(world: World, task: GoalTask, plans: Tensor, came: Happened) -> RolloutBatch:
    """What really came, as an objective reads it: frames as latents, the task's reward where its object is the goal.

    Args:
        world: encodes the frames.
        task: the problem, whose goal is the object where rewards are asked for.
        plans: (1, N, H, ...).
        came: of them.
    """
    n, steps = came.poses.shape[:2]
    latents = torch.cat([world.encode(frames) for frames in came.frames])
    there = np.array([[OBJECT_REACHED(pose, task.goal_pose) for pose in plan] for plan in came.poses])
    reward = torch.as_tensor(there.astype(np.float32) - STEP_COST, device=world.device)
    return RolloutBatch(
        actions=plans,
        poses=torch.as_tensor(came.poses, device=world.device).unsqueeze(0),
        reward=reward.unsqueeze(0),
        continues=torch.as_tensor(~there, device=world.device).to(torch.float32).unsqueeze(0),
        uncertainty=torch.zeros(1, n, steps, device=world.device),
        latents=latents.unflatten(0, (1, n, steps)),
        start=torch.as_tensor(task.poses[-1:], device=world.device),
    )
