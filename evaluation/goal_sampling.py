"""Drawing goals that are reachable, not yet reached, and in view, out of view, or seen earlier and behind walls now."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.explorers import Explorer
from ..errors import ConfigError, WorldloopError
from ..world_models.actions import ActionSpec
from ..world_models.pose import move
from .clips import Clips, record_clips
from .goal_behind import behind_walls
from .goal_geometry import bearing, free_line, in_view, map_of, unseen, walking_distance
from .goal_object import the_object
from .goals import GoalTask, Place, Pose, Reached, Sought, greedy_action, repeat, separation
from .progress import Progress, silent

_STARTS, _TARGETS = 10, 20

Draw = Callable[[gym.Env[Any, Any], ActionSpec, Clips, Sought, np.random.Generator], GoalTask | None]


def sample_goals(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    spec: ActionSpec,
    maps: Sequence[int],
    *,
    count: int | None = None,
    place: Place = "straight",
    target: Literal["pose", "object"] = "pose",
    context: int = 16,
    steps: tuple[int, int] = (6, 12),
    reached: Reached | None = None,
    ago: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[GoalTask]:
    """One task on each of ``maps``, or on so many of them.

    An explorer gathers ``context`` frames. From where it stops, a place is drawn ahead or just out of view
    (up to 90 degrees to either side) with a free line to it, and a heading near the present one; the straight
    way there is walked in the real world, and where that ends is the goal. So every goal is reachable and its
    picture is exact. Goals behind walls are frames of the exploration instead, see `goal_behind.behind_walls`.
    Goals reached already at the start, or taking fewer or more than ``steps``, are drawn again.

    Args:
        env: a real environment; see `clips.record_clips`. Goals behind walls need one with a map.
        explorer: gathers the context.
        spec: the environment's actions.
        maps: map seeds.
        count: how many tasks; further maps take the place of those on which no goal was found. None for one on each.
        place: where goals lie.
        target: a pose, or the map's goal object, see `goal_object.the_object`.
        context: frames seen before the start, itself included; behind walls at most so many, and at least half.
        steps: fewest and most steps of the known way.
        reached: when a goal counts as reached; starts that satisfy it are rejected.
        ago: of goals behind walls, how many steps before the start they were seen; None for any number.
        seed: of everything drawn.
        progress: told after every task.

    Raises:
        ConfigError: a range of steps that is empty, an ``ago`` outside the context, or walls asked for without a map.
        WorldloopError: no such goal was found on a map, and no other is left.
    """
    if not 1 <= steps[0] <= steps[1]:
        raise ConfigError(f"The steps to a goal are a range from 1 up, got {steps[0]} to {steps[1]}.")
    if ago is not None and (place != "behind" or not 1 <= ago < context):
        raise ConfigError(
            f"Goals seen so many steps ago lie behind walls, 1 to {context - 1} steps back in a context of {context} "
            f"frames; got {ago} for goals {place!r}."
        )
    sought = Sought(place, steps, reached or Reached(), ago)
    draw: Draw = the_object if target == "object" else behind_walls if place == "behind" else _straight
    wanted = len(maps) if count is None else count
    tasks: list[GoalTask] = []
    for i, map_seed in enumerate(maps):
        if len(tasks) == wanted:
            break
        rng = np.random.default_rng([seed, i])
        try:
            tasks.append(_sample(env, explorer, spec, int(map_seed), context, sought, draw, rng))
        except _NotFound as error:
            if len(maps) - i - 1 < wanted - len(tasks):
                raise WorldloopError(str(error)) from None
        progress("drawing goals", len(tasks), wanted)
    return tasks


class _NotFound(Exception):
    """A map on which there is no goal as asked."""


def _sample(
    env: gym.Env[Any, Any],
    explorer: Explorer,
    spec: ActionSpec,
    map_seed: int,
    context: int,
    sought: Sought,
    draw: Draw,
    rng: np.random.Generator,
) -> GoalTask:
    for _ in range(_STARTS):
        clip = record_clips(env, explorer, [map_seed], context, seed=int(rng.integers(2**31)))
        task = draw(env, spec, clip, sought, rng)
        if task is not None:
            return task
    steps = sought.steps
    raise _NotFound(
        f"No goal {steps[0]} to {steps[1]} steps away was found on map {map_seed} after {_STARTS} explorations of "
        f"{context} frames; allow other distances or a longer context, or take other maps."
    )


def _straight(
    env: gym.Env[Any, Any], spec: ActionSpec, clip: Clips, sought: Sought, rng: np.random.Generator
) -> GoalTask | None:
    """A goal at the end of a straight line, in view or not as asked; None where none was found."""
    seed, map_seed, start = int(clip.seeds[0]), int(clip.maps[0]), clip.poses[0, -1]
    least, most = sought.steps
    for _ in range(_TARGETS):
        target = _target(spec, start, most, rng)
        if not free_line(map_of(env), start, target, body=True):
            continue
        repeat(env, seed, map_seed, clip.actions[0])
        route, frame, pose = _walk(env, spec, start, target, most + 1)
        if not least <= len(route) <= most or sought.reached(start, pose):
            continue
        layout, (distance, heading) = map_of(env), separation(start, pose)
        visible = in_view(layout, start, pose)
        if sought.place != "straight" and visible != (sought.place == "near"):
            continue
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
            bearing=bearing(start, pose),
            in_view=visible,
            place=sought.place,
            walk=walking_distance(layout, start, pose),
            unseen=unseen(layout, clip.poses[0], pose),
        )
    return None


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
