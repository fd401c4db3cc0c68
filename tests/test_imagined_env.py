"""`ImaginedEnv` keeps the promises of a Gymnasium environment, and those of an imagined one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from toy_world import AXES, KEYS, ToyArena, ToyEnv, ToyWorld, standing_at, toy_contexts

from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.errors import ConfigError, DataError, WorldFormatError


def make_env(world: ToyWorld | None = None, **kwargs) -> ImaginedEnv:
    world = world or ToyWorld(noise=3.0)
    return ImaginedEnv(world, toy_contexts(world.arena), **kwargs)


def play(env: ImaginedEnv, actions) -> list[tuple]:
    return [env.step(a) for a in actions]


def same_steps(a: list[tuple], b: list[tuple]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x[0], y[0]) and x[1:4] == y[1:4] and np.array_equal(x[4]["pose"], y[4]["pose"])
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_passes_the_checkers_of_gymnasium_and_sb3(spec, observation):
    env = make_env(ToyWorld(ToyArena(actions=spec), noise=2.0), observation=observation, max_episode_steps=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|unconventional|dtype=|channel|pixels|image).*")
        check_env(env, skip_render_check=True)
        if observation == "frame":
            sb3_check_env(env)


def test_gym_make_builds_it_and_its_time_limit_truncates():
    world = ToyWorld()
    env = gym.make(
        "worldloop/Imagined-v0", world=world, contexts=toy_contexts(world.arena), max_episode_steps=4
    )
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]


def test_without_noise_it_lives_exactly_as_the_real_world_does():
    world = ToyWorld()
    contexts = toy_contexts(world.arena)
    env, real = ImaginedEnv(world, contexts), ToyEnv(world.arena)
    frame, info = env.reset(options={"context": 2})
    true_frame, true_info = real.reset(options={"pose": contexts.poses[2, -1]})
    assert np.array_equal(frame, true_frame) and np.array_equal(info["pose"], true_info["pose"])
    assert info["context"] == 2 and info["uncertainty"] == 0.0
    rng = np.random.default_rng(1)
    for _ in range(40):
        key = rng.integers(KEYS.n)
        frame, reward, terminated, _, info = env.step(key)
        true_frame, true_reward, true_terminated, _, true_info = real.step(key)
        assert np.array_equal(frame, true_frame) and np.array_equal(info["pose"], true_info["pose"])
        assert (reward, terminated) == (true_reward, true_terminated)


def test_terminates_on_entering_the_goal_and_then_wants_a_reset():
    world = ToyWorld()
    env = make_env(world)
    env.reset(options={"state": standing_at(world, [300, 255, 0, np.pi / 2, 0])})
    _, reward, terminated, truncated, _ = env.step(1)
    assert (reward, terminated, truncated) == (1.0, True, False)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(1)


def test_own_time_limit_truncates_and_a_goal_at_the_limit_is_both():
    world = ToyWorld()
    env = make_env(world, max_episode_steps=1)
    env.reset(options={"state": standing_at(world, [300, 255, 0, np.pi / 2, 0])})
    assert env.step(1)[2:4] == (True, True)
    env.reset(options={"state": standing_at(world, [100, 100, 0, 0, 0])})
    assert env.step(1)[2:4] == (False, True)


def test_seed_decides_this_and_the_following_episodes():
    def three_episodes(env: ImaginedEnv, seed: int) -> list:
        seen = []
        for s in (seed, None, None):
            frame, info = env.reset(seed=s)
            seen.append((info["context"], frame.tobytes(), play(env, [1, 1, 5])[-1][0].tobytes()))
        return seen

    env = make_env()
    first = three_episodes(env, 5)
    assert three_episodes(env, 5) == first == three_episodes(make_env(), 5)
    assert three_episodes(env, 6) != first
    assert len({noise for _, _, noise in first}) == 3


def test_every_context_is_drawn_about_equally_often():
    env = make_env(ToyWorld())
    env.reset(seed=0)
    drawn = [env.reset()[1]["context"] for _ in range(300)]
    counts = np.bincount(drawn, minlength=6)
    assert counts.min() > 25 and counts.max() < 80


def test_restore_repeats_the_future_here_and_in_another_env():
    env, other = make_env(), make_env()
    env.reset(seed=1)
    play(env, [1, 3])
    saved = env.snapshot()
    future = play(env, [1, 5, 1, 1])
    following = env.reset()
    for e in (env, other):
        frame, _info = e.restore(saved)
        assert np.array_equal(frame, e.imagination.render(e._running)[0])
        assert same_steps(play(e, [1, 5, 1, 1]), future)
        assert np.array_equal(e.reset()[0], following[0])


def test_a_state_of_the_world_continues_with_its_own_noise():
    world = ToyWorld(noise=3.0)
    env = make_env(world)
    state = standing_at(world, [100, 100, 0, 0, 0], seeds=[9])
    expected = world.imagine(state, [1])[1].pose[0].numpy()
    for form in (state, state.snapshot()):
        _, info = env.reset(options={"state": form})
        assert info["context"] == -1
        assert np.array_equal(env.step(1)[4]["pose"], expected)


def test_what_is_returned_can_be_edited_without_harm():
    env = make_env(observation="latent")
    latents, info = env.reset(seed=0)
    untouched = env.snapshot()
    latents[:] = 0
    info["pose"][:] = 0
    assert env.snapshot() == untouched


def test_render_returns_the_frame_and_changes_nothing():
    env = make_env(render_mode="rgb_array", observation="latent")
    env.reset(seed=0)
    before = env.snapshot()
    picture = env.render()
    assert picture.shape == (36, 48, 3) and picture.dtype == np.uint8
    assert env.snapshot() == before
    silent = make_env()
    silent.reset(seed=0)
    assert silent.render() is None


@pytest.mark.parametrize("action", [7, -1, 1.5, [1, 2], np.float32(1)])
def test_keys_outside_the_space_are_refused(action):
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="ctions"):
        env.step(action)


@pytest.mark.parametrize("action", [[2, 0, 0], [np.nan, 0, 0], [0, 0]])
def test_axes_outside_the_space_are_refused(action):
    env = make_env(ToyWorld(ToyArena(actions=AXES)))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="ctions"):
        env.step(action)


@pytest.mark.parametrize(
    "options",
    [
        {"context": 6},
        {"context": -1},
        {"context": 1.5},
        {"context": [1, 2]},
        {"pose": 3},
        {"context": 1, "state": standing_at(ToyWorld(), [0, 0, 0, 0, 0])},
        {"state": standing_at(ToyWorld(), [0, 0, 0, 0, 0], [0, 0, 0, 0, 0])},
        {"state": standing_at(ToyWorld(context=3), [0, 0, 0, 0, 0])},
        {"state": ToyWorld().start(1)},
    ],
)
def test_reset_options_that_fit_nothing_are_refused(options):
    with pytest.raises(ValueError):
        make_env().reset(options=options)


def test_step_before_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        make_env().step(0)


@pytest.mark.parametrize(
    "kwargs", [{"observation": "smell"}, {"max_episode_steps": 0}, {"render_mode": "human"}]
)
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(ConfigError):
        make_env(**kwargs)


def test_contexts_must_fit_the_world():
    with pytest.raises(ConfigError, match="pixels"):
        ImaginedEnv(ToyWorld(), toy_contexts(ToyArena(frame_size=(40, 48))))
    with pytest.raises(ConfigError, match="actions"):
        ImaginedEnv(ToyWorld(), toy_contexts(ToyArena(actions=AXES)))
    with pytest.raises(ConfigError, match="contexts="):
        ImaginedEnv(ToyWorld())
    with pytest.raises(DataError):
        ImaginedEnv(ToyWorld(), "nowhere.safetensors")


def test_damaged_snapshots_are_refused():
    env = make_env()
    env.reset(seed=0)
    saved = env.snapshot()
    for damaged in (b"", b"x" * 100, saved[:-1], env.state.snapshot()):
        with pytest.raises(WorldFormatError):
            env.restore(damaged)
    with pytest.raises(ValueError, match="latents"):
        make_env(ToyWorld(context=3)).restore(saved)


def test_the_world_is_asked_once_a_step_and_not_to_reset():
    world = ToyWorld()
    env = make_env(world)
    env.reset(seed=0)
    env.reset()
    assert world.imagined_batches == []
    play(env, [0, 0, 0])
    assert world.imagined_batches == [1, 1, 1]
    assert torch.equal(env.state.step, torch.tensor([8]))


class Mortal(ToyWorld):
    """Every step ends three of ten episodes, and pays that share of a reward."""

    def imagine(self, state, actions, pose=None):
        after, step = super().imagine(state, actions, pose)
        even = torch.full_like(step.continues, 0.3)
        return after, replace(step, continues=1 - even, reward=even)


def test_an_episode_ends_as_often_as_the_world_says_and_pays_no_more_than_once():
    world = Mortal()
    envs = ImaginedVectorEnv(world, num_envs=2000, contexts=toy_contexts(world.arena))
    envs.reset(seed=3)
    _, _, terminated, _, _ = envs.step(np.zeros(2000, np.int64))
    assert terminated.mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 2000) ** 0.5)
    env = make_env(Mortal())
    earned, lengths = [], []
    for seed in range(300):
        env.reset(seed=seed)
        rewards, over = [], False
        while not over:
            _, reward, over, _, _ = env.step(0)
            rewards.append(reward)
        earned.append(sum(rewards))
        lengths.append(len(rewards))
    # Geometric: 1 / 0.3 steps on average, so that a reward is earned once on average, and not again and again.
    spread = (0.7 / 0.3**2 / 300) ** 0.5
    assert np.mean(lengths) == pytest.approx(1 / 0.3, abs=4 * spread)
    assert np.mean(earned) == pytest.approx(1, abs=4 * 0.3 * spread)
