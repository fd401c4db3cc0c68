"""The goal of those who are told of none: the object that the task ``find`` rewards reaching."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..envs.doom_rooms.layout import GOAL_RADIUS, Layout
from ..envs.doom_rooms.tasks import GOAL_REACH
from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .clips import Clips
from .goal_geometry import bearing, free_line, map_of, unseen, walking_distance
from .goals import GoalTask, Place, Pose, Reached, Sought, repeat, separation
from .oracle import Guide

_SOLID = 1.5 * GOAL_RADIUS
"""Units before the object's centre at which lines of sight end: it is solid itself."""

OBJECT_REACHED = Reached(GOAL_REACH, 180.0)
"""The object counts as reached from any side, within the distance that ``find`` asks for."""


def the_object(
    env: gym.Env[Any, Any], spec: ActionSpec, clip: Clips, sought: Sought, rng: np.random.Generator
) -> GoalTask | None:
    """The map's goal object, as it lies to where ``clip`` ends; None where that is not as asked for.

    Its frame is what is seen where the shortest way comes near enough.

    Raises:
        ConfigError: the environment has no map with a goal object.
    """
    layout = map_of(env)
    if layout is None:
        raise ConfigError(f"Goals that are rewarded need an environment with a map; {env.unwrapped} has no 'layout'.")
    seed, map_seed, poses = int(clip.seeds[0]), int(clip.maps[0]), clip.poses[0]
    start, (least, most) = poses[-1], sought.steps
    goal = np.array([*layout.goal, start[2], 0.0, 0.0])
    walk = walking_distance(layout, start, goal)
    if OBJECT_REACHED(start, goal) or walk - GOAL_REACH > most * spec.step_length:
        return None
    last = unseen(layout, poses, goal, _SOLID)
    found = _lies(layout, start, goal, last)
    if found != sought.place and (sought.place, found) not in (("straight", "near"), ("straight", "out-of-view")):
        return None
    frame = repeat(env, seed, map_seed, clip.actions[0])
    guide, pose = Guide(layout, spec, goal, rng), start
    route: list[Any] = []
    while len(route) <= most and not OBJECT_REACHED(pose, goal) and (action := guide.act(pose)) is not None:
        frame, _, _, _, info = env.step(action)
        pose = np.asarray(info["pose"])
        route.append(action)
    if not OBJECT_REACHED(pose, goal) or not least <= len(route) <= most:
        return None
    distance, heading = separation(start, goal)
    return GoalTask(
        seed=seed,
        map_seed=map_seed,
        frames=clip.frames[0],
        actions=clip.actions[0],
        poses=poses,
        goal_frame=frame,
        goal_pose=goal,
        route=np.asarray(route),
        distance=distance,
        heading=heading,
        bearing=bearing(start, goal),
        in_view=last == 0,
        place=sought.place,
        walk=walk,
        unseen=last,
    )


def _lies(layout: Layout, start: Pose, goal: Pose, last: int | None) -> Place | None:
    """Where the object lies, seen from ``start``; None for behind walls and never seen, or hidden in the same room."""
    if last == 0:
        return "near"
    if free_line(layout, start, goal, body=True, short=GOAL_REACH):
        return "out-of-view"
    hidden = not free_line(layout, start, goal, body=False, short=_SOLID)
    elsewhere = layout.room_of(*start[:2]) != layout.room_of(*goal[:2])
    return "behind" if hidden and elsewhere and last is not None else None
