"""Drawing goals that are reachable, not yet reached, and in view or just out of view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.doom_rooms.layout import PLAYER_RADIUS
from ..envs.explorers import Explorer
from ..errors import ConfigError, WorldloopError
from ..world_models.actions import ActionSpec
from ..world_models.pose import move
from .clips import record_clips
from .goals import GoalTask, Pose, Reached, greedy_action, separation
from .progress import Progress, silent

_STARTS, _TARGETS = 10, 20
_HALF_VIEW = 45.0
"""Degrees from the middle of DoomRooms' picture to its edge."""


def sample_goals(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    spec: ActionSpec,
    maps: Sequence[int],
    *,
    context: int = 16,
    steps: tuple[int, int] = (6, 12),
    reached: Reached | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[GoalTask]:
    """One task on each of ``maps``.

    An explorer gathers ``context`` frames. From where it stops, a place is drawn ahead or just out of view
    (up to 90 degrees to either side) with a free line to it, and a heading near the present one; the straight
    way there is walked in the real world, and where that ends is the goal. So every goal is reachable and its
    picture is exact. Goals reached already at the start, or taking fewer or more than ``steps``, are drawn
    again.

    Args:
        env: a real environment; see `clips.record_clips`.
        explorer: gathers the context.
        spec: the environment's actions.
        maps: map seeds.
        context: frames seen before the start, itself included.
        steps: fewest and most steps of the known way.
        reached: when a goal counts as reached; starts that satisfy it are rejected.
        seed: of everything drawn.
        progress: told after every task.

    Raises:
        ConfigError: a range of steps that is empty.
        WorldloopError: no such goal was found on a map.
    """
    if not 1 <= steps[0] <= steps[1]:
        raise ConfigError(f"The steps to a goal are a range from 1 up, got {steps[0]} to {steps[1]}.")
    tasks = []
    for i, map_seed in enumerate(maps):
        rng = np.random.default_rng([seed, i])
        tasks.append(_sample(env, explorer, spec, int(map_seed), context, steps, reached or Reached(), rng))
        progress("drawing goals", i + 1, len(maps))
    return tasks


def _sample(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    spec: ActionSpec,
    map_seed: int,
    context: int,
    steps: tuple[int, int],
    reached: Reached,
    rng: np.random.Generator,
) -> GoalTask:
    for _ in range(_STARTS):
        clip = record_clips(env, explorer, [map_seed], context, seed=int(rng.integers(2**31)))
        seed, start = int(clip.seeds[0]), clip.poses[0, -1]
        for _ in range(_TARGETS):
            target = _target(spec, start, steps[1], rng)
            if not _free_line(env, start, target, body=True):
                continue
            env.reset(seed=seed, options={"map_seed": map_seed})
            for action in clip.actions[0, 1:]:
                env.step(action)
            route, frame, pose = _walk(env, spec, start, target, steps[1] + 1)
            if not steps[0] <= len(route) <= steps[1] or reached(start, pose):
                continue
            distance, heading = separation(start, pose)
            bearing = _bearing(start, pose)
            return GoalTask(
                seed=seed,
                map_seed=map_seed,
                frames=clip.frames[0],
                actions=clip.actions[0],
                poses=clip.poses[0],
                goal_frame=frame,
                goal_pose=pose,
                route=route,
                distance=distance,
                heading=heading,
                bearing=bearing,
                in_view=bearing <= _HALF_VIEW and _free_line(env, start, pose, body=False),
            )
    raise WorldloopError(
        f"No goal {steps[0]} to {steps[1]} steps away was found on map {map_seed} in {_STARTS * _TARGETS} "
        "attempts; allow other distances, or take other maps."
    )


def _target(spec: ActionSpec, start: Pose, most: int, rng: np.random.Generator) -> Pose:
    """A pose up to 90 degrees to either side, at most ``most`` steps off, turned by a few whole turns."""
    ahead = rng.uniform(-math.pi / 2, math.pi / 2)
    far = rng.uniform(2, most) * spec.step_length
    turn = float(rng.integers(-2, 3)) * spec.step_angle
    motion = torch.tensor([far * math.cos(ahead), far * math.sin(ahead), 0, turn, 0], dtype=torch.float64)
    target: Pose = move(torch.as_tensor(start), motion).numpy()
    return target


def _walk(
    env: gym.Env[Any, Any], spec: ActionSpec, start: Pose, target: Pose, most: int
) -> tuple[NDArray[Any], NDArray[np.uint8], Pose]:
    """Actions taken greedily from where ``env`` stands toward ``target``; frame and pose where they end."""
    route: list[Any] = []
    frame, pose = np.empty(0, np.uint8), start
    while len(route) < most and (action := greedy_action(spec, pose, target)) is not None:
        frame, _, _, _, info = env.step(action)
        pose = np.asarray(info["pose"])
        route.append(action)
    return np.asarray(route), frame, pose


def _bearing(start: Pose, goal: Pose) -> float:
    """Degrees between the viewing direction at ``start`` and the direction to ``goal``'s position."""
    toward = math.atan2(goal[1] - start[1], goal[0] - start[0])
    return abs(math.degrees((toward - start[3] + math.pi) % (2 * math.pi) - math.pi))


def _free_line(env: gym.Env[Any, Any], start: Pose, end: Pose, body: bool) -> bool:
    """Whether the straight line holds nothing solid: for a walker's ``body``, or only for a look.

    An environment without a layout has nothing in the way.
    """
    layout = getattr(env.unwrapped, "layout", None)
    if layout is None:
        return True
    margin = 0.0 if body else -PLAYER_RADIUS
    points = np.linspace(start[:2], end[:2], max(2, math.ceil(math.dist(start[:2], end[:2]) / 4)))
    return all(layout.clear(float(x), float(y), margin) for x, y in points)
