"""What Gymnasium promises of every vector environment, as checks that take any of them.

A check is a function of a `Subject` and an autoreset mode. `test_conformance.py` runs all of them on the vector
environments of this project; an environment of another project needs a `Subject` and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

STEPS = 15
CLOSED = (gym.error.ClosedEnvironmentError, gym.error.ResetNeeded)


@dataclass(frozen=True)
class Subject:
    """A vector environment under test. Its episodes end within `STEPS` / 3 steps; it renders RGB arrays.

    Attributes:
        name: for the test's id.
        vector: makes one of at least two worlds with this autoreset mode.
        alone: makes the scalar environment that each world of it is said to equal.
    """

    name: str
    vector: Callable[[AutoresetMode], VectorEnv[Any, Any, Any]]
    alone: Callable[[], gym.Env[Any, Any]]

    @contextmanager
    def open(self, mode: AutoresetMode, n: int = 1) -> Iterator[list[VectorEnv[Any, Any, Any]]]:
        """``n`` equal vector environments, closed at the end."""
        envs = [self.vector(mode) for _ in range(n)]
        try:
            yield envs
        finally:
            for env in envs:
                env.close()
                # close() does nothing the second time, and a check may have closed what then came back to life.
                env.close_extras()


def assert_same(a: Any, b: Any) -> None:
    """Equal trees of arrays, numbers and None: names, values and types."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert_same(list(a), list(b))
    elif a is None or b is None:
        assert a is b
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.array_equal(a, b)


def actions_of(envs: VectorEnv[Any, Any, Any], seed: int = 0, steps: int = STEPS) -> list[Any]:
    """Random batches of actions that depend on the seed alone."""
    space = copy.deepcopy(envs.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def play(envs: VectorEnv[Any, Any, Any], actions: list[Any]) -> list[tuple[Any, ...]]:
    """The results of all steps; with autoreset disabled, each reset is a result too."""
    results: list[tuple[Any, ...]] = []
    for action in actions:
        results.append(envs.step(action))
        over = results[-1][2] | results[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            results.append(envs.reset(options={"reset_mask": over}))
    return results


def row(tree: Any, i: int) -> Any:
    """Row ``i`` of a batch, arrays in dicts included; entries that a mask ``_name`` hides are left out."""
    if isinstance(tree, dict):
        shown = {k: v for k, v in tree.items() if not k.startswith("_") and tree.get(f"_{k}", [True] * (i + 1))[i]}
        return {k: row(v, i) for k, v in shown.items()}
    return tree[i]


def spaces_are_batches_of_the_single_spaces(subject: Subject, mode: AutoresetMode) -> None:
    """So a policy can be built from either; and the mode is announced by Gymnasium's own enum."""
    with subject.open(mode) as (envs,):
        alone = subject.alone()
        assert envs.single_observation_space == alone.observation_space
        assert envs.single_action_space == alone.action_space
        assert envs.observation_space == batch_space(alone.observation_space, envs.num_envs)
        assert envs.action_space == batch_space(alone.action_space, envs.num_envs)
        assert envs.metadata["autoreset_mode"] is mode
        alone.close()


def results_have_the_promised_types_and_shapes(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        n = envs.num_envs
        observations, infos = envs.reset(seed=0)
        assert observations in envs.observation_space
        _check_masks(infos, n)
        for action in actions_of(envs):
            observations, rewards, terminated, truncated, infos = envs.step(action)
            assert observations in envs.observation_space
            for single in iterate(envs.observation_space, observations):
                assert single in envs.single_observation_space
            assert rewards.shape == (n,) and np.issubdtype(rewards.dtype, np.floating)
            for flags in (terminated, truncated):
                assert flags.shape == (n,) and flags.dtype == np.bool_
            _check_masks(infos, n)
            over = terminated | truncated
            if mode is AutoresetMode.DISABLED and over.any():
                _, infos = envs.reset(options={"reset_mask": over})
                _check_masks(infos, n)


def _check_masks(infos: dict[str, Any], n: int) -> None:
    for name, values in infos.items():
        if name.startswith("_"):
            assert name[1:] in infos and values.shape == (n,) and values.dtype == np.bool_
        else:
            assert f"_{name}" in infos
            if isinstance(values, dict):
                _check_masks(values, n)
            else:
                assert len(values) == n


def each_world_lives_as_the_scalar_env_does_alone(subject: Subject, mode: AutoresetMode) -> None:
    """The autoreset mode, spelt out with scalar environments: ends, final observations, what is ignored when."""
    with subject.open(mode) as (envs,):
        n, ends = envs.num_envs, 0
        alone = [subject.alone() for _ in range(n)]
        first, infos = envs.reset(seed=3)
        for i, env in enumerate(alone):
            expected, info = env.reset(seed=3 + i)
            assert_same(row(first, i), expected)
            _check_info(row(infos, i), info)
        resetting = [False] * n
        for action in actions_of(envs):
            observations, rewards, terminated, truncated, infos = envs.step(action)
            over = np.zeros(n, np.bool_)
            for i, (env, single) in enumerate(zip(alone, iterate(envs.action_space, action), strict=True)):
                if resetting[i]:
                    (expected, info), reward, ended, cut = env.reset(), 0.0, False, False
                else:
                    expected, reward, ended, cut, info = env.step(single)
                over[i] = ended or cut
                assert (rewards[i], terminated[i], truncated[i]) == (pytest.approx(reward), ended, cut)
                if over[i] and mode is AutoresetMode.SAME_STEP:
                    assert infos["_final_obs"][i] and infos["_final_info"][i]
                    assert_same(infos["final_obs"][i], expected)
                    _check_info(row(infos["final_info"], i), info)
                    expected, info = env.reset()
                elif mode is AutoresetMode.SAME_STEP:
                    assert "final_obs" not in infos or not infos["_final_obs"][i]
                assert_same(row(observations, i), expected)
                _check_info({k: v for k, v in row(infos, i).items() if not k.startswith("final")}, info)
            ends += int(over.sum())
            resetting = list(over & (mode is AutoresetMode.NEXT_STEP))
            if mode is AutoresetMode.DISABLED and over.any():
                observations, infos = envs.reset(options={"reset_mask": over})
                for i in np.flatnonzero(over):
                    expected, info = alone[i].reset()
                    assert_same(row(observations, i), expected)
                    _check_info(row(infos, i), info)
                assert not any(infos[name][~over].any() for name in infos if name.startswith("_"))
        assert ends >= 2 * n
        for env in alone:
            env.close()


def _check_info(batched: dict[str, Any], alone: dict[str, Any]) -> None:
    assert batched.keys() == alone.keys()
    for name, value in alone.items():
        assert np.array_equal(batched[name], value), name


def a_seed_decides_everything(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, others):
        actions = actions_of(envs)
        start = envs.reset(seed=1)
        first = (start, play(envs, actions), envs.reset(), play(envs, actions))
        for again in (envs, others):
            assert_same((again.reset(seed=1), play(again, actions), again.reset(), play(again, actions)), first)
        different = (envs.reset(seed=1000), play(envs, actions))
        with pytest.raises(AssertionError):
            assert_same(different, first[:2])


def every_world_has_a_seed_of_its_own(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, others):
        n = envs.num_envs
        assert_same(envs.reset(seed=5), others.reset(seed=[5 + i for i in range(n)]))
        order = list(range(n))[::-1]
        others.reset(seed=[5 + i for i in order])
        for action in actions_of(envs, steps=4):
            a, b = envs.step(action), others.step(action[order])
            for i, j in enumerate(order):
                assert_same([row(part, j) for part in a], [row(part, i) for part in b])
            if (a[2] | a[3]).any():
                break
        with pytest.raises(ValueError):
            envs.reset(seed=list(range(n + 1)))


def without_a_seed_the_worlds_differ(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        _, infos = envs.reset()
        observations = envs.step(actions_of(envs, steps=1)[0])[0]
        with pytest.raises(AssertionError):
            assert_same((row(infos, 0), row(observations, 0)), (row(infos, 1), row(observations, 1)))


def no_global_random_numbers_are_used(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        numpys, torchs = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        envs.reset(seed=0)
        play(envs, actions_of(envs))
        assert_same(list(np.random.get_state()), list(numpys))  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torchs)


def what_is_returned_is_the_callers_own(subject: Subject, mode: AutoresetMode) -> None:
    """Results neither change later nor can be used to change the worlds."""
    with subject.open(mode, 2) as (envs, others):
        kept = [envs.reset(seed=0)]
        untouched = copy.deepcopy(kept)
        others.reset(seed=0)
        actions = actions_of(envs)
        for action in actions:
            kept += play(envs, [action])
            untouched += copy.deepcopy(kept[len(untouched) :])
            for result in play(others, [action]):
                _overwrite(result)
        assert_same(kept, untouched)
        assert_same(play(others, actions), play(envs, actions))


def _overwrite(tree: Any) -> None:
    if isinstance(tree, np.ndarray):
        tree[...] = np.zeros((), tree.dtype) if tree.dtype != object else None
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ():
        _overwrite(value)


def the_action_of_a_reset_step_is_ignored(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, others):
        for e in (envs, others):
            e.reset(seed=0)
        over, resets = np.zeros(envs.num_envs, np.bool_), 0
        for action, other in zip(actions_of(envs, 0), actions_of(envs, 1), strict=True):
            changed = action.copy()
            changed[over] = other[over]
            result = envs.step(action)
            assert_same(result, others.step(changed))
            assert not any(column[over].any() for column in result[1:4])
            over = result[2] | result[3]
            resets += int(over.sum())
        assert resets >= 2


def worlds_whose_episode_is_over_need_a_reset(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        envs.reset(seed=0)
        n = envs.num_envs
        for action in actions_of(envs):
            result = envs.step(action)
            if (result[2] | result[3]).any():
                break
        with pytest.raises((gym.error.ResetNeeded, AssertionError)):
            envs.step(action)
        for mask in (np.zeros(n, np.bool_), np.ones(n + 1, np.bool_), np.ones(n, np.int64), [True] * (n + 1)):
            with pytest.raises((ValueError, TypeError)):
                envs.reset(options={"reset_mask": mask})


def a_step_before_the_first_reset_is_refused(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,), pytest.raises(gym.error.ResetNeeded):
        envs.step(actions_of(envs, steps=1)[0])


def a_bad_action_is_refused_and_nothing_moves(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, untouched):
        for e in (envs, untouched):
            e.reset(seed=0)
        good = actions_of(envs, steps=3)
        for bad in _bad_actions(envs, good[0]):
            with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
                envs.step(bad)
        assert_same(play(envs, good), play(untouched, good))


def _bad_actions(envs: VectorEnv[Any, Any, Any], good: Any) -> list[Any]:
    """Out of range, not finite, of another type or of another shape; in the first world, the others' are fine."""
    if isinstance(envs.single_action_space, gym.spaces.Discrete):
        n = int(envs.single_action_space.n)
        firsts: list[Any] = [n, -1]
        bad = [np.concatenate([[first], good[1:]]) for first in firsts]
        return [*bad, good.astype(np.float32), good[:, None]]
    bad = [np.concatenate([np.full_like(good[:1], value), good[1:]]) for value in (1.5, -1.5, np.nan, np.inf)]
    return [*bad, good[:, :-1], good[..., None]]


def a_batch_of_another_size_is_refused_and_nothing_moves(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, untouched):
        for e in (envs, untouched):
            e.reset(seed=0)
        good = actions_of(envs, steps=3)
        for bad in (good[0][:-1], np.concatenate([good[0], good[0][:1]]), good[0][:0]):
            with pytest.raises(ValueError):
                envs.step(bad)
        assert_same(play(envs, good), play(untouched, good))


def rendering_shows_every_world_and_changes_nothing(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode, 2) as (envs, others):
        for e in (envs, others):
            e.reset(seed=0)
        pictures = envs.render()
        assert isinstance(pictures, tuple) and len(pictures) == envs.num_envs
        for picture in pictures:
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert_same(envs.render(), pictures)
        for action in actions_of(envs, steps=3):
            assert_same(play(envs, [action]), play(others, [action]))
            envs.render()


def after_close_steps_and_pictures_are_refused(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        envs.reset(seed=0)
        envs.close()
        envs.close()
        for call in (lambda: envs.step(actions_of(envs, steps=1)[0]), envs.render):
            with pytest.raises(CLOSED):
                call()


def after_close_a_reset_is_refused(subject: Subject, mode: AutoresetMode) -> None:
    with subject.open(mode) as (envs,):
        envs.reset(seed=0)
        envs.close()
        with pytest.raises(CLOSED):
            envs.reset()


CHECKS: tuple[Callable[[Subject, AutoresetMode], None], ...] = (
    spaces_are_batches_of_the_single_spaces,
    results_have_the_promised_types_and_shapes,
    each_world_lives_as_the_scalar_env_does_alone,
    a_seed_decides_everything,
    every_world_has_a_seed_of_its_own,
    without_a_seed_the_worlds_differ,
    no_global_random_numbers_are_used,
    what_is_returned_is_the_callers_own,
    the_action_of_a_reset_step_is_ignored,
    worlds_whose_episode_is_over_need_a_reset,
    a_step_before_the_first_reset_is_refused,
    a_bad_action_is_refused_and_nothing_moves,
    a_batch_of_another_size_is_refused_and_nothing_moves,
    rendering_shows_every_world_and_changes_nothing,
    after_close_steps_and_pictures_are_refused,
    after_close_a_reset_is_refused,
)

MODES: dict[Callable[[Subject, AutoresetMode], None], tuple[AutoresetMode, ...]] = {
    the_action_of_a_reset_step_is_ignored: (AutoresetMode.NEXT_STEP,),
    worlds_whose_episode_is_over_need_a_reset: (AutoresetMode.DISABLED,),
}
"""The modes in which a check means something, where it does not in all."""
