"""Training windows: uniform, inside one episode, a function of (seed, step); the cache equals the files."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from rollout_data import write_dataset

from worldloop.errors import DataError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.store import open_dataset
from worldloop.rollouts.windows import WindowIndex, WindowSampler

LENGTHS = [[5, 1, 9], [4], [12, 3]]


def _all_starts(lengths: list[int], length: int) -> list[int]:
    starts, first = [], 0
    for n in lengths:
        starts += [first + i for i in range(n) if i + length <= n]
        first += n
    return starts


@pytest.mark.parametrize("length", [1, 2, 4, 5, 12])
def test_the_index_lists_every_window_inside_one_episode(length: int) -> None:
    lengths = [5, 1, 9, 4, 12, 3]
    index = WindowIndex(lengths, length)
    expected = _all_starts(lengths, length)
    assert index.count == len(expected)
    assert index.starts(np.arange(index.count)).tolist() == expected


def test_every_window_is_equally_likely() -> None:
    index = WindowIndex([5, 1, 9, 4, 12, 3], 4)
    drawn = np.concatenate([index.draw(step, 64, seed=3) for step in range(1000)])
    starts, counts = np.unique(drawn, return_counts=True)
    assert starts.tolist() == _all_starts([5, 1, 9, 4, 12, 3], 4)
    expected = len(drawn) / len(starts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    index = WindowIndex([100, 200], 10)
    assert np.array_equal(index.draw(7, 16, seed=1), WindowIndex([100, 200], 10).draw(7, 16, seed=1))
    assert np.array_equal(index.draw(7, 4, seed=1), index.draw(7, 16, seed=1)[:4])
    assert not np.array_equal(index.draw(8, 16, seed=1), index.draw(7, 16, seed=1))
    assert not np.array_equal(index.draw(7, 16, seed=2), index.draw(7, 16, seed=1))


def test_draws_stay_the_same_from_release_to_release() -> None:
    # Recorded once: a checkpoint resumed by another version must go on with the batches it would have seen.
    assert WindowIndex([1000], 1).draw(5, 4, seed=42).tolist() == [674, 876, 117, 883]


def test_windows_longer_than_every_episode_are_refused() -> None:
    with pytest.raises(DataError, match=r"No episode is 13 frames long \(the longest has 12\)"):
        WindowIndex([5, 12], 13)
    with pytest.raises(ValueError, match="at least one frame"):
        WindowIndex([5, 12], 0)


def test_a_batch_holds_consecutive_rows_of_one_episode(tmp_path: Path) -> None:
    episodes = write_dataset(tmp_path, LENGTHS)
    batch = WindowSampler(open_dataset(tmp_path), length=4, seed=0).batch(step=2, batch_size=32)
    assert batch.frames.shape == (32, 4, 12, 16, 3)
    for b in range(32):
        (found,) = [
            (e, i)
            for e in episodes
            for i in range(len(e) - 3)
            if np.array_equal(e.poses[i : i + 4], batch.poses[b])
        ]
        episode, i = found
        for field in fields(batch):
            assert np.array_equal(getattr(batch, field.name)[b], getattr(episode, field.name)[i : i + 4])


def test_the_cache_gives_the_same_batches_as_the_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    dataset = open_dataset(tmp_path)
    cache = TrainingCache.of(dataset)
    from_files = WindowSampler(dataset, 4, seed=1).batch(9, 16)
    from_cache = WindowSampler(cache, 4, seed=1).batch(9, 16)
    for field in fields(from_files):
        a, b = getattr(from_files, field.name), getattr(from_cache, field.name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert np.array_equal(cache.window_indices(9, 16, 4, 1), WindowSampler(cache, 4, seed=1).starts(9, 16))


def test_the_cache_is_the_episodes_end_to_end(tmp_path: Path) -> None:
    episodes = write_dataset(tmp_path, LENGTHS)
    cache = TrainingCache.of(open_dataset(tmp_path))
    for name in ("frames", "actions", "poses", "rewards", "terminated", "truncated"):
        assert np.array_equal(getattr(cache, name), np.concatenate([getattr(e, name) for e in episodes]))
    assert cache.episode_start.tolist() == [0, 5, 6, 15, 19, 31]
    assert cache.episode_lengths.tolist() == [5, 1, 9, 4, 12, 3]
    assert cache.map_seeds.tolist() == [0, 0, 0, 1, 2, 2]
    assert cache.action_spec == open_dataset(tmp_path).action_spec
    assert not cache.frames.flags.writeable


def test_a_cache_is_built_once_and_again_when_the_data_set_changed(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    built = (TrainingCache.of(open_dataset(tmp_path)).path / "frames.npy").stat().st_ino
    assert (TrainingCache.of(open_dataset(tmp_path)).path / "frames.npy").stat().st_ino == built
    write_dataset(tmp_path, [*LENGTHS, [8]])
    cache = TrainingCache.of(open_dataset(tmp_path))
    assert cache.num_frames == 42
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_a_reader_keeps_its_cache_while_it_is_built_anew(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    old = TrainingCache.of(open_dataset(tmp_path))
    before = np.array(old.frames)
    write_dataset(tmp_path, [*LENGTHS, [8]])
    TrainingCache.of(open_dataset(tmp_path))
    assert np.array_equal(old.frames, before)


def test_unpacking_tells_how_far_it_is_and_is_done_once(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    dataset, told = open_dataset(tmp_path), []
    for _ in range(2):
        TrainingCache.of(dataset, tell=lambda done, of: told.append((done, of)))
    ends = np.cumsum(dataset.episode_lengths).tolist()
    assert told == [(end, ends[-1]) for end in ends]


def test_a_cache_never_replaces_something_else(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", LENGTHS)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with pytest.raises(DataError, match="not a training cache"):
        TrainingCache.of(open_dataset(tmp_path / "data"), tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_a_damaged_cache_is_explained(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    cache = TrainingCache.of(open_dataset(tmp_path))
    os.truncate(cache.path / "frames.npy", 500)
    with pytest.raises(DataError, match=r"cache is damaged.*Delete that directory"):
        TrainingCache.of(open_dataset(tmp_path))


def test_a_build_that_failed_leaves_the_old_cache_and_nothing_else(tmp_path: Path) -> None:
    write_dataset(tmp_path, LENGTHS)
    TrainingCache.of(open_dataset(tmp_path))
    write_dataset(tmp_path, [*LENGTHS, [30]])
    dataset = open_dataset(tmp_path)
    (tmp_path / "map-000003.h5").unlink()
    with pytest.raises(DataError, match=r"map-000003\.h5"):
        TrainingCache.of(dataset)
    assert TrainingCache(tmp_path / "cache").num_frames == 34
    assert list(tmp_path.glob(".*")) == []
