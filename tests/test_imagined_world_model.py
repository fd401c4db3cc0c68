"""The imagined environments on a real (small, untrained) world model, opened by its directory."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from toy_world import KEYS, ToyArena, toy_contexts

import worldloop
from worldloop.errors import ConfigError, WorldFormatError
from worldloop.planning import CEM, MPC, GoalFrame
from worldloop.world_models.config import WorldConfig
from worldloop.world_models.perception.autoencoder import AutoencoderConfig
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

ID = "worldloop/Imagined-v0"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    """A saved world of 40x48 pixels with recorded starts beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        (40, 48), KEYS, autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 8)), cdit=CDiTConfig(1, 32, 2)
    )
    save_world(WorldModel(config), path, {})
    toy_contexts(ToyArena(frame_size=(40, 48))).save(path / "contexts.safetensors")
    return str(path)


def test_gym_make_opens_it_by_name_and_the_checker_passes(directory):
    env = gym.make(ID, world=directory, max_episode_steps=5, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    frame, info = env.reset(seed=0)
    assert frame.shape == env.render().shape == (40, 48, 3)
    assert info["uncertainty"] == 0.0 and info["pose"].dtype == np.float64


def test_the_spec_is_json_and_rebuilds_the_same_env(directory):
    env = gym.make(ID, world=directory, observation="latent", overrides={"denoising_steps": 1})
    rebuilt = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    json.dumps(env.spec.kwargs)
    for e in (env, rebuilt):
        e.reset(seed=3)
    assert np.array_equal(env.step(1)[0], rebuilt.step(1)[0])
    assert env.unwrapped.imagination.world.config.denoising_steps == 1


def test_one_of_many_equals_it_alone_up_to_rounding(directory):
    envs = gym.make_vec(
        ID, num_envs=5, vectorization_mode="vector_entry_point", world=directory, observation="latent"
    )
    alone = gym.make(ID, world=directory, observation="latent")
    many, _ = envs.reset(seed=4)
    one, _ = alone.reset(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(4):
        # A matrix product may sum in another order when the batch is larger; nothing else differs.
        assert np.allclose(many[3], one, atol=1e-4)
        actions = rng.integers(KEYS.n, size=5)
        many, one = envs.step(actions)[0], alone.step(actions[3])[0]


@pytest.mark.slow
def test_scalar_envs_run_in_processes_of_their_own(directory):
    def make() -> gym.Env:
        torch.set_num_threads(1)
        # A module-qualified id makes the new process import worldloop, which registers it.
        return gym.make(f"worldloop:{ID}", world=directory, max_episode_steps=3)

    envs = AsyncVectorEnv([make] * 2, context="spawn")
    try:
        frames, _ = envs.reset(seed=0)
        reference = make()
        assert np.array_equal(frames[1], reference.reset(seed=1)[0])
        assert np.array_equal(envs.step([1, 5])[0][1], reference.step(5)[0])
    finally:
        envs.close()


def test_mpc_plans_inside_it(directory):
    world = worldloop.load_world(directory)
    env = gym.make(ID, world=directory)
    frame, info = env.reset(seed=0)
    mpc = MPC(world, CEM(horizon=3, candidates=12, iterations=2), GoalFrame.of(world, frame))
    for _ in range(2):
        frame, _, _, _, info = env.step(mpc.act(frame, info["pose"]))
    assert mpc.plan.latents.shape == (1, 3, *world.config.latent_shape)
    assert bool(mpc.plan.cost.isfinite().all()) and not mpc.plan.latents.requires_grad


def test_what_cannot_be_opened_is_one_clear_error(directory, tmp_path):
    with pytest.raises(WorldFormatError, match="nowhere"):
        gym.make(ID, world="nowhere")
    with pytest.raises(ConfigError, match="override"):
        gym.make(ID, world=directory, overrides={"colour": 1})
    with pytest.raises(ConfigError, match="loaded already"):
        gym.make(ID, world=worldloop.load_world(directory), overrides={"denoising_steps": 1})
