"""`RecordEpisodes`: row i holds frame i and the action that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollout_data import info as dataset_info
from rollout_data import same
from walk_env import SPECS, WalkRooms, picture

from worldloop.envs.recording import RecordEpisodes
from worldloop.errors import DataError
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.pose import motion_between


def _walk(env: gym.Env[Any, Any], steps: int, seed: int = 0, map_seed: int = 0) -> None:
    env.action_space.seed(seed)
    env.reset(seed=seed, options={"map_seed": map_seed})
    for _ in range(steps):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_each_action_led_to_the_frame_in_its_row(kind: str) -> None:
    episodes: list[Episode] = []
    env = RecordEpisodes(WalkRooms(kind, max_steps=60), episodes.append, policy="me")
    _walk(env, 60, seed=1, map_seed=3)
    (episode,) = episodes
    assert len(episode) == 61
    assert (episode.map_seed, episode.policy) == (3, "me")
    for pose, frame in zip(episode.poses, episode.frames, strict=True):
        assert np.array_equal(frame, picture(pose, 3))
    poses = torch.from_numpy(episode.poses)
    moved = motion_between(poses[:-1], poses[1:]).numpy()
    nominal = SPECS[kind].nominal_motion(torch.from_numpy(episode.actions[1:])).numpy()
    free = ~episode.collided[1:]
    assert free.sum() > 20
    assert np.allclose(moved[free], nominal[free], atol=1e-4)
    assert np.all(episode.actions[0] == 0)
    assert episode.rewards[0] == 0
    assert np.allclose(episode.rewards[1:], -0.002)
    assert episode.truncated.tolist() == [False] * 60 + [True]
    assert not episode.terminated.any()


def test_an_episode_is_handed_over_once_it_ends() -> None:
    episodes: list[Episode] = []
    env = RecordEpisodes(WalkRooms(max_steps=5), episodes.append)
    for seed in range(3):
        _walk(env, 5, seed=seed)
        assert len(episodes) == seed + 1
    env.close()
    assert len(episodes) == 3


@pytest.mark.parametrize(("keep", "kept"), [(False, 0), (True, 2)])
def test_an_episode_cut_short_is_kept_only_if_asked_for(keep: bool, kept: int) -> None:
    episodes: list[Episode] = []
    env = RecordEpisodes(WalkRooms(), episodes.append, keep_partial=keep)
    _walk(env, 4)
    _walk(env, 3)
    env.reset(seed=0, options={"map_seed": 0})
    env.close()
    assert [len(e) for e in episodes] == [5, 4][:kept]
    assert not any(e.terminated.any() or e.truncated.any() for e in episodes)


def test_recording_changes_nothing_that_the_agent_sees() -> None:
    plain, recorded = WalkRooms(), RecordEpisodes(WalkRooms(), lambda episode: None)
    first, second = (e.reset(seed=4, options={"map_seed": 1}) for e in (plain, recorded))
    assert np.array_equal(first[0], second[0])
    for action in (1, 5, 1, 3):
        a, b = plain.step(action), recorded.step(action)
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]


class _Reusing(gym.Wrapper[Any, Any, Any, Any]):
    """Returns the same buffer every time, and no map seed."""

    def step(self, action: Any) -> Any:
        observation, *rest, info = self.env.step(action)
        self._buffer[:] = observation
        return self._buffer, *rest, {k: v for k, v in info.items() if k != "map_seed"}

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self._buffer = observation.copy()
        return self._buffer, {k: v for k, v in info.items() if k != "map_seed"}


def test_environments_may_reuse_their_frame_buffer() -> None:
    episodes: list[Episode] = []
    _walk(RecordEpisodes(_Reusing(WalkRooms(max_steps=6)), episodes.append, map_seed=0), 6)
    expected = np.stack([picture(pose, 0) for pose in episodes[0].poses])
    assert np.array_equal(episodes[0].frames, expected)


def test_a_world_without_maps_needs_to_be_told_its_map() -> None:
    with pytest.raises(DataError, match="map_seed"):
        RecordEpisodes(_Reusing(WalkRooms()), lambda episode: None).reset(seed=0)


def test_a_world_without_poses_or_pictures_is_refused() -> None:
    with pytest.raises(DataError, match=r"uint8 \(H, W, 3\)"):
        RecordEpisodes(gym.make("CartPole-v1"), lambda episode: None)

    class NoPose(WalkRooms):
        def _info(self, success: bool) -> dict[str, Any]:
            return {"map_seed": 0}

    with pytest.raises(DataError, match='info\\["pose"\\]'):
        RecordEpisodes(NoPose(), lambda episode: None).reset(seed=0)


def test_recorded_episodes_go_straight_to_a_data_set(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path, dataset_info(frame_size=(16, 16)))
    seen: list[Episode] = []

    def sink(episode: Episode) -> None:
        seen.append(episode)
        writer.add(episode)

    env = RecordEpisodes(WalkRooms(max_steps=9), sink)
    _walk(env, 9, map_seed=2)
    _walk(env, 9, map_seed=1)
    assert all(same(a, b) for a, b in zip(seen, open_dataset(tmp_path).episodes(), strict=True))
