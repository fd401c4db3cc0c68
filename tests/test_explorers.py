"""Collection policies do what they are named for, in any action space."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from walk_env import SPECS, STEP, TURN, WalkRooms

from worldloop.envs.explorers import (
    LOOP_RADII,
    Explorer,
    FunctionPolicy,
    LoopWalker,
    RandomPolicy,
    SB3Policy,
    WaypointExplorer,
    WithRandomActions,
    load_explorer,
)
from worldloop.envs.roaming import RoamingExplorer
from worldloop.envs.searching import SearchingExplorer
from worldloop.envs.steering import FORWARD, OTHER_GAITS, WALKING, Gait, Steering, Walk, wrap
from worldloop.errors import ConfigError
from worldloop.world_models.actions import ActionSpec

KINDS = ["discrete", "continuous"]


class _Endless(WalkRooms):
    """Rooms in which reaching the goal ends nothing."""

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


def _run(
    explorer: Explorer, steps: int, kind: str = "discrete", map_seed: int = 0, seed: int = 0
) -> tuple[np.ndarray, list[Any], list[dict[str, Any]], WalkRooms]:
    env = _Endless(kind)
    observation, info = env.reset(seed=seed, options={"map_seed": map_seed})
    explorer.reset(env, np.random.default_rng(seed))
    infos, actions = [info], []
    for _ in range(steps):
        actions.append(explorer.act(observation, infos[-1]))
        assert env.action_space.contains(actions[-1])
        observation, *_, info = env.step(actions[-1])
        infos.append(info)
    return np.stack([i["pose"] for i in infos]), actions, infos, env


@pytest.mark.parametrize("kind", KINDS)
def test_walks_arrive_in_every_map(kind: str) -> None:
    rng = np.random.default_rng(0)
    arrived = collisions = steps = 0
    for map_seed in range(60):
        env = _Endless(kind)
        _, info = env.reset(seed=map_seed, options={"map_seed": map_seed})
        target = env.layout.random_position(rng)
        walk = Walk(env.layout, Steering(env.action_spec), info["pose"], target)
        while (action := walk.act(info["pose"], info["collided"], rng)) is not None:
            *_, info = env.step(action)
            collisions, steps = collisions + info["collided"], steps + 1
        arrived += walk.arrived
        if walk.arrived:
            assert math.dist(info["pose"][:2], target) <= 0.6 * STEP
    assert arrived >= 57
    assert collisions < 0.05 * steps


@pytest.mark.parametrize("kind", KINDS)
def test_the_roaming_explorer_often_bumps_into_walls_and_never_pushes_for_long(kind: str) -> None:
    bumped = walked = 0
    for map_seed in range(5):
        poses, *_ = _run(RoamingExplorer(pushes=4), 400, kind, map_seed)
        unturned = np.abs([wrap(turn) for turn in np.diff(poses[:, 3])]) < 1e-6
        stopped = (np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1) < 0.5 * STEP) & unturned
        bumped, walked = bumped + stopped.sum(), walked + unturned.sum()
        # Pushed four times at most; what is longer are the walks of fourteen steps on which it stands.
        held = max((len(list(run)) for same, run in itertools.groupby(stopped) if same), default=0)
        assert held <= 4 + 14 + 4
    assert 0.15 < bumped / walked < 0.7
    again, *_ = _run(RoamingExplorer(pushes=4), 400, kind, 4)
    assert np.array_equal(again, poses)


@pytest.mark.parametrize("kind", KINDS)
def test_the_searching_explorer_turns_until_it_sees_the_goal_and_goes_there(kind: str) -> None:
    def bearings(poses: np.ndarray, goal: tuple[float, float]) -> np.ndarray:
        ways = np.arctan2(goal[1] - poses[:, 1], goal[0] - poses[:, 0])
        return np.abs([wrap(way - yaw) for way, yaw in zip(ways, poses[:, 3], strict=True)])

    goals = blind = 0
    for map_seed in range(16):
        poses, _, infos, env = _run(SearchingExplorer(heeds=1.0), 400, kind, map_seed)
        met = [t for t, info in enumerate(infos) if info["success"]]
        goals += bool(met and met[0] < 40)
        if not met:
            continue
        # It begins by turning, never more than once round, with the goal out of view as long as it turns on.
        turned = next(t for t, step in enumerate(np.diff(poses[:, :2], axis=0)) if np.linalg.norm(step) > 1)
        assert turned <= round(2 * math.pi / TURN) + 1
        seen = [
            far <= math.radians(75) / 2 and len(env.layout.route(tuple(pose[:2]), env.layout.goal)) == 1
            for far, pose in zip(bearings(poses, env.layout.goal), poses, strict=True)
        ]
        blind += not seen[0]
        if any(seen[: turned + 1]):
            first = seen.index(True)
            assert not any(seen[:first])
            # From there it is headed for the goal, which it reaches before it looks elsewhere.
            way = math.dist(poses[first][:2], env.layout.goal)
            assert met[0] - first <= way / STEP + math.pi / TURN + 8
    assert goals >= 4 and blind >= 3
    heedless = [any(i["success"] for i in _run(SearchingExplorer(heeds=0.0), 40, kind, m)[2]) for m in range(16)]
    assert sum(heedless) < goals


@pytest.mark.parametrize("kind", KINDS)
def test_the_waypoint_explorer_sees_every_room_and_the_goal(kind: str) -> None:
    rooms: list[int] = []
    goals = 0
    for map_seed in range(5):
        poses, _, infos, env = _run(WaypointExplorer(), 600, kind, map_seed)
        rooms.append(len({env.layout.room_of(x, y) for x, y in poses[:, :2]}))
        goals += any(i["success"] for i in infos)
    assert min(rooms) >= 3
    assert np.mean(rooms) > 3.5
    assert goals >= 4


def test_the_goal_fraction_decides_how_often_the_goal_is_met() -> None:
    def meetings(fraction: float) -> int:
        explorer = WaypointExplorer(goal_fraction=fraction)
        return sum(i["success"] for m in range(4) for i in _run(explorer, 400, map_seed=m)[2])

    assert meetings(0.9) > 2 * meetings(0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_walker_returns_to_where_it_was_facing_as_it_did(kind: str) -> None:
    returns = 0
    for map_seed in range(6):
        poses, *_ = _run(LoopWalker(radii=(1.0,)), 400, kind, map_seed)
        away = np.hypot(*(poses[:, :2] - poses[0, :2]).T)
        far = int(np.argmax(away > 100))
        back = away[far:] <= 0.6 * STEP
        facing = np.abs([wrap(float(p)) for p in poses[far:, 3] - poses[0, 3]]) <= TURN / 2 + 1e-6
        returns += bool((back & facing).any())
    assert returns >= 5


def test_loops_lead_as_far_as_their_radius() -> None:
    for radius in LOOP_RADII[1:3]:
        reached = []
        for map_seed in range(6):
            poses, _, _, env = _run(LoopWalker(radii=(radius,)), 150, map_seed=map_seed)
            reached.append(np.hypot(*(poses[:, :2] - poses[0, :2]).T).max() / env.layout.room_size)
        assert abs(np.median(reached) - min(radius, 1.5)) < 0.35


def test_random_actions_are_held_and_cover_the_space() -> None:
    _, actions, *_ = _run(RandomPolicy(max_repeat=6), 2000)
    changes = np.flatnonzero(np.diff(actions)) + 1
    assert set(actions) == set(range(7))
    assert 2.5 < len(actions) / len(changes) < 6


def test_epsilon_replaces_that_share_of_the_actions() -> None:
    class Still:
        name = "still"

        def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
            pass

        def act(self, observation: Any, info: dict[str, Any]) -> int:
            return 0

    _, actions, *_ = _run(WithRandomActions(Still(), 0.35), 4000)
    assert abs(np.mean(np.array(actions) != 0) - 0.35 * 6 / 7) < 0.03


@pytest.mark.parametrize("make", [RandomPolicy, WaypointExplorer, LoopWalker])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_actions(make: Any, kind: str) -> None:
    first, second, other = (_run(make(), 120, kind, seed=seed)[1] for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_steering_turns_to_the_target_and_then_walks(kind: str) -> None:
    steering = Steering(SPECS[kind])
    pose = np.zeros(5)
    ahead, left, behind = (steering.toward(pose, target) for target in ((100, 0), (0, 100), (-100, -1)))
    motions = [np.array(SPECS[kind].motion)[a] if kind == "discrete" else a @ np.array(SPECS[kind].motion)
               for a in (ahead, left, behind)]  # fmt: skip
    assert np.allclose(motions[0], [STEP, 0, 0, 0, 0], atol=1e-5)
    assert np.allclose(motions[1], [0, 0, 0, TURN, 0], atol=1e-5)
    assert np.allclose(motions[2], [0, 0, 0, -TURN, 0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gait", [WALKING, *OTHER_GAITS])
def test_every_gait_leads_to_its_target(kind: str, gait: Gait) -> None:
    steering, motion = Steering(SPECS[kind]), np.array(SPECS[kind].motion)
    pose, target = np.array([10.0, -20.0, 0.0, 0.4, 0.0]), (160.0, 90.0)
    for _ in range(30):
        action = steering.toward(pose, target, gait)
        forward, left, _, yaw, _ = motion[action] if kind == "discrete" else action @ motion
        assert (left if gait.axis == FORWARD else forward) == 0
        assert (forward if gait.axis == FORWARD else left) * gait.sign >= 0
        pose[:2] += (
            forward * math.cos(pose[3]) - left * math.sin(pose[3]),
            (forward * math.sin(pose[3]) + left * math.cos(pose[3])),
        )
        pose[3] += yaw
        if math.dist(pose[:2], target) < 0.6 * STEP:
            return
    raise AssertionError(pose)


def test_the_waypoint_explorer_uses_every_movement() -> None:
    actions = np.concatenate([_run(WaypointExplorer(), 600, map_seed=m)[1] for m in range(5)])
    shares = np.bincount(actions, minlength=7) / len(actions)
    assert shares[1:].min() > 0.01


def test_a_world_that_cannot_turn_cannot_be_walked() -> None:
    with pytest.raises(ConfigError, match="move forward and turn"):
        Steering(ActionSpec("discrete", ("forward",), ((25.0, 0, 0, 0, 0),)))


def test_walking_by_a_map_needs_a_map() -> None:
    env = WalkRooms()
    with pytest.raises(ConfigError, match="'layout'"):
        WaypointExplorer().reset(env, np.random.default_rng(0))


def test_an_own_policy_is_a_function_or_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policy.py").write_text(
        "class Left:\n"
        "    name = 'left'\n"
        "    def reset(self, env, rng): pass\n"
        "    def act(self, observation, info): return 5\n"
        "def right(observation, info, rng): return 6\n"
        "class Wrong: pass\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert set(_run(load_explorer("my_policy:Left"), 5)[1]) == {5}
    function = load_explorer("my_policy:right")
    assert isinstance(function, FunctionPolicy)
    assert set(_run(function, 5)[1]) == {6}
    for wrong in (
        "my_policy:Wrong",
        "my_policy:number",
        "my_policy:missing",
        "nowhere:f",
        "my_policy:",
        ":x",
    ):
        with pytest.raises(ConfigError, match=wrong):
            load_explorer(wrong)


def test_a_saved_sb3_model_acts_as_it_would_by_itself(tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.A2C("MlpPolicy", WalkRooms(), n_steps=2, seed=0, device="cpu")
    model.save(tmp_path / "model.zip")
    _, actions, _, env = _run(SB3Policy(tmp_path / "model.zip", "A2C"), 5)
    observation, _ = env.reset(seed=0, options={"map_seed": 0})
    for action in actions:
        assert int(model.predict(observation, deterministic=True)[0]) == int(action)
        observation, *_ = env.step(action)


def test_what_is_no_sb3_model_is_explained(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    (tmp_path / "model.zip").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="could not be loaded as an SB3 PPO model"):
        SB3Policy(tmp_path / "model.zip")
    with pytest.raises(ConfigError, match="no algorithm 'PPPO'"):
        SB3Policy(tmp_path / "model.zip", "PPPO")
