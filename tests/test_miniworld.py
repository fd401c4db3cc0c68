"""`MiniWorldEnv`: poses and motions as MiniWorld itself has them, exact returns, worlds that leave each other alone."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from commands import collected, collected_after_a_kill, train_and_imagine
from gymnasium.utils.env_checker import check_env
from rollout_data import same

from worldloop import load_world
from worldloop.envs.collecting import CollectConfig, collect, record_map
from worldloop.envs.explorers import RandomPolicy
from worldloop.envs.miniworld import MiniWorldEnv
from worldloop.errors import ConfigError, EngineError
from worldloop.evaluation import CompareConfig, compare
from worldloop.rollouts.splits import split_of
from worldloop.world_models.pose import forward_vector, motion_between

try:
    MiniWorldEnv().close()
except (ConfigError, EngineError) as error:
    pytest.skip(f"no MiniWorld here: {error}", allow_module_level=True)

ID = "worldloop/MiniWorld-v0"
if ID not in gym.registry:
    gym.register(id=ID, entry_point=MiniWorldEnv)
FOUR_ROOMS, MAZE, PICK_UP = "MiniWorld-FourRooms-v0", "MiniWorld-MazeS3Fast-v0", "MiniWorld-PickupObjects-v0"
LEFT, RIGHT, FORWARD, BACK = range(4)


def core(env: MiniWorldEnv) -> Any:
    """MiniWorld's own environment."""
    return env._engine.core


def canonical(vector: np.ndarray) -> np.ndarray:
    """A direction or place of MiniWorld (y up) with z up: a quarter turn about x."""
    return np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]) @ vector


@pytest.mark.parametrize("env_id", [FOUR_ROOMS, MAZE, PICK_UP])
def test_free_moves_are_the_nominal_ones_and_walls_stop_them_altogether(env_id: str) -> None:
    env = MiniWorldEnv(env_id)
    rng = np.random.default_rng(1)
    _, info = env.reset(seed=1)
    seen = {True: 0, False: 0}
    for action in rng.integers(int(env.action_space.n), size=40).repeat(rng.integers(1, 25, size=40)).tolist():
        before = info["pose"]
        _, _, terminated, truncated, info = env.step(action)
        moved = motion_between(torch.from_numpy(before), torch.from_numpy(info["pose"])).numpy()
        nominal = np.zeros(5) if info["collided"] else np.array(env.action_spec.motion[action])
        assert np.allclose(moved, nominal, rtol=0, atol=1e-9)
        seen[info["collided"]] += 1
        if terminated or truncated:
            _, info = env.reset()
    assert min(seen.values()) > 10, seen
    env.close()


def test_the_steps_of_a_task_are_its_own() -> None:
    assert MiniWorldEnv(FOUR_ROOMS).action_spec.motion[FORWARD][0] == 0.15
    assert MiniWorldEnv(FOUR_ROOMS).action_spec.motion[RIGHT][3] == -math.radians(15)
    assert MiniWorldEnv(MAZE).action_spec.motion[FORWARD][0] == 0.7
    assert MiniWorldEnv(MAZE).action_spec.motion[LEFT][3] == math.radians(45)
    picker = MiniWorldEnv(PICK_UP)
    assert picker.action_names == ("turn_left", "turn_right", "move_forward", "move_back", "pickup")
    assert picker.action_spec.motion[BACK] == (-0.15, 0, 0, 0, 0) and not any(picker.action_spec.motion[4])


def test_the_pose_is_where_the_camera_is_and_where_it_looks() -> None:
    env = MiniWorldEnv()
    rng = np.random.default_rng(0)
    for seed in range(20):
        _, info = env.reset(options={"map_seed": seed})
        agent = core(env).agent
        ahead = forward_vector(torch.from_numpy(info["pose"])).numpy()
        assert np.allclose(ahead, canonical(agent.dir_vec), rtol=0, atol=1e-12)
        pose = info["pose"] + [0, 0, 0, rng.uniform(-3, 3), rng.uniform(-1, 1)]
        env.set_pose(pose)
        ahead = forward_vector(torch.from_numpy(env.pose)).numpy()
        assert np.allclose(ahead, canonical(agent.cam_dir), rtol=0, atol=1e-12)
        assert np.allclose(env.pose[:3], canonical(agent.cam_pos), rtol=0, atol=1e-12)
        assert np.allclose(ahead, forward_vector(torch.from_numpy(pose)).numpy(), rtol=0, atol=1e-12)


def test_what_lies_ahead_is_drawn_in_the_middle_and_what_lies_left_on_the_left() -> None:
    env = MiniWorldEnv("MiniWorld-OneRoom-v0", frame_size=(48, 64))
    seen = 0
    for seed in range(12):
        _, info = env.reset(options={"map_seed": seed})
        x, y = canonical(core(env).box.pos)[:2] - info["pose"][:2]
        if math.hypot(x, y) < 3:
            continue
        towards = math.atan2(y, x)
        for turn, column in ((0.0, 32), (math.radians(20), 32 + 32 * math.tan(math.radians(20)))):
            frame = env.render_at([*info["pose"][:3], towards + turn, 0.0]).astype(int)
            red = frame[..., 0] - frame[..., 1:].max(-1) > 50
            centre = (red.sum(0) * (np.arange(64) + 0.5)).sum() / red.sum()
            assert abs(centre - column) < 1.5, "turned left, the box moves right, as far as a view of 90 degrees says"
        seen += 1
    assert seen > 4


def test_a_pose_come_back_to_is_seen_again_to_the_last_bit() -> None:
    env = MiniWorldEnv("MiniWorld-RoomObjects-v0", random_looks=True)
    first, info = env.reset(seed=0)
    there = info["pose"]
    frames = [env.step(action)[0] for action in [FORWARD] * 4 + [LEFT] * 24 + [BACK] * 4]
    assert sum(not np.array_equal(a, b) for a, b in itertools.pairwise(frames)) == len(frames) - 1
    assert np.array_equal(frames[-1], first) and np.array_equal(env.render_at(there), first)
    for action in [LEFT] * 7 + [FORWARD] * 5 + [RIGHT] * 3:
        frame, *_, info = env.step(action)
    assert not np.array_equal(frame, first)
    assert np.array_equal(env.render_at(there), first)
    assert np.array_equal(env.render_at(info["pose"]), frame), "looking elsewhere left the agent where it was"
    assert np.array_equal(env.set_pose(there), first) and np.allclose(env.pose, there, rtol=0, atol=1e-12)


def test_a_map_seed_makes_the_same_episode_in_any_environment() -> None:
    actions = np.random.default_rng(2).integers(3, size=60)
    runs = []
    for env in (MiniWorldEnv(random_looks=True), MiniWorldEnv(random_looks=True)):
        env.reset(seed=9)
        first, info = env.reset(options={"map_seed": 123_456})
        assert info["map_seed"] == 123_456
        runs.append([first, *(env.step(int(action))[0] for action in actions)])
    assert np.array_equal(runs[0], runs[1])


def test_drawn_maps_are_of_the_split_and_repeatable() -> None:
    env = MiniWorldEnv(split="validation")
    maps = [env.reset(seed=3)[1]["map_seed"], *(env.reset()[1]["map_seed"] for _ in range(4))]
    assert {split_of(n) for n in maps} == {"validation"} and len(set(maps)) == 5
    assert env.reset(seed=3)[1]["map_seed"] == maps[0]


def test_environments_of_one_process_do_not_show_each_others_walls() -> None:
    actions = np.random.default_rng(0).integers(3, size=30)

    def alone(env_id: str) -> list[np.ndarray]:
        env = MiniWorldEnv(env_id)
        frames = [env.reset(options={"map_seed": 1})[0], *(env.step(int(a))[0] for a in actions)]
        env.close()
        return frames

    expected = [alone(FOUR_ROOMS), alone(MAZE)]
    envs = [MiniWorldEnv(FOUR_ROOMS), MiniWorldEnv(MAZE)]
    together: list[list[np.ndarray]] = [[env.reset(options={"map_seed": 1})[0]] for env in envs]
    for action in actions[:20]:
        for env, frames in zip(envs, together, strict=True):
            frames.append(env.step(int(action))[0])
    envs[1].close()
    together[0] += [envs[0].step(int(action))[0] for action in actions[20:]]
    assert np.array_equal(together[0], expected[0]) and np.array_equal(together[1], expected[1][:21])
    assert np.array_equal(envs[0].reset(options={"map_seed": 1})[0], expected[0][0])


def test_random_looks_change_the_picture_from_map_to_map_and_nothing_else() -> None:
    plain, varied = MiniWorldEnv(), MiniWorldEnv(random_looks=True)
    skies = set()
    for seed in range(5):
        varied.reset(options={"map_seed": seed})
        skies.add(tuple(core(varied).sky_color))
        agent = core(varied).agent
        assert (agent.cam_height, agent.cam_pitch, agent.cam_fwd_disp) == (1.5, 0, 0)
        plain.reset(options={"map_seed": seed})
        assert agent.cam_fov_y == core(plain).agent.cam_fov_y
    assert len(skies) == 5
    before = varied.pose
    for action in (LEFT, RIGHT, LEFT):
        after = varied.step(action)[4]["pose"]
        moved = motion_between(torch.from_numpy(before), torch.from_numpy(after)).numpy()
        assert np.allclose(moved, plain.action_spec.motion[action], rtol=0, atol=1e-9)
        before = after


def test_the_agent_is_not_put_into_walls_objects_or_the_air() -> None:
    env = MiniWorldEnv()
    _, info = env.reset(seed=0)
    box = canonical(core(env).box.pos)
    for pose in ([0, 0, 1.5, 0, 0], [50, 0, 1.5, 0, 0], [box[0], box[1], 1.5, 0, 0]):
        with pytest.raises(ValueError, match="does not fit"):
            env.set_pose(pose)
    for pose in ([*info["pose"][:2], 2.0, 0, 0], [*info["pose"][:3], 0, math.pi / 2]):
        with pytest.raises(ValueError, match=r"looks from height 1\.5"):
            env.render_at(pose)
    assert np.array_equal(env.pose, info["pose"])


def test_a_reached_goal_is_a_success() -> None:
    env = MiniWorldEnv("MiniWorld-OneRoom-v0")
    _, info = env.reset(seed=0)
    agent, box = core(env).agent, core(env).box
    away = canonical(agent.pos - box.pos)
    place = canonical(box.pos) + away / np.linalg.norm(away) * (agent.radius + box.radius + 0.2)
    towards = math.atan2(-away[1], -away[0])
    env.set_pose([*place[:2], info["pose"][2], towards, 0])
    _, reward, terminated, truncated, info = env.step(FORWARD)
    assert reward > 0.9 and terminated and not truncated and info["success"]


def test_the_checker_of_gymnasium_is_content() -> None:
    env = gym.make(ID, render_mode="rgb_array", render_size=(120, 160))
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (120, 160, 3)
    assert json.loads(json.dumps(env.spec.kwargs))["render_size"] == [120, 160]


def test_it_is_recorded_in_worker_processes(tmp_path: Path) -> None:
    kwargs = {"env_id": MAZE}
    config = CollectConfig(
        out=tmp_path, env=f"test_miniworld:{ID}", env_kwargs=kwargs, policy="random", maps=2, steps=40, workers=2
    )
    dataset = collect(config)
    assert dataset.num_frames == 80 and dataset.action_spec == MiniWorldEnv(MAZE).action_spec
    here = [episode for seed in config.map_seeds for episode in record_map(MiniWorldEnv(MAZE), config, seed)]
    assert all(same(a, b) for a, b in zip(dataset.episodes(), here, strict=True))


WORDS = ("--env", ID, "--env-kwargs", f"env_id={MAZE}", "random_looks=true", "--policy", "random")


@pytest.mark.slow
def test_a_killed_recording_is_completed_by_the_same_command(tmp_path: Path) -> None:
    collected_after_a_kill(tmp_path, 4, 400, *WORDS)


def test_the_command_records_what_is_recorded_here(tmp_path: Path) -> None:
    dataset = collected(tmp_path / "maze", 3, 60, *WORDS)
    make = partial(MiniWorldEnv, MAZE, random_looks=True)
    config = CollectConfig(tmp_path, env=ID, policy="random", steps=60, maps=3)
    here = [episode for seed in config.map_seeds for episode in record_map(make(), config, seed)]
    assert all(same(a, b) for a, b in zip(dataset.episodes(), here, strict=True))
    assert dataset.action_spec == MiniWorldEnv(MAZE).action_spec


@pytest.mark.slow
def test_the_commands_train_on_it_and_imagine_it_and_it_is_compared(tmp_path: Path) -> None:
    dataset = collected(tmp_path / "maze", 3, 60, *WORDS)
    world = train_and_imagine(dataset, tmp_path / "maze", tmp_path)
    make = partial(MiniWorldEnv, MAZE, random_looks=True)
    settings = CompareConfig(maps=2, context=4, horizon=3, pictures=0)
    report = compare(load_world(world), settings, tmp_path / "compare", make_env=make, explorer=RandomPolicy())
    assert len(report.psnr.imagined.mean) == 3 and np.isfinite(report.psnr.imagined.mean).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env_id": "MiniWorld-Nowhere-v0"}, "Nowhere"),
        ({"env_id": "CartPole-v1"}, "CartPole-v1"),
        ({"wings": 2}, "wings"),
        ({"fov": 180}, "fov"),
        ({"frame_size": (4, 4)}, "frame_size"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_what_cannot_be_made_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MiniWorldEnv(**kwargs)


def test_after_close_nothing_is_done() -> None:
    env = MiniWorldEnv(render_mode="rgb_array")
    pose = env.reset(seed=0)[1]["pose"]
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(0), env.render, lambda: env.set_pose(pose), lambda: env.render_at(pose)):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="make another one"):
            call()


def test_an_action_that_does_not_exist_is_refused() -> None:
    env = MiniWorldEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="turn_left, turn_right, move_forward"):
        env.step(3)


def test_without_the_package_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("worldloop.envs.miniworld.find_spec", lambda n: None if n == "miniworld" else real(n))
    with pytest.raises(ConfigError, match="pip install miniworld"):
        MiniWorldEnv()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL is Linux's")
def test_without_egl_the_libraries_are_named() -> None:
    code = """
import ctypes, os
os.environ.pop("DISPLAY", None)
load = ctypes.cdll.LoadLibrary
def without_egl(name):
    if "EGL" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    return load(name)
ctypes.cdll.LoadLibrary = without_egl
from worldloop.envs.miniworld import MiniWorldEnv
from worldloop.errors import EngineError
try:
    MiniWorldEnv()
except EngineError as error:
    assert "apt install libegl1" in str(error) and "EGL" in str(error.__cause__), error
    raise SystemExit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
