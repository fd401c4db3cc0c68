"""The toy world is the ruler that other tests measure with: it must be exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from toy_world import AXES, KEYS, STEP, TURN, ToyArena, ToyEnv, ToyWorld, standing_at

from worldloop.world_models.world import World


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_imagined_and_real_walk_agree_frame_by_frame(spec):
    arena = ToyArena(actions=spec)
    env, world = ToyEnv(arena), ToyWorld(arena)
    env.action_space.seed(0)
    frame, info = env.reset(seed=3, options={"pose": [100, 100, 0, 0.3, 0]})
    state = standing_at(world, info["pose"])
    for _ in range(60):
        action = env.action_space.sample()
        frame, reward, terminated, _, info = env.step(action)
        state, step = world.imagine(state, np.asarray(action)[None])
        assert np.array_equal(step.pose[0].numpy(), info["pose"])
        assert np.array_equal(world.render(step.latents)[0].numpy(), frame)
        assert float(step.reward) == reward
        assert bool(step.continues < 0.5) == terminated


def test_encode_is_the_exact_inverse_of_render_and_shows_the_pose():
    world = ToyWorld()
    generator = torch.Generator().manual_seed(0)
    pose = torch.rand(200, 5, generator=generator, dtype=torch.float64) * torch.tensor([400.0, 400, 0, 6, 0])
    latents = world.arena.latents(pose)
    assert torch.equal(world.encode(world.render(latents)), latents)
    read = world.arena.pose_of(latents)
    assert torch.allclose(read[:, :2], pose[:, :2], atol=0.01)
    assert torch.allclose(read[:, 3].cos(), pose[:, 3].cos(), atol=1e-4)
    assert torch.allclose(read[:, 3].sin(), pose[:, 3].sin(), atol=1e-4)


def test_keys_move_as_a_walker_would_compute():
    env = ToyEnv()
    env.reset(options={"pose": [100, 100, 0, 0, 0]})
    for key, expected in [(1, (125, 100, 0)), (3, (125, 125, 0)), (5, (125, 125, TURN)), (2, None)]:
        pose = env.step(key)[4]["pose"]
        if expected is None:
            expected = (125 - STEP * math.cos(TURN), 125 - STEP * math.sin(TURN), TURN)
        assert np.allclose(pose[[0, 1, 3]], expected)


def test_walls_stop_and_the_goal_pays_once():
    env = ToyEnv()
    env.reset(options={"pose": [390, 10, 0, 0, 0]})
    assert env.step(1)[4]["pose"][0] == 400
    env.reset(options={"pose": [300, 260, 0, math.pi / 2, 0]})
    rewards = [env.step(1)[1] for _ in range(2)]
    assert rewards == [1.0, 0.0]


def test_noise_depends_on_seed_and_step_alone():
    world = ToyWorld(noise=5.0)
    state = standing_at(world, *[[200, 100, 0, 0, 0]] * 3, seeds=[7, 8, 7])
    state, step = world.imagine(state, [1, 1, 1])
    assert torch.equal(step.pose[0], step.pose[2])
    assert not torch.equal(step.pose[0], step.pose[1])
    alone, _ = world.imagine(standing_at(world, [200, 100, 0, 0, 0], seeds=[8]), [1])
    assert torch.equal(alone.pose[0], state.pose[1])


def test_toy_env_passes_gymnasiums_checker():
    check_env(ToyEnv(max_episode_steps=20, render_mode="rgb_array"), skip_render_check=True)


def test_toy_world_is_a_world():
    world: World = ToyWorld()
    assert world.start(2).latents.shape == (2, 4, 4, 2, 2)
