"""`ImaginedVectorEnv`: many imagined worlds in one batch, each as if it were alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from conformance import assert_same
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_world import AXES, ToyArena, ToyWorld, standing_at, toy_contexts

from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.errors import ConfigError

NEAR_GOAL = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
"""Small enough for random walks to end in the goal now and then."""


def worlds(n: int, arena: ToyArena = NEAR_GOAL, limit: int | None = 12, **kwargs) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(ToyWorld(arena, noise=4.0), n, toy_contexts(arena), limit, **kwargs)


def alone(n: int, arena: ToyArena = NEAR_GOAL, limit: int | None = 12, **kwargs) -> SyncVectorEnv:
    def make() -> ImaginedEnv:
        observation = kwargs.get("observation", "frame")
        return ImaginedEnv(ToyWorld(arena, noise=4.0), toy_contexts(arena), limit, observation)

    return SyncVectorEnv([make] * n, autoreset_mode=kwargs.get("autoreset_mode", AutoresetMode.NEXT_STEP))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("arena", [NEAR_GOAL, ToyArena(actions=AXES, size=200.0, goal=(140.0, 140.0))])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_behaves_as_gymnasiums_own_vector_of_the_same_worlds_alone(mode, arena, observation):
    batched = worlds(5, arena, autoreset_mode=mode, observation=observation)
    reference = alone(5, arena, autoreset_mode=mode, observation=observation)
    assert batched.action_space == reference.action_space
    assert batched.observation_space == reference.observation_space
    assert_same(batched.reset(seed=3), reference.reset(seed=3))
    batched.action_space.seed(0)
    ends = 0
    for _ in range(60):
        actions = batched.action_space.sample()
        step = batched.step(actions)
        assert_same(step, reference.step(actions))
        assert step[0] in batched.observation_space
        ends += int(step[2].sum() + step[3].sum())
    assert ends > 15
    assert_same(batched.reset(), reference.reset())
    seeds = [None, 7, None, 8, 3]
    assert_same(batched.reset(seed=seeds), reference.reset(seed=seeds))


def test_disabled_autoreset_resets_only_under_the_mask():
    batched, reference = (make(4, autoreset_mode=AutoresetMode.DISABLED) for make in (worlds, alone))
    assert_same(batched.reset(seed=0), reference.reset(seed=0))
    batched.action_space.seed(0)
    resets = 0
    for _ in range(40):
        actions = batched.action_space.sample()
        step = batched.step(actions)
        assert_same(step, reference.step(actions))
        over = step[2] | step[3]
        if over.any():
            with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
                batched.step(actions)
            ours = batched.reset(options={"reset_mask": over})
            theirs = reference.reset(options={"reset_mask": over})
            assert_same(ours, theirs)
            resets += 1
    assert resets > 3


def test_next_step_mode_ignores_the_action_pays_nothing_and_imagines_nothing_at_a_reset():
    world = ToyWorld()
    envs = ImaginedVectorEnv(world, 2, toy_contexts(world.arena), max_episode_steps=3)
    states = standing_at(world, [300, 255, 0, np.pi / 2, 0], [100, 100, 0, 0, 0])
    envs.reset(options={"state": states})
    _, rewards, terminated, truncated, _ = envs.step(np.array([1, 1]))
    assert rewards.tolist() == [1, 0] and terminated.tolist() == [True, False] and not truncated.any()
    _, rewards, terminated, truncated, infos = envs.step(np.array([1, 1]))
    assert world.imagined_batches == [2, 1]
    assert rewards.tolist() == [0, 0] and not terminated.any() and not truncated.any()
    context = infos["context"][0]
    assert context >= 0 and infos["context"][1] == -1
    assert np.array_equal(infos["pose"][0], envs.imagination.contexts.poses[context, -1])
    _, _, _, truncated, _ = envs.step(np.array([0, 0]))
    assert truncated.tolist() == [False, True]


def test_a_world_does_not_depend_on_the_others_nor_on_their_order():
    state = standing_at(ToyWorld(), *[[100 + 5 * i, 90, 0, 0.1 * i, 0] for i in range(6)])
    order = [4, 0, 5, 2, 1, 3]
    straight, shuffled = worlds(6, ToyArena(), limit=None), worlds(6, ToyArena(), limit=None)
    straight.reset(seed=0, options={"state": state})
    shuffled.reset(seed=0, options={"state": state[order]})
    rng = np.random.default_rng(0)
    for _ in range(5):
        actions = rng.integers(5, size=6)
        a, b = straight.step(actions), shuffled.step(actions[order])
        assert np.array_equal(a[0][order], b[0])
        assert np.array_equal(a[4]["pose"][order], b[4]["pose"])


def test_fork_shares_the_past_and_diverges_alone():
    envs = worlds(3, limit=None)
    envs.reset(seed=0)
    envs.step(np.array([1, 3, 5]))
    before = envs.snapshot()
    forked = envs.fork(1, 4)
    assert forked.num_envs == 4
    parent = envs.state.latents[1]
    assert all(np.array_equal(child, parent) for child in forked.state.latents)
    frames = forked.step(np.array([1, 1, 2, 1]))[0]
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[3])
    assert not np.array_equal(frames[0], frames[2])
    assert envs.snapshot() == before
    assert np.array_equal(envs.step(np.array([0, 1, 0]))[0][1], frames[0])


def test_snapshots_travel_between_the_scalar_and_the_vector_env():
    envs, single = worlds(3), ImaginedEnv(ToyWorld(NEAR_GOAL, noise=4.0), toy_contexts(NEAR_GOAL), 12)
    envs.reset(seed=0)
    envs.step(np.array([1, 3, 5]))
    saved = envs.snapshot()
    single.restore(envs.snapshot(2))
    after = envs.step(np.array([1, 1, 1]))
    frame, reward, *_ = single.step(1)
    assert np.array_equal(frame, after[0][2]) and reward == after[1][2]
    fresh = worlds(3)
    fresh.restore(saved)
    assert_same(fresh.step(np.array([1, 1, 1])), after)


def test_make_vec_builds_it():
    world = ToyWorld(NEAR_GOAL)
    envs = gym.make_vec(
        "worldloop/Imagined-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        world=world,
        contexts=toy_contexts(NEAR_GOAL),
        max_episode_steps=2,
    )
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    assert [bool(envs.step(np.zeros(3, int))[3].all()) for _ in range(4)] == [False, True, False, False]


def test_gymnasiums_vector_wrappers_accept_it():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(worlds(3, limit=5))
    envs.reset(seed=0)
    for _ in range(5):
        infos = envs.step(np.zeros(3, int))[4]
    assert infos["episode"]["l"].tolist() == [5, 5, 5]


def test_a_render_changes_nothing_and_gives_every_world():
    envs = worlds(2, render_mode="rgb_array")
    envs.reset(seed=0)
    before = envs.snapshot()
    assert [f.shape for f in envs.render()] == [(36, 48, 3)] * 2
    assert envs.snapshot() == before


def test_bad_input_is_refused():
    with pytest.raises(ConfigError):
        worlds(0)
    envs = worlds(2)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="seed"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=0)
    for actions in (np.array([0, 7]), np.zeros(3, int), np.zeros(2)):
        with pytest.raises(ValueError, match="ctions"):
            envs.step(actions)
    for mask in (np.zeros(2, bool), np.ones(3, bool), np.array([0, 1])):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="state"):
        envs.reset(options={"state": standing_at(ToyWorld(), [0, 0, 0, 0, 0])})
    with pytest.raises(IndexError):
        envs.fork(2, 1)
    with pytest.raises(ValueError, match="n >= 1"):
        envs.fork(0, 0)
    with pytest.raises(ValueError, match="2 worlds"):
        envs.restore(envs.fork(0, 3).snapshot())


def test_a_mask_needs_running_worlds():
    with pytest.raises(gym.error.ResetNeeded):
        worlds(2).reset(options={"reset_mask": np.array([True, False])})
