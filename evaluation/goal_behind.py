"""Goals that were seen earlier and lie behind walls now: only what is remembered tells what they look like."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.doom_rooms.layout import Layout
from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .clips import Clips
from .goal_geometry import bearing, free_line, map_of, straight_steps, unseen, walking_distance, walking_steps
from .goals import GoalTask, Sought, repeat, separation
from .oracle import Guide

_SIDEWAYS = 3
"""Steps that a walker may save by going sideways, which the estimate of a way does not know."""
_ENDS, _ROUTES, _WALKS = 12, 60, 6
"""Moments of an exploration to start from, ways to measure and ways to walk, at most."""


def behind_walls(
    env: gym.Env[Any, Any], spec: ActionSpec, clip: Clips, sought: Sought, rng: np.random.Generator
) -> GoalTask | None:
    """An earlier frame of ``clip``, taken in another room and hidden from where the walker stands.

    It stands where the clip ends, or where it was at some moment of its second half: what came later is cut off. The
    shortest way on the true map is walked in the real world, so that every goal is reachable. None where no two frames
    of the clip will do.

    Raises:
        ConfigError: the environment has no map to know walls by.
    """
    layout = map_of(env)
    if layout is None:
        raise ConfigError(f"Goals behind walls need an environment with a map; {env.unwrapped} has no 'layout'.")
    pairs = _hidden(layout, spec, clip.poses[0], sought, rng)
    for index, end in itertools.islice(pairs, _WALKS):
        task = _walked(env, layout, spec, clip, index, end, sought, rng)
        if task is not None:
            return task
    return None


def _hidden(
    layout: Layout, spec: ActionSpec, poses: NDArray[np.float64], sought: Sought, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Frames of an exploration, (goal, start), that lie behind walls from each other and about as far as asked."""
    (least, most), half = sought.steps, len(poses) // 2
    ends = rng.permutation(np.arange(max(half, (sought.ago or 0)), len(poses)))[:_ENDS].tolist()
    routes = 0
    for end in ends:
        start = poses[end]
        here = layout.room_of(*start[:2])
        for index in rng.permutation(end).tolist() if sought.ago is None else [end - sought.ago]:
            goal = poses[index]
            # The cheap questions first: of many pairs few will do.
            if straight_steps(spec, start, goal) > most + _SIDEWAYS or layout.room_of(*goal[:2]) == here:
                continue
            if free_line(layout, start, goal, body=False):
                continue
            routes += 1
            if least <= walking_steps(layout, spec, start, goal) <= most + _SIDEWAYS:
                yield index, end
                break
            if routes == _ROUTES:
                return


def _walked(
    env: gym.Env[Any, Any],
    layout: Layout,
    spec: ActionSpec,
    clip: Clips,
    index: int,
    end: int,
    sought: Sought,
    rng: np.random.Generator,
) -> GoalTask | None:
    """The task of going from frame ``end`` to frame ``index``, if that takes as many steps as asked for."""
    seed, map_seed = int(clip.seeds[0]), int(clip.maps[0])
    frames, actions, poses = clip.frames[0, : end + 1], clip.actions[0, : end + 1], clip.poses[0, : end + 1]
    start, goal, (least, most) = poses[-1], poses[index], sought.steps
    repeat(env, seed, map_seed, actions)
    guide, pose = Guide(layout, spec, goal, rng), start
    route: list[Any] = []
    while len(route) <= most and not sought.reached(pose, goal) and (action := guide.act(pose)) is not None:
        pose = np.asarray(env.step(action)[4]["pose"])
        route.append(action)
    if not sought.reached(pose, goal) or not least <= len(route) <= most:
        return None
    distance, heading = separation(start, goal)
    return GoalTask(
        seed=seed,
        map_seed=map_seed,
        frames=frames,
        actions=actions,
        poses=poses,
        goal_frame=frames[index],
        goal_pose=goal,
        route=np.asarray(route),
        distance=distance,
        heading=heading,
        bearing=bearing(start, goal),
        in_view=False,
        place="behind",
        walk=walking_distance(layout, start, goal),
        unseen=unseen(layout, poses, goal),
        index=index,
    )
