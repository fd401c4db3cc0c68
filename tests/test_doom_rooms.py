"""DoomRooms on the real engine: the promises of an environment, and exact revisits."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import worldloop  # noqa: F401
from worldloop.envs.doom_rooms.env import DoomRoomsEnv


@pytest.fixture(scope="module")
def env() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(task="explore")
    yield env
    env.close()


OPEN = pytest.mark.xfail(reason="the first step after a fresh engine differs from its repetition", strict=False)


@pytest.mark.parametrize("actions", ["discrete", pytest.param("continuous", marks=OPEN)])
def test_gymnasium_and_sb3_accept_it(actions: str) -> None:
    env = gym.make("worldloop/DoomRooms-v0", task="find", level="near", actions=actions)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_sb3(env.unwrapped)
    env.close()


def test_sixteen_turns_close_exactly(env: DoomRoomsEnv) -> None:
    first, before = env.reset(seed=3)
    for _ in range(16):
        frame, _, _, _, after = env.step(5)
    assert np.array_equal(first, frame)
    np.testing.assert_allclose(before["pose"], after["pose"], atol=1e-6)


def test_a_pose_looks_the_same_whenever_it_is_seen(env: DoomRoomsEnv) -> None:
    env.reset(seed=4)
    seen = []
    for action in (1, 5, 1, 1, 6, 3, 2, 5):
        frame, _, _, _, info = env.step(action)
        seen.append((info["pose"], frame))
    for pose, frame in seen:
        assert np.array_equal(env.render_at(pose), frame)
    again, _, _, _, _ = env.step(0)
    assert np.array_equal(again, seen[-1][1]), "render_at disturbed the episode"


def test_the_same_seed_gives_the_same_frames(env: DoomRoomsEnv) -> None:
    runs = []
    for _ in range(2):
        frames = [env.reset(seed=9)[0], *(env.step(action)[0] for action in (1, 1, 5, 1, 4))]
        runs.append(np.stack(frames))
    assert np.array_equal(*runs)
