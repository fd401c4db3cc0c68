"""The imagined environments among their neighbours: Gymnasium's wrappers and vectors, TorchRL, other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conformance import assert_same
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics, RecordVideo, TimeLimit
from toy_world import KEYS, ToyArena, ToyWorld, toy_contexts

from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.world_models.config import WorldConfig
from worldloop.world_models.perception.autoencoder import AutoencoderConfig
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

ID = "worldloop/Imagined-v0"
ARENA = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
"""Small enough for random walks to end in the goal now and then."""


def toy(**kwargs: Any) -> dict[str, Any]:
    return {"world": ToyWorld(ARENA, noise=4.0), "contexts": toy_contexts(ARENA), **kwargs}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small untrained world of 40x48 pixels with recorded starts beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        (40, 48), KEYS, autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 8)), cdit=CDiTConfig(1, 32, 2)
    )
    save_world(WorldModel(config), path, {})
    toy_contexts(ToyArena(frame_size=(40, 48))).save(path / "contexts.safetensors")
    return str(path)


def test_the_spec_travels_as_json_and_lives_the_same_life_in_another_process(directory: str, tmp_path: Path) -> None:
    settings = {"observation": ["frame", "pose"], "overrides": {"denoising_steps": 1}, "max_episode_steps": 3}
    env = gym.make(ID, world=directory, **settings)
    assert json.loads(env.spec.to_json())["kwargs"]["world"] == directory
    code = (
        "import sys, gymnasium as gym, numpy as np, torch, worldloop\n"
        "torch.set_num_threads(1)\n"
        "env = gym.make(gym.envs.registration.EnvSpec.from_json(sys.stdin.read()))\n"
        "first, _ = env.reset(seed=3)\n"
        "steps = [env.step(action) for action in (1, 5, 1)]\n"
        "frames = [first['frame'], *(step[0]['frame'] for step in steps)]\n"
        "np.savez(sys.argv[1], frames=frames, rewards=[step[1] for step in steps], truncated=steps[-1][3])\n"
    )
    out = tmp_path / "there.npz"
    subprocess.run([sys.executable, "-c", code, str(out)], input=env.spec.to_json(), text=True, check=True)
    there = np.load(out)
    torch.set_num_threads(1)
    frames, rewards = [env.reset(seed=3)[0]["frame"]], []
    for action in (1, 5, 1):
        observation, reward, _, truncated, _ = env.step(action)
        frames.append(observation["frame"])
        rewards.append(reward)
    assert truncated and there["truncated"]
    assert np.array_equal(there["frames"], frames) and np.array_equal(there["rewards"], rewards)


def test_make_vec_offers_one_batch_or_one_env_each_and_both_live_the_same_lives() -> None:
    batched, each = (
        gym.make_vec(ID, num_envs=3, vectorization_mode=how, **toy(max_episode_steps=4))
        for how in ("vector_entry_point", "sync")
    )
    assert isinstance(batched.unwrapped, ImaginedVectorEnv)
    assert batched.observation_space == each.observation_space and batched.action_space == each.action_space
    assert_same(batched.reset(seed=0), each.reset(seed=0))
    batched.action_space.seed(0)
    for _ in range(12):
        actions = batched.action_space.sample()
        assert_same(batched.step(actions), each.step(actions))


def test_scalar_envs_in_processes_of_their_own_equal_the_batch() -> None:
    batched = ImaginedVectorEnv(num_envs=2, **toy(max_episode_steps=4))
    # Not a function of this module, which a spawned process may not find.
    apart = AsyncVectorEnv([partial(ImaginedEnv, **toy(max_episode_steps=4))] * 2, context="spawn")
    try:
        assert_same(apart.reset(seed=0), batched.reset(seed=0))
        for actions in np.random.default_rng(0).integers(7, size=(10, 2)):
            assert_same(apart.step(actions), batched.step(actions))
    finally:
        apart.close()


def test_record_video_films_every_frame_of_an_episode(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy: pip install 'gymnasium[other]'")
    env = ImaginedEnv(**toy(max_episode_steps=6, render_mode="rgb_array"))
    film = RecordVideo(env, str(tmp_path), disable_logger=True)
    film.reset(seed=0)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = film.step(5)
        steps, over = steps + 1, terminated or truncated
    film.close()
    (file,) = tmp_path.glob("*.mp4")
    assert iio.imread(file, plugin="pyav").shape == (steps + 1, *ARENA.frame_size, 3)


def test_record_episode_statistics_adds_up_what_was_paid() -> None:
    env = RecordEpisodeStatistics(ImaginedEnv(**toy(max_episode_steps=9)))
    rng = np.random.default_rng(0)
    returns = []
    for episode in range(12):
        env.reset(seed=episode)
        paid, over = [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.integers(7))
            paid.append(reward)
            over = terminated or truncated
        assert info["episode"]["l"] == len(paid) and info["episode"]["r"] == sum(paid)
        returns.append(sum(paid))
    assert set(returns) == {0.0, 1.0}


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_statistics_add_up_what_was_paid(mode: AutoresetMode) -> None:
    envs = gym.wrappers.vector.RecordEpisodeStatistics(
        ImaginedVectorEnv(num_envs=3, autoreset_mode=mode, **toy(max_episode_steps=9))
    )
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    paid, length, finished, begins = np.zeros(3), np.zeros(3, int), 0, np.zeros(3, bool)
    for _ in range(40):
        _, rewards, terminated, truncated, infos = envs.step(rng.integers(7, size=3))
        paid, length = np.where(begins, 0, paid + rewards), np.where(begins, 0, length + 1)
        over = terminated | truncated
        for i in np.flatnonzero(over):
            assert (infos["episode"]["r"][i], infos["episode"]["l"][i]) == (paid[i], length[i])
        finished += int(over.sum())
        if mode is AutoresetMode.SAME_STEP:
            paid, length = np.where(over, 0, paid), np.where(over, 0, length)
        else:
            begins = over
    assert finished > 10


def test_time_limit_truncates_where_the_env_itself_would() -> None:
    outside, inside = TimeLimit(ImaginedEnv(**toy()), 4), ImaginedEnv(**toy(max_episode_steps=4))
    for seed in range(5):
        assert_same(outside.reset(seed=seed), inside.reset(seed=seed))
        over = False
        while not over:
            step = inside.step(1)
            assert_same(outside.step(1), step)
            over = step[2] or step[3]


def test_frame_stacking_keeps_the_latest_frames_in_order() -> None:
    stacked, plain = FrameStackObservation(ImaginedEnv(**toy()), 3), ImaginedEnv(**toy())
    first, _ = plain.reset(seed=0)
    assert np.array_equal(stacked.reset(seed=0)[0], [first] * 3)
    seen = [first] * 3
    for action in (1, 5, 1, 3):
        seen.append(plain.step(action)[0])
        observation = stacked.step(action)[0]
        assert np.array_equal(observation, seen[-3:]) and observation in stacked.observation_space


@pytest.mark.parametrize(("observation", "key"), [("frame", "pixels"), ("latent", "observation")])
def test_torchrl_collects_the_same_steps(observation: str, key: str) -> None:
    pytest.importorskip("torchrl", reason="needs TorchRL: pip install torchrl")
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    settings = {"max_episode_steps": 6, "observation": observation}
    wrapped, plain = GymWrapper(ImaginedEnv(**toy(**settings))), ImaginedEnv(**toy(**settings))
    check_env_specs(wrapped)
    torch.manual_seed(0)
    for _ in range(4):
        # set_seed is a reset already, and rollout resets again.
        wrapped.set_seed(7)
        plain.reset(seed=7)
        rollout = wrapped.rollout(20)
        observed, _ = plain.reset()
        for step in rollout:
            assert np.array_equal(step[key], observed)
            observed, *rest = plain.step(int(step["action"].argmax()))
            after = step["next"]
            assert np.array_equal(after[key], observed)
            assert [after[name].item() for name in ("reward", "terminated", "truncated")] == rest[:3]
        assert rest[1] or rest[2]


def test_torchrl_opens_it_by_name(directory: str) -> None:
    pytest.importorskip("torchrl", reason="needs TorchRL: pip install torchrl")
    from torchrl.envs import GymEnv

    env = GymEnv(ID, world=directory, overrides={"denoising_steps": 1}, max_episode_steps=3)
    rollout = env.rollout(5)
    assert rollout["pixels"].shape == (3, 40, 48, 3) and rollout["pixels"].dtype == torch.uint8
    assert rollout["next", "truncated"].flatten().tolist() == [False, False, True]
