"""`Contexts` are recorded pieces, saved exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_world import AXES, KEYS, ToyArena, ToyEnv, ToyWorld, toy_contexts

from worldloop.envs.contexts import Contexts
from worldloop.envs.imagined import ImaginedEnv
from worldloop.errors import DataError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, RolloutDataset, open_dataset
from worldloop.world_models.actions import ActionSpec


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> RolloutDataset:
    """Four recorded walks of 4, 9, 12 and 30 frames, one for each map seed 0 … 3."""
    path = tmp_path_factory.mktemp("walks") / "data"
    writer = DatasetWriter.create(path, DatasetInfo("Toy-v0", {}, (36, 48), KEYS, "train"))
    env, rng = ToyEnv(), np.random.default_rng(0)
    for map_seed, length in enumerate([4, 9, 12, 30]):
        actions = rng.integers(KEYS.n, size=length)
        actions[0] = 0
        frame, info = env.reset(seed=map_seed)
        frames, poses = [frame], [info["pose"]]
        for action in actions[1:]:
            frame, _, _, _, info = env.step(action)
            frames.append(frame)
            poses.append(info["pose"])
        no = np.zeros(length, bool)
        rewards = np.zeros(length, np.float32)
        writer.add(
            Episode(np.stack(frames), actions, np.stack(poses), rewards, no, no, no, no, map_seed=map_seed)
        )
    return open_dataset(path)


def test_pieces_are_windows_of_the_recorded_episodes(dataset):
    contexts = Contexts.from_dataset(dataset, 12, 5, seed=1)
    assert len(contexts) == 12 and contexts.length == 5 and contexts.split == "train"
    for i in range(12):
        episode = dataset.episode(int(contexts.map_seeds[i]))
        starts = [
            s for s in range(len(episode) - 4) if np.array_equal(episode.poses[s : s + 5], contexts.poses[i])
        ]
        assert any(
            np.array_equal(episode.frames[s : s + 5], contexts.frames[i])
            and np.array_equal(episode.actions[s : s + 5], contexts.actions[i])
            for s in starts
        )


def test_episodes_take_turns_and_short_ones_are_left_out(dataset):
    contexts = Contexts.from_dataset(dataset, 6, 5)
    assert sorted(contexts.map_seeds) == [1, 1, 2, 2, 3, 3]


def test_the_choice_is_reproducible(dataset):
    first, second, other = (Contexts.from_dataset(dataset, 6, 5, seed=s) for s in (4, 4, 5))
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.poses, other.poses)


def test_pieces_begin_with_episodes_as_often_as_asked(dataset):
    def beginnings(share):
        contexts = Contexts.from_dataset(dataset, 200, 5, seed=2, beginnings=share)
        first = [dataset.episode(int(seed)).poses[:5] for seed in contexts.map_seeds]
        return np.mean([np.array_equal(a, b) for a, b in zip(contexts.poses, first, strict=True)])

    assert beginnings(1.0) == 1
    # Of pieces from anywhere in these three episodes one of 4, 7 and 25 is a beginning too: 0.15 of all.
    assert 0.08 < beginnings(0.0) < 0.23 and 0.48 < beginnings(0.5) < 0.68


def test_pieces_end_where_a_step_was_in_vain_as_often_as_asked(tmp_path):
    spec = ActionSpec("discrete", ("stay", "forward"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0)))
    writer = DatasetWriter.create(tmp_path / "walls", DatasetInfo("walls", {}, (16, 16), spec, "train"))
    stopped = {0: [3, 6, 13], 1: [2, 8, 19], 2: [], 3: [0]}  # of 20 frames; in the first one nothing was asked for
    for seed, frames in stopped.items():
        keys = np.ones(20, np.int64)
        keys[10] = 0  # rests: that is no step in vain
        went = keys == 1
        went[frames] = False
        poses = np.zeros((20, 5))
        poses[:, 0] = 25 * np.cumsum(went)
        no = np.zeros(20, bool)
        pictures = np.full((20, 16, 16, 3), np.arange(20, dtype=np.uint8)[:, None, None, None])
        writer.add(Episode(pictures, keys, poses, np.zeros(20, np.float32), no, no, no, no, map_seed=seed))
    walls = open_dataset(tmp_path / "walls")

    def ends(**shares):
        contexts = Contexts.from_dataset(walls, 400, 4, seed=3, **shares)
        return list(zip(contexts.map_seeds.tolist(), contexts.frames[:, -1, 0, 0, 0].tolist(), strict=True))

    # Of four frames, and without an episode's last; both episodes equally often.
    told = ends(stopped=1.0)
    assert set(told) == {(0, 3), (0, 6), (0, 13), (1, 8)}
    assert np.mean([map_seed for map_seed, _ in told]) == 0.5
    mixed = ends(stopped=0.3, beginnings=0.5)
    in_vain = {(0, 6), (0, 13), (1, 8)}
    # 0.2 are from anywhere: each of 64 pieces is then as likely as another, three of them in vain.
    assert np.mean([end in in_vain for end in mixed]) == pytest.approx(0.3 * 5 / 6 + 0.2 * 3 / 64, abs=0.07)
    assert np.mean([frame == 3 for _, frame in mixed]) == pytest.approx(0.5 + 0.3 / 6 + 0.2 * 4 / 64, abs=0.075)
    assert ends(stopped=0.3, beginnings=0.5) == mixed and ends(stopped=0.0) == ends()
    with pytest.raises(DataError, match="Nobody was stopped"):
        Contexts.from_dataset(walls, 5, 15, stopped=0.9)

    wishes = {"seed": 3, "beginnings": 0.3, "stopped": 0.5, "shortest": 2}
    packed = Contexts.from_dataset(walls, 60, 6, **wishes)
    unpacked = Contexts.from_dataset(walls, 60, 6, **wishes, unpacked=TrainingCache.of(walls))
    assert packed.lengths is not None and len(set(packed.lengths.tolist())) == 5
    for name, array in packed.arrays().items():
        given = unpacked.arrays()[name]
        assert type(given) is np.ndarray and given.dtype == array.dtype and np.array_equal(given, array), name


def test_impossible_wishes_are_refused(dataset):
    with pytest.raises(DataError, match="at most 29"):
        Contexts.from_dataset(dataset, 1, 30)
    with pytest.raises(ValueError):
        Contexts.from_dataset(dataset, 0, 5)
    with pytest.raises(ValueError, match="beginnings"):
        Contexts.from_dataset(dataset, 1, 5, beginnings=1.5)
    with pytest.raises(ValueError, match="beginnings and stopped"):
        Contexts.from_dataset(dataset, 1, 5, beginnings=0.6, stopped=0.6)


def test_unpacked_experience_of_another_data_set_is_refused(dataset, tmp_path):
    other = DatasetWriter.create(tmp_path / "other", DatasetInfo("Toy-v0", {}, (36, 48), KEYS, "train"))
    other.add(dataset.episode(3))
    with pytest.raises(ValueError, match="not the unpacked experience"):
        Contexts.from_dataset(dataset, 1, 5, unpacked=TrainingCache.of(open_dataset(tmp_path / "other")))


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_saving_and_loading_is_lossless(tmp_path, spec):
    contexts = toy_contexts(ToyArena(actions=spec))
    contexts.save(tmp_path / "contexts.safetensors")
    loaded = Contexts.load(tmp_path / "contexts.safetensors")
    for name in ("frames", "actions", "poses", "map_seeds"):
        a, b = getattr(contexts, name), getattr(loaded, name)
        assert np.array_equal(a, b) and a.dtype == b.dtype
    assert loaded.action_spec == spec and loaded.split == "train"


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = tmp_path / "contexts.safetensors"
    with pytest.raises(DataError, match="no file"):
        Contexts.load(path)
    toy_contexts(ToyArena()).save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"{}" + whole):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"contexts\.safetensors"):
            Contexts.load(path)


def test_arrays_that_do_not_belong_together_are_refused():
    contexts = toy_contexts(ToyArena())
    with pytest.raises(DataError, match="poses"):
        replace(contexts, poses=contexts.poses[:, 1:])
    with pytest.raises(DataError, match="actions"):
        replace(contexts, actions=contexts.actions.astype(np.float64))
    with pytest.raises(DataError, match="at least one"):
        replace(
            contexts, **{k: getattr(contexts, k)[:0] for k in ("frames", "actions", "poses", "map_seeds")}
        )


def test_worlds_that_lie_together_share_starts_unless_they_have_their_own(tmp_path):
    world = ToyWorld(ToyArena())
    world.directory = tmp_path / "one"
    own, shared = toy_contexts(ToyArena(), n=3), toy_contexts(ToyArena(), n=5)
    with pytest.raises(DataError, match="no file"):
        ImaginedEnv(world)
    shared.save(tmp_path / "contexts.safetensors")
    assert len(ImaginedEnv(world).imagination.contexts) == 5
    (tmp_path / "one").mkdir()
    own.save(tmp_path / "one" / "contexts.safetensors")
    assert len(ImaginedEnv(world).imagination.contexts) == 3


def test_pieces_have_from_the_shortest_to_the_whole_length_and_worlds_observe_just_these(dataset, tmp_path):
    contexts = Contexts.from_dataset(dataset, 600, 8, seed=3, beginnings=0.5, shortest=2)
    lengths, first = contexts.lengths, 0
    assert lengths is not None and contexts.frames.shape[:2] == (600, 8)
    for i, k in enumerate(lengths):
        episode, real = dataset.episode(int(contexts.map_seeds[i])), contexts.poses[i, 8 - k :]
        assert any(np.array_equal(episode.poses[s : s + k], real) for s in range(len(episode) - k))
        assert np.array_equal(contexts.frames[i, : 8 - k], np.repeat(contexts.frames[i, 8 - k : 9 - k], 8 - k, 0))
        first += np.array_equal(episode.poses[:k], real)
    # Half are beginnings, and of the others a few, among them many of the episode of 4 frames.
    assert 300 <= first <= 420
    # That one has pieces of 2 and 3 frames, each as often, the others of 2 … 8.
    short = np.bincount(lengths[contexts.map_seeds == 0], minlength=9) / 150
    assert short[2:4] == pytest.approx([1 / 2] * 2, abs=0.16)
    others = np.bincount(lengths[contexts.map_seeds != 0], minlength=9) / 450
    assert others[2:] == pytest.approx([1 / 7] * 7, abs=0.07)

    world, rows = ToyWorld(context=8), np.array([5, *range(17, 30), 5])
    seen = contexts.observed(world, world.start(15, np.arange(15) + 40), rows)
    assert len(set(lengths[rows])) > 2
    for at, (row, k) in enumerate(zip(rows, lengths[rows], strict=True)):
        pieces = (array[row : row + 1, 8 - k :] for array in (contexts.frames, contexts.actions, contexts.poses))
        alone = world.observe(world.start(1, [40 + at]), *pieces)
        assert seen[at].snapshot() == alone.snapshot()
    one = contexts.observed(world, world.start(2), np.flatnonzero(lengths == 3)[:2])
    assert int(one.step[0]) == 3

    contexts.save(tmp_path / "several.safetensors")
    assert np.array_equal(Contexts.load(tmp_path / "several.safetensors").lengths, lengths)
    env = ImaginedEnv(world, contexts)
    env.reset(seed=0, options={"context": int(np.flatnonzero(lengths == 2)[0])})
    assert int(env.state.step) == 2
    for wrong in (0, 9):
        with pytest.raises(ValueError, match="shortest pieces have between 1 and 8"):
            Contexts.from_dataset(dataset, 5, 8, shortest=wrong)
    with pytest.raises(DataError, match="lengths of shape"):
        replace(contexts, lengths=np.zeros(600, np.int64))
    same = Contexts.from_dataset(dataset, 20, 8, seed=3, shortest=8)
    assert same.lengths is None and np.array_equal(same.poses, Contexts.from_dataset(dataset, 20, 8, seed=3).poses)


def test_many_short_pieces_may_end_where_a_step_was_in_vain(tmp_path):
    spec = ActionSpec("discrete", ("stay", "forward"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0)))
    writer = DatasetWriter.create(tmp_path / "walls", DatasetInfo("walls", {}, (16, 16), spec, "train"))
    poses = np.zeros((20, 5))
    poses[:, 0] = 25 * np.cumsum(~np.isin(np.arange(20), [2, 15]))
    no, pictures = np.zeros(20, bool), np.full((20, 16, 16, 3), np.arange(20, dtype=np.uint8)[:, None, None, None])
    writer.add(Episode(pictures, np.ones(20, np.int64), poses, np.zeros(20, np.float32), no, no, no, no, map_seed=0))
    contexts = Contexts.from_dataset(open_dataset(tmp_path / "walls"), 400, 8, stopped=1.0, shortest=1)
    ends, begins = contexts.frames[:, -1, 0, 0, 0].astype(int), contexts.frames[:, 0, 0, 0, 0].astype(int)
    assert set(ends) == {2, 15} and contexts.lengths is not None
    assert np.array_equal(ends - begins + 1, contexts.lengths)
    assert set(contexts.lengths[ends == 2]) == {1, 2, 3} and set(contexts.lengths[ends == 15]) == set(range(1, 9))
