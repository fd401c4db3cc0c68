"""Goals are reachable, not yet reached, and as hard as they say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_world import KEYS, TURN, ToyArena, ToyEnv, picture_at, walk

from worldloop.envs.explorers import FunctionPolicy
from worldloop.errors import ConfigError, WorldloopError
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.evaluation.goals import GoalTask, Reached, greedy_action

ARENA = ToyArena(goal=(-1e6, 0.0))
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
MAPS = range(100_000, 100_012)


@pytest.fixture(scope="module")
def tasks() -> list[GoalTask]:
    return sample_goals(ToyEnv(ARENA), WALKER, KEYS, MAPS, context=5, steps=(4, 9), seed=2)


def test_the_known_way_leads_to_the_goal(tasks: list[GoalTask]) -> None:
    for task in tasks:
        frames, poses = walk(ARENA, task.poses[-1], task.route)
        assert 4 <= task.steps <= 9
        assert np.allclose(poses[0, -1].numpy(), task.goal_pose)
        assert (frames[0, -1].numpy() == task.goal_frame).all()


def test_no_start_is_already_solved(tasks: list[GoalTask]) -> None:
    assert not any(Reached()(task.poses[-1], task.goal_pose) for task in tasks)


def test_difficulty_is_plain_geometry(tasks: list[GoalTask]) -> None:
    for task in tasks:
        start, goal = task.poses[-1], task.goal_pose
        assert task.distance == pytest.approx(math.hypot(*(goal - start)[:2]))
        toward = math.degrees(math.atan2(goal[1] - start[1], goal[0] - start[0]) - start[3])
        assert task.bearing == pytest.approx(min(toward % 360, -toward % 360))
        turned = math.degrees(goal[3] - start[3])
        assert task.heading == pytest.approx(min(turned % 360, -turned % 360), abs=1e-4)
        assert task.in_view == (task.bearing <= 45)


def test_a_task_begins_where_its_frames_end(tasks: list[GoalTask]) -> None:
    env = ToyEnv(ARENA)
    for task in tasks[:3]:
        task.begin(env)
        assert (env._frame() == task.frames[-1]).all()


def test_a_seed_repeats_the_goals(tasks: list[GoalTask]) -> None:
    again = sample_goals(ToyEnv(ARENA), WALKER, KEYS, MAPS[:3], context=5, steps=(4, 9), seed=2)
    assert [t.difficulty() for t in again] == [t.difficulty() for t in tasks[:3]]


def test_reached_needs_place_and_heading() -> None:
    goal = np.array([100.0, 100, 0, 0, 0])
    reached = Reached(radius=30, heading=23)
    assert reached(goal + np.array([29, 0, 0, math.radians(22), 0]), goal)
    assert not reached(goal + np.array([31, 0, 0, 0, 0]), goal)
    assert not reached(goal + np.array([0, 0, 0, math.radians(24), 0]), goal)


def test_greedy_needs_no_more_steps_than_the_shortest_way() -> None:
    start = np.array([100.0, 100, 0, 0, 0])
    goal = start + np.array([75, 50, 0, 2 * TURN, 0])
    pose, steps = start, 0
    while (action := greedy_action(KEYS, pose, goal)) is not None:
        pose = ARENA.arrive(torch.as_tensor(pose)[None], torch.tensor([action]))[0].numpy()
        steps += 1
    assert steps <= 3 + 2 + 2 and Reached(radius=18, heading=1)(pose, goal)


def test_what_stands_in_the_way_hides_a_goal() -> None:
    class Walled(ToyEnv):
        # A wall along x = 200 that a body does not pass and a look does not either.
        layout = SimpleNamespace(
            clear=lambda x, y, margin=0.0: abs(x - 200) > 16 + margin, route=lambda start, end: [end]
        )

    def no_wall_between(task: GoalTask) -> bool:
        return (task.poses[-1][0] < 200) == (task.goal_pose[0] < 200)

    tasks = sample_goals(Walled(ARENA), WALKER, KEYS, MAPS, context=2, steps=(4, 9))
    assert all(no_wall_between(t) for t in tasks if t.in_view)
    assert sum(map(no_wall_between, tasks)) >= len(tasks) - 1


def test_impossible_demands_are_told() -> None:
    env: Any = ToyEnv(ToyArena(goal=(-1e6, 0.0), size=30.0))
    with pytest.raises(WorldloopError, match="No goal 6 to 12 steps away"):
        sample_goals(env, WALKER, KEYS, MAPS[:1], context=1)
    with pytest.raises(ConfigError, match="range"):
        sample_goals(env, WALKER, KEYS, MAPS[:1], steps=(5, 2))


def test_pictures_of_goals_are_of_their_poses(tasks: list[GoalTask]) -> None:
    assert all((picture_at(ARENA, t.goal_pose) == t.goal_frame).all() for t in tasks)
