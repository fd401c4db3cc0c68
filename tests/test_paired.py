"""A real world and its imagined twin; what a running real episode keeps for imagination."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toy_world import ToyArena, ToyEnv, ToyWorld, toy_contexts

import worldloop
from worldloop.envs.experience import Experience, KeepExperience
from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.paired import PairedEnv
from worldloop.errors import ConfigError


def pair(noise: float = 0.0, warm_up: int = 5, limit: int | None = None) -> PairedEnv:
    arena = ToyArena()
    return PairedEnv(ToyEnv(arena, limit), ImaginedEnv(ToyWorld(arena, noise=noise), toy_contexts(arena)), warm_up)


def test_experience_is_what_the_episode_showed() -> None:
    env = KeepExperience(ToyEnv())
    with pytest.raises(gym.error.ResetNeeded):
        _ = env.experience
    env.reset(seed=9)
    env.step(3)
    frame, info = env.reset(seed=0)
    frames, poses, keys = [frame], [info["pose"]], [1, 5, 1, 0]
    for key in keys:
        frame, _, _, _, info = env.step(key)
        frames.append(frame)
        poses.append(info["pose"])
    seen = env.experience
    assert np.array_equal(seen.frames, frames) and np.array_equal(seen.poses, poses)
    assert seen.actions.tolist() == [0, *keys] and seen.actions.dtype == np.int64
    short = KeepExperience(ToyEnv(), frames=2)
    short.reset(seed=0)
    for key in keys:
        short.step(key)
    assert np.array_equal(short.experience.frames, frames[-2:])
    assert short.experience.actions.tolist() == keys[-2:]


def test_experience_must_be_of_one_length() -> None:
    for frames, actions, poses in ((0, 0, 0), (2, 1, 2), (2, 2, 1)):
        with pytest.raises(ValueError, match="at least one frame"):
            Experience(np.zeros((frames, 4, 4, 3), np.uint8), np.zeros(actions), np.zeros((poses, 5)))


def test_imagination_goes_on_where_a_running_real_environment_stands() -> None:
    real, arena = KeepExperience(ToyEnv()), ToyArena()
    real.reset(seed=1)
    for key in (1, 5, 1):
        real.step(key)
    imagined = ImaginedEnv(ToyWorld(arena), toy_contexts(arena))
    frame, info = imagined.start_from(gym.wrappers.TimeLimit(real, 99), seed=0)
    for key in (1, 1, 6, 3, 1):
        assert np.array_equal(frame, real.experience.frames[-1])
        assert np.array_equal(info["pose"], real.experience.poses[-1])
        frame, _, _, _, info = imagined.step(key)
        real.step(key)
    for stranger in (ToyEnv(), "doom"):
        with pytest.raises(ConfigError, match="KeepExperience"):
            imagined.start_from(stranger)


def test_a_perfect_twin_never_departs_and_an_imperfect_one_by_what_is_said() -> None:
    perfect, imperfect = pair(), pair(noise=4.0)
    for env in (perfect, imperfect):
        env.reset(seed=3)
    for key in (1, 1, 5, 2, 1, 1):
        frames, reward, terminated, _, info = perfect.step(key)
        assert np.array_equal(frames["real"], frames["imagined"])
        assert info["position_error"] == 0 and info["heading_error"] < 1e-6
        assert (info["imagined"]["reward"], info["imagined"]["terminated"]) == (reward, terminated)
        frames, *_, info = imperfect.step(key)
        off = np.linalg.norm(info["pose"][:2] - info["imagined"]["pose"][:2])
        assert info["position_error"] == pytest.approx(off) and off > 0
        assert not np.array_equal(frames["real"], frames["imagined"])


def test_the_twin_goes_on_when_it_believes_the_episode_to_be_over() -> None:
    env = pair(warm_up=0)
    env.reset(options={"pose": [300, 255, 0, np.pi / 2, 0]})
    steps = [env.step(1) for _ in range(4)]
    assert [info["imagined"]["terminated"] for *_, info in steps] == [True, True, True, False]
    assert all(np.array_equal(frames["real"], frames["imagined"]) for frames, *_ in steps)


def test_seeds_decide_both_and_a_warm_up_that_ends_begins_again() -> None:
    def seen(env: PairedEnv) -> list[bytes]:
        frames, _ = env.reset(seed=8)
        return [frames["imagined"].tobytes(), *(env.step(1)[0]["imagined"].tobytes() for _ in range(4))]

    assert seen(pair(4.0)) == seen(pair(4.0))
    env = pair(warm_up=5, limit=3)
    frames, _ = env.reset(seed=0)
    assert np.array_equal(frames["real"], frames["imagined"])
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_passes_gymnasiums_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(pair(2.0, limit=20), skip_render_check=True)


def test_refuses_what_does_not_fit() -> None:
    small = ToyArena(frame_size=(36, 52))
    with pytest.raises(ConfigError, match="frames"):
        PairedEnv(ToyEnv(small), ImaginedEnv(ToyWorld(), toy_contexts(ToyArena())))
    with pytest.raises(ConfigError, match="warm_up"):
        pair(warm_up=-1)
    with pytest.raises(gym.error.ResetNeeded):
        pair().step(0)


def test_the_bundled_world_beside_the_real_rooms() -> None:
    env = PairedEnv(
        gym.make("worldloop/DoomRooms-v0", task="explore", split="validation"),
        ImaginedEnv(worldloop.load_world("doom-rooms-tiny"), retrieved=True),
        warm_up=12,
    )
    try:
        env.reset(seed=0)
        errors = [env.step(action)[4]["position_error"] for action in (5, 5, 1, 1)]
        assert max(errors) < 25.0
    finally:
        env.close()
