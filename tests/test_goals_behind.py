"""Goals seen earlier and behind walls now: recorded, hidden, in another room, and reachable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from toy_world import KEYS, ToyArena, ToyEnv
from walk_env import SPECS, WalkRooms

from worldloop.envs.doom_rooms.layout import PLAYER_RADIUS, generate
from worldloop.envs.explorers import FunctionPolicy, WaypointExplorer
from worldloop.errors import ConfigError, WorldloopError
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.evaluation.goals import GoalTask, Place, Reached
from worldloop.evaluation.oracle import Guide

SPEC = SPECS["discrete"]
MAPS = range(100_000, 100_008)


class Rooms(WalkRooms):
    """Rooms without an end."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        frame, reward, _, _, info = super().step(action)
        return frame, reward, False, False, info


def drawn(place: Place, count: int, context: int = 100, ago: int | None = None) -> list[GoalTask]:
    steps = (1, 40) if ago else (8, 20)
    return sample_goals(
        Rooms(), WaypointExplorer(), SPEC, MAPS, count=count, place=place, context=context, steps=steps, ago=ago, seed=1
    )


@pytest.fixture(scope="module")
def tasks() -> list[GoalTask]:
    return drawn("behind", 4)


def blocked(task: GoalTask) -> bool:
    """Whether a wall or a thing is met by someone without extent who walks straight to the goal in tiny steps."""
    layout = generate(task.map_seed)
    (x0, y0), (x1, y1) = task.poses[-1][:2], task.goal_pose[:2]
    return not all(
        layout.clear(x0 + (x1 - x0) * f, y0 + (y1 - y0) * f, -PLAYER_RADIUS) for f in np.linspace(0, 1, 400)
    )


def test_the_goal_is_a_frame_of_the_exploration(tasks: list[GoalTask]) -> None:
    for task in tasks:
        assert task.index is not None and task.ago == len(task.frames) - 1 - task.index
        assert 50 <= len(task.frames) <= 100
        assert (task.frames[task.index] == task.goal_frame).all()
        assert (task.poses[task.index] == task.goal_pose).all()


def test_the_goal_is_hidden_and_in_another_room(tasks: list[GoalTask]) -> None:
    for task in tasks:
        layout = generate(task.map_seed)
        assert layout.room_of(*task.poses[-1][:2]) != layout.room_of(*task.goal_pose[:2])
        assert blocked(task) and not task.in_view


def test_the_known_way_leads_there_and_no_sooner(tasks: list[GoalTask]) -> None:
    env, reached = Rooms(), Reached()
    for task in tasks:
        task.begin(env)
        ends = [np.asarray(env.step(action)[4]["pose"]) for action in task.route]
        assert 8 <= task.steps <= 20
        assert not reached(task.poses[-1], task.goal_pose)
        assert [reached(pose, task.goal_pose) for pose in ends] == [False] * (task.steps - 1) + [True]


def test_difficulty_tells_how_far_and_how_long_unseen(tasks: list[GoalTask]) -> None:
    for task in tasks:
        told = task.difficulty()
        assert told["place"] == "behind" and told["ago"] == task.ago
        assert task.walk >= task.distance == pytest.approx(math.dist(task.poses[-1][:2], task.goal_pose[:2]))
        # The walker stood there that many steps ago, so its place cannot have been out of sight for much longer.
        assert task.unseen is None or task.unseen > 0


def test_goals_in_view_and_out_of_view_are_told_apart() -> None:
    near, away = drawn("near", 3, 10), drawn("out-of-view", 3, 10)
    assert all(t.in_view and not blocked(t) and t.bearing <= 45 and t.unseen == 0 for t in near)
    assert all(not t.in_view and t.bearing > 45 and t.unseen != 0 for t in away)
    assert all(t.index is None and t.ago is None for t in (*near, *away))


def test_where_one_was_so_many_steps_ago_can_be_asked_for() -> None:
    for task in drawn("behind", 2, ago=25):
        assert task.ago == 25 and task.index == len(task.frames) - 26


def test_a_seed_repeats_the_goals(tasks: list[GoalTask]) -> None:
    assert [t.difficulty() for t in drawn("behind", 1)] == [t.difficulty() for t in tasks[:1]]


def test_maps_without_a_goal_are_made_up_for() -> None:
    class Still(WaypointExplorer):
        """Never leaves its first room on the first map, so that nothing there lies behind walls."""

        def act(self, observation: Any, info: dict[str, Any]) -> Any:
            return 0 if info["map_seed"] == MAPS[0] else super().act(observation, info)

    found = sample_goals(Rooms(), Still(), SPEC, MAPS, count=2, place="behind", context=60, steps=(6, 20))
    assert len(found) == 2 and MAPS[0] not in [t.map_seed for t in found]


def test_the_guide_walks_round_what_stands_in_the_way() -> None:
    env, rng = Rooms(), np.random.default_rng(0)
    arrived = 0
    for map_seed in range(100_020, 100_040):
        _, info = env.reset(seed=map_seed, options={"map_seed": map_seed})
        pose, goal = info["pose"], np.array([*env.layout.random_position(rng), 41, 0, 0])
        guide, steps = Guide(env.layout, SPEC, goal, rng), 0
        while steps < 100 and not Reached()(pose, goal) and (action := guide.act(pose)) is not None:
            pose, steps = env.step(action)[4]["pose"], steps + 1
        arrived += Reached()(pose, goal)
    assert arrived >= 19


def test_impossible_demands_are_told() -> None:
    blind = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
    toy = ToyEnv(ToyArena(goal=(-1e6, 0.0)))
    with pytest.raises(ConfigError, match="need an environment with a map"):
        sample_goals(toy, blind, KEYS, MAPS[:1], place="behind", context=5)
    still = FunctionPolicy(lambda observation, info, rng: 0, "still")
    with pytest.raises(WorldloopError, match=r"after 10 explorations of 5 frames; allow other distances or a longer"):
        sample_goals(Rooms(), still, SPEC, MAPS[:1], place="behind", context=5)
    with pytest.raises(ConfigError, match="1 to 4 steps back"):
        sample_goals(Rooms(), still, SPEC, MAPS[:1], place="behind", context=5, ago=5)


def test_the_object_that_is_rewarded_can_be_the_goal() -> None:
    env = Rooms()
    places: tuple[Place, ...] = ("near", "behind")
    for place in places:
        for task in sample_goals(
            env, WaypointExplorer(), SPEC, MAPS, count=2, place=place, target="object", context=60, steps=(2, 20)
        ):
            layout = generate(task.map_seed)
            task.begin(env)
            apart = [math.dist(env.step(action)[4]["pose"][:2], layout.goal) for action in task.route]
            assert apart[-1] <= 64 and all(d > 64 for d in apart[:-1])
            assert math.dist(task.poses[-1][:2], layout.goal) > 64
            assert task.in_view == (place == "near") and task.unseen is not None
