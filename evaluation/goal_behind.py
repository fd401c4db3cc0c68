"""Goals that were seen earlier and lie behind walls now: only what is remembered tells what they look like."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .clips import Clips
from .goal_geometry import bearing, free_line, map_of, unseen, walking_distance
from .goals import GoalTask, Sought, repeat, separation
from .oracle import Guide

_TRIES = 12


def behind_walls(
    env: gym.Env[Any, Any], spec: ActionSpec, clip: Clips, sought: Sought, rng: np.random.Generator
) -> GoalTask | None:
    """An earlier frame of ``clip``, taken in another room and hidden from where the walker stands now.

    The shortest way on the true map is walked to it in the real world, so that every goal is reachable. None where no
    frame of the clip will do.

    Raises:
        ConfigError: the environment has no map to know walls by.
    """
    layout = map_of(env)
    if layout is None:
        raise ConfigError(f"Goals behind walls need an environment with a map; {env.unwrapped} has no 'layout'.")
    seed, map_seed, poses = int(clip.seeds[0]), int(clip.maps[0]), clip.poses[0]
    start, (least, most) = poses[-1], sought.steps
    here = layout.room_of(*start[:2])
    indices = np.arange(len(poses) - 1) if sought.ago is None else np.array([len(poses) - 1 - sought.ago])
    tries = 0
    for index in rng.permutation(indices).tolist():
        goal = poses[index]
        farthest = most * spec.step_length
        if layout.room_of(*goal[:2]) == here or math.dist(start[:2], goal[:2]) > farthest:
            continue
        if free_line(layout, start, goal, body=False):
            continue
        walk = walking_distance(layout, start, goal)
        if walk > farthest:
            continue
        repeat(env, seed, map_seed, clip.actions[0])
        guide, pose = Guide(layout, spec, goal, rng), start
        route: list[Any] = []
        while len(route) <= most and not sought.reached(pose, goal) and (action := guide.act(pose)) is not None:
            pose = np.asarray(env.step(action)[4]["pose"])
            route.append(action)
        if sought.reached(pose, goal) and least <= len(route) <= most:
            distance, heading = separation(start, goal)
            return GoalTask(
                seed=seed,
                map_seed=map_seed,
                frames=clip.frames[0],
                actions=clip.actions[0],
                poses=poses,
                goal_frame=clip.frames[0, index],
                goal_pose=goal,
                route=np.asarray(route),
                distance=distance,
                heading=heading,
                bearing=bearing(start, goal),
                in_view=False,
                place="behind",
                walk=walk,
                unseen=unseen(layout, poses, goal),
                index=index,
            )
        tries += 1
        if tries == _TRIES:
            return None
    return None
