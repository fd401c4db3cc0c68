"""Training for memory: walks with a past, palindromes, what is hidden and what is retrieved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldloop.errors import ConfigError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.training.config import MemoryTraining
from worldloop.world_models.training.histories import draw_histories

LENGTHS = (30, 12, 45)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    spec = ActionSpec("discrete", ("stay", "turn"), ((0, 0, 0, 0, 0), (0, 0, 0, 0.4, 0)))
    path: Path = tmp_path_factory.mktemp("data") / "train"
    writer = DatasetWriter.create(path, DatasetInfo("numbers", {}, (16, 16), spec, "train"))
    for seed, length in enumerate(LENGTHS):
        poses = np.zeros((length, 5))
        poses[:, 0] = np.arange(length)
        no = np.zeros(length, bool)
        frames = np.zeros((length, 16, 16, 3), np.uint8)
        actions, rewards = np.zeros(length, np.int64), np.zeros(length, np.float32)
        writer.add(Episode(frames, actions, poses, rewards, no, no, no, no, seed))
    return TrainingCache.of(open_dataset(path))


def test_a_walk_is_its_episode_up_to_the_target(cache: TrainingCache) -> None:
    walks = draw_histories(cache, 3, 5, 400, 0, np.zeros(400, bool), np.zeros(400))
    assert walks.recorded.all()
    starts = np.cumsum((0, *LENGTHS))
    reached = set()
    for rows, target in zip(walks.rows, walks.target, strict=True):
        episode = int(np.searchsorted(starts, rows[0], side="right")) - 1
        assert rows[: target + 1].tolist() == list(range(starts[episode], starts[episode] + target + 1))
        assert 3 <= target < LENGTHS[episode]
        reached.add((episode, int(target)))
    # Every frame with three before it may be asked for: 27 + 9 + 42 of them.
    assert len(reached) > 70
    again = draw_histories(cache, 3, 5, 400, 0, np.zeros(400, bool), np.zeros(400))
    assert np.array_equal(again.rows, walks.rows)


def test_palindromes_come_back_the_way_they_went(cache: TrainingCache) -> None:
    way_back = np.random.default_rng(0).random(300)
    walks = draw_histories(cache, 3, 7, 300, 0, np.ones(300, bool), way_back)
    turned = 0
    for i in range(300):
        walk = walks.rows[i, : walks.target[i] + 1]
        out = int(walk.argmax())
        assert walks.recorded[i] == (out == len(walk) - 1)
        if walks.recorded[i]:
            assert out == 3  # nowhere to come back from
            continue
        turned += 1
        back = len(walk) - 1 - out
        assert back >= 4
        there = list(range(walk[0], walk[0] + out + 1))
        assert walk.tolist() == there + there[-2 : -2 - back : -1]
        # All recent frames are on the way back, and the motion is the recorded one undone.
        recent = [int(walks.at(b)[i]) for b in (3, 2, 1, 0)]
        assert recent == list(range(recent[0], recent[0] - 4, -1))
        assert walk[-1] >= walk[0]
    assert turned > 200


def test_shares_are_shares() -> None:
    with pytest.raises(ConfigError):
        MemoryTraining(hide=1.5)
    with pytest.raises(ConfigError):
        MemoryTraining(first_reach=0)
