"""`ImaginedVecEnv`: to Stable-Baselines3 it is a `DummyVecEnv` of scalar imagined environments, only faster."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")

import torch
from conformance import assert_same
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecTransposeImage
from toy_world import AXES, ToyArena, ToyWorld, standing_at, toy_contexts

from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.envs.sb3 import ImaginedVecEnv
from worldloop.errors import ConfigError, WorldFormatError

NEAR_GOAL = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
"""Small enough for random walks to end in the goal now and then."""
AXES_ARENA = ToyArena(actions=AXES, size=200.0, goal=(140.0, 140.0), goal_radius=40.0)


def worlds(n: int, arena: ToyArena = NEAR_GOAL, limit: int | None = 12, **kwargs) -> ImaginedVecEnv:
    return ImaginedVecEnv(ToyWorld(arena, noise=4.0), n, toy_contexts(arena), limit, **kwargs)


def alone(n: int, arena: ToyArena = NEAR_GOAL, limit: int | None = 12, **kwargs) -> DummyVecEnv:
    def make() -> ImaginedEnv:
        return ImaginedEnv(ToyWorld(arena, noise=4.0), toy_contexts(arena), limit, **kwargs)

    return DummyVecEnv([make] * n)


def sample(envs: ImaginedVecEnv) -> np.ndarray:
    return np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])


@pytest.mark.parametrize("arena", [NEAR_GOAL, AXES_ARENA], ids=["keys", "axes"])
@pytest.mark.parametrize("observation", ["frame", "latent", ("latent", "pose")], ids=["frame", "latent", "dict"])
def test_equals_sb3s_own_vector_of_the_same_worlds_alone(arena, observation):
    batched, reference = (make(5, arena, observation=observation) for make in (worlds, alone))
    assert (batched.num_envs, batched.observation_space, batched.action_space) == (
        reference.num_envs,
        reference.observation_space,
        reference.action_space,
    )
    assert batched.seed(3) == reference.seed(3)
    assert_same(batched.reset(), reference.reset())
    assert_same(batched.reset_infos, reference.reset_infos)
    batched.action_space.seed(0)
    in_goal = at_limit = 0
    for _ in range(80):
        actions = sample(batched)
        step = batched.step(actions)
        assert_same(step, reference.step(actions))
        assert_same(batched.reset_infos, reference.reset_infos)
        for done, info in zip(step[2], step[3], strict=True):
            assert ("terminal_observation" in info) == done
            at_limit += info["TimeLimit.truncated"]
            in_goal += done and not info["TimeLimit.truncated"]
    assert in_goal > 5 and at_limit > 5
    assert_same(batched.reset(), reference.reset())


def test_an_episode_that_became_too_uncertain_is_truncated_and_tells_what_it_retrieved():
    settings = {"limit": None, "max_uncertainty": 8.0, "retrieved": True}
    batched, reference = worlds(4, **settings), alone(4, **settings)
    for envs in (batched, reference):
        envs.seed(0)
        envs.reset()
    truncated = 0
    for _ in range(30):
        step = batched.step(np.zeros(4, int))
        assert_same(step, reference.step(np.zeros(4, int)))
        truncated += sum(info["TimeLimit.truncated"] for info in step[3])
    assert truncated > 3 and "retrieved" in step[3][0]


def test_an_end_at_goal_and_limit_at_once_is_no_truncation():
    envs = worlds(2, limit=1)
    at_goal, elsewhere = [140, 95, 0, np.pi / 2, 0], [20, 20, 0, 0, 0]
    envs.set_options([{"state": standing_at(ToyWorld(NEAR_GOAL), pose)} for pose in (at_goal, elsewhere)])
    envs.reset()
    _, rewards, dones, infos = envs.step(np.array([1, 1]))
    assert dones.all() and rewards.tolist() == [1, 0]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]


def test_terminal_observation_is_what_was_seen_last_and_the_info_is_of_that_moment():
    arena = ToyArena()
    envs = ImaginedVecEnv(ToyWorld(arena), 1, toy_contexts(arena), max_episode_steps=3)
    envs.set_options({"state": standing_at(ToyWorld(arena), [100, 100, 0, 0, 0])})
    envs.reset()
    for _ in range(3):
        observations, _, _, infos = envs.step(np.array([1]))
    assert np.array_equal(infos[0]["pose"], [175, 100, 0, 0, 0])
    expected = arena.picture(arena.latents(torch.tensor([[175.0, 100, 0, 0, 0]], dtype=torch.float64)))
    assert np.array_equal(infos[0]["terminal_observation"], expected[0])
    start = envs.imagination.contexts.frames[envs.reset_infos[0]["context"], -1]
    assert np.array_equal(observations[0], start)


def test_seeds_and_options_are_used_once():
    envs, reference = worlds(3), alone(3)
    for e in (envs, reference):
        e.seed(5)
        e.set_options([{"context": 2}, {}, {"context": 4}])
    assert_same(envs.reset(), reference.reset())
    assert [info["context"] for info in envs.reset_infos][::2] == [2, 4]
    second = envs.reset()
    assert_same(second, reference.reset())
    assert_same(envs.reset_infos, reference.reset_infos)


def test_without_a_seed_every_world_is_another():
    envs = worlds(6)
    envs.reset()
    assert len({state.seeds.item() for state in envs.get_attr("state")}) == 6


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_algorithms_of_sb3_train_on_frames_as_they_are(algorithm):
    settings = {
        PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
        A2C: {"n_steps": 8},
        DQN: {"learning_starts": 32, "buffer_size": 500, "batch_size": 8, "train_freq": 4},
    }
    model = algorithm("CnnPolicy", worlds(4), seed=0, device="cpu", **settings[algorithm])
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    model.learn(256)
    assert isinstance(model.get_env(), VecTransposeImage)
    losses = [v for k, v in model.logger.name_to_value.items() if "loss" in k]
    assert losses and np.isfinite(losses).all()
    after = model.policy.state_dict()
    assert all(bool(weight.isfinite().all()) for weight in after.values())
    assert any(not torch.equal(before[name], weight) for name, weight in after.items())


def test_dict_observations_train_a_multi_input_policy():
    model = A2C("MultiInputPolicy", worlds(4, observation=("frame", "pose")), n_steps=4, device="cpu").learn(64)
    assert np.isfinite([v for k, v in model.logger.name_to_value.items() if "loss" in k]).all()


def test_a_monitor_counts_the_episodes_that_ppo_trains_on():
    arena = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
    envs = VecMonitor(ImaginedVecEnv(ToyWorld(arena), 8, toy_contexts(arena), 12, "latent"))
    model = PPO("MlpPolicy", envs, n_steps=32, seed=0, device="cpu").learn(512)
    assert len(model.ep_info_buffer) > 10
    assert all(episode["l"] <= 12 and episode["r"] in (0.0, 1.0) for episode in model.ep_info_buffer)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=8)
    assert 0.0 <= mean <= 1.0


def test_ppo_trains_on_axes():
    model = PPO("MlpPolicy", worlds(4, AXES_ARENA, observation="latent"), n_steps=16, batch_size=16, device="cpu")
    model.learn(128)
    assert np.isfinite([v for k, v in model.logger.name_to_value.items() if "loss" in k]).all()


@pytest.mark.parametrize("arena", [NEAR_GOAL, AXES_ARENA], ids=["keys", "axes"])
def test_the_scalar_env_passes_sb3s_checker_with_a_time_limit(arena):
    check_env(ImaginedEnv(ToyWorld(arena), toy_contexts(arena), 5, render_mode="rgb_array"))


def test_wrappers_of_sb3_accept_it():
    envs = VecFrameStack(VecMonitor(worlds(3, ToyArena(), limit=4)), n_stack=4)
    assert envs.reset().shape == (3, 36, 48, 12)
    for _ in range(4):
        _, _, dones, infos = envs.step(np.zeros(3, int))
    assert dones.all() and [info["episode"]["l"] for info in infos] == [4, 4, 4]
    assert infos[0]["terminal_observation"].shape == (36, 48, 12)


def test_each_world_can_be_asked_set_and_called_as_if_alone():
    envs = worlds(3, render_mode="rgb_array")
    assert envs.get_attr("render_mode") == ["rgb_array"] * 3
    assert envs.env_is_wrapped(Monitor) == [False] * 3
    envs.set_attr("task", "wander", indices=[0, 2])
    assert envs.get_attr("task", indices=2) == ["wander"]
    assert envs.has_attr("num_envs") is False
    with pytest.raises(AttributeError):
        envs.get_attr("task", indices=1)
    with pytest.raises(gym.error.ResetNeeded):
        envs.env_method("snapshot")
    envs.seed(0)
    first = envs.reset()
    untouched = envs.snapshot()
    pictures = envs.env_method("render")
    assert np.array_equal(pictures, first) and envs.snapshot() == untouched
    saved = envs.env_method("snapshot", indices=1)[0]
    envs.step(np.array([1, 1, 1]))
    others = envs.get_attr("state", indices=[0, 2])
    frame, _info = envs.env_method("restore", saved, indices=[-2])[0]
    assert np.array_equal(frame, first[1])
    assert np.array_equal(envs.get_images()[1], first[1])
    for before, after in zip(others, envs.get_attr("state", indices=[0, 2]), strict=True):
        assert before.snapshot() == after.snapshot()


def test_fork_shares_the_past_and_diverges_alone():
    envs = worlds(3, limit=None)
    envs.seed(0)
    envs.reset()
    envs.step(np.array([1, 3, 5]))
    before = envs.snapshot()
    frames = envs.fork(1, 4).step(np.array([1, 1, 2, 1]))[0]
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[3])
    assert not np.array_equal(frames[0], frames[2])
    assert envs.snapshot() == before
    assert np.array_equal(envs.step(np.array([0, 1, 0]))[0][1], frames[0])


def test_restore_repeats_the_future_and_gymnasiums_vector_env_reads_the_same_bytes():
    envs = worlds(3)
    envs.seed(0)
    first = envs.reset()
    saved = envs.snapshot()
    actions = np.random.default_rng(0).integers(7, size=(20, 3))
    future = [envs.step(a) for a in actions]
    fresh = worlds(3)
    assert np.array_equal(fresh.restore(saved), first)
    assert_same([fresh.step(a) for a in actions], future)
    gymnasiums = ImaginedVectorEnv(ToyWorld(NEAR_GOAL, noise=4.0), 3, toy_contexts(NEAR_GOAL), 12)
    gymnasiums.restore(saved)
    assert np.array_equal(gymnasiums.step(actions[0])[0], future[0][0])


def test_what_is_returned_can_be_edited_without_harm():
    envs = worlds(2, observation="latent")
    latents = envs.reset()
    untouched = envs.snapshot()
    latents[:] = 0
    envs.reset_infos[0]["pose"][:] = 0
    assert envs.snapshot() == untouched


def test_render_tiles_the_worlds_and_changes_nothing():
    envs = worlds(4, render_mode="rgb_array")
    frames = envs.reset()
    before = envs.snapshot()
    picture = envs.render()
    assert picture.shape == (72, 96, 3)
    assert np.array_equal(picture[36:, 48:], frames[3])
    assert envs.snapshot() == before


def test_bad_actions_are_refused_and_change_nothing():
    for arena, bad in (
        (NEAR_GOAL, [np.array([0, 7]), np.zeros(3, int), np.zeros(2)]),
        (AXES_ARENA, [np.full((2, 3), np.nan), np.full((2, 3), 1.5), np.zeros((2, 2))]),
    ):
        envs = worlds(2, arena)
        envs.reset()
        before = envs.snapshot()
        for actions in bad:
            with pytest.raises(ValueError, match="ctions"):
                envs.step(actions)
        assert envs.snapshot() == before


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="num_envs"):
        worlds(0)
    envs = worlds(2)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(2, int))
    envs.set_options([{}])
    with pytest.raises(ValueError, match="2 worlds"):
        envs.reset()
    envs.set_options({"smell": 1})
    with pytest.raises(ValueError, match="smell"):
        envs.reset()
    envs.set_options()
    envs.reset()
    with pytest.raises(gym.error.NoAsyncCallError):
        envs.step_wait()
    with pytest.raises(IndexError):
        envs.fork(2, 1)
    with pytest.raises(IndexError):
        envs.get_attr("state", indices=2)
    with pytest.raises(ValueError, match="n >= 1"):
        envs.fork(0, 0)
    with pytest.raises(WorldFormatError):
        envs.restore(b"x" * 100)


def test_a_closed_env_says_so():
    envs = worlds(2, render_mode="rgb_array")
    envs.reset()
    saved = envs.snapshot()
    envs.close()
    envs.close()
    for call in (envs.reset, lambda: envs.step(np.zeros(2, int)), envs.render, envs.snapshot):
        with pytest.raises(gym.error.ClosedEnvironmentError):
            call()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.restore(saved)


def test_the_bundled_world_steps_under_it():
    envs = ImaginedVecEnv("doom-rooms-tiny", 2, max_episode_steps=2, overrides={"denoising_steps": 1})
    envs.seed(0)
    first = envs.reset()
    assert first.shape == (2, 48, 64, 3) and first.dtype == np.uint8
    assert not np.array_equal(envs.step(np.array([1, 5]))[0], first)
    _, rewards, dones, infos = envs.step(np.array([1, 5]))
    assert rewards.dtype == np.float32 and dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)


def test_without_sb3_the_import_says_what_to_install():
    code = "import sys; sys.modules['stable_baselines3'] = None; import worldloop.envs.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in result.stderr and "pip install stable-baselines3" in result.stderr
