"""Recorded episodes on disk: exact, whole or absent, and never of a split that must not be used."""

from __future__ import annotations

import errno
import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rollout_data import info, random_episode, same, write_dataset
from walk_env import SPECS

from worldloop.errors import DataError, WorldloopError
from worldloop.rollouts import hdf5
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.splits import SPLITS, seed_range, split_of
from worldloop.rollouts.store import DatasetWriter, open_dataset


def test_every_map_seed_belongs_to_exactly_one_split() -> None:
    for split in SPLITS:
        assert {split_of(s) for s in (seed_range(split)[0], seed_range(split)[-1])} == {split}
    assert sum(len(seed_range(split)) for split in SPLITS) == 300_000
    assert (seed_range("train")[-1], seed_range("validation")[-1]) == (99_999, 199_999)


@pytest.mark.parametrize("seed", [-1, 300_000])
def test_a_seed_outside_the_splits_is_refused(seed: int) -> None:
    with pytest.raises(DataError, match=str(seed)):
        split_of(seed)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_what_is_read_is_what_was_written(tmp_path: Path, kind: str) -> None:
    writer = DatasetWriter.create(tmp_path, info(action_spec=SPECS[kind]))
    episodes = [random_episode(n, 5, kind, seed=n) for n in (1, 7, 8, 30)]
    writer.write("map-000005", episodes)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 4
    assert dataset.num_frames == 46
    assert dataset.map_seeds.tolist() == [5] * 4
    assert all(same(a, b) for a, b in zip(episodes, dataset.episodes(), strict=True))
    assert same(dataset.episode(-1), episodes[-1])
    part = dataset.window(3, 11, 17)
    assert np.array_equal(part.frames, episodes[3].frames[11:17])
    assert np.array_equal(part.poses, episodes[3].poses[11:17])
    assert dataset.action_spec == SPECS[kind]


def test_episodes_added_one_by_one_come_back_in_order(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path, info())
    episodes = [random_episode(4, m) for m in (9, 2, 7)]
    for episode in episodes:
        writer.add(episode)
    assert open_dataset(tmp_path).map_seeds.tolist() == [9, 2, 7]


def test_the_bytes_of_a_file_depend_on_its_episodes_alone() -> None:
    first = hdf5.encode([random_episode(9)], "x")
    time.sleep(1.1)
    assert hdf5.encode([random_episode(9)], "x") == first


def test_an_episode_of_another_split_cannot_be_stored(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path, info())
    with pytest.raises(DataError, match="100000 belongs to the validation split"):
        writer.write("x", [random_episode(3, map_seed=100_000)])
    assert not list(tmp_path.glob("*.h5"))


def test_an_episode_of_other_frames_or_actions_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(12, 16\)"):
        DatasetWriter.create(tmp_path / "a", info(frame_size=(48, 64))).add(random_episode(3))
    with pytest.raises(DataError, match="does not fit the action space"):
        DatasetWriter.create(tmp_path / "b", info()).add(random_episode(3, kind="continuous"))


@pytest.mark.parametrize(
    ("split", "first_map", "allowed"),
    [
        ("train", 0, "training validation report"),
        ("validation", 100_000, "validation report"),
        ("test", 200_000, "report"),
    ],
)
def test_a_split_opens_only_for_the_purposes_it_may_serve(
    tmp_path: Path, split: str, first_map: int, allowed: str
) -> None:
    write_dataset(tmp_path, [[3]], first_map=first_map, split=split)
    for purpose in ("training", "validation", "report"):
        if purpose in allowed.split():
            assert open_dataset(tmp_path, purpose).split == split
        else:
            with pytest.raises(
                DataError, match=f"of the {split} split, which must not be used for {purpose}"
            ):
                open_dataset(tmp_path, purpose)


def test_a_missing_data_set_names_the_command_that_records_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="worldloop collect --out"):
        open_dataset(tmp_path / "nothing")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[30], [30]])
    victim = tmp_path / "map-000001.h5"
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"map-000001\.h5 is damaged.*worldloop collect"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all" * 100])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    write_dataset(tmp_path, [[3]])
    (tmp_path / "map-000000.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"map-000000\.h5 is damaged"):
        open_dataset(tmp_path)


def test_a_flipped_bit_is_never_returned_as_data(tmp_path: Path) -> None:
    (written,) = write_dataset(tmp_path, [[30]])
    file = tmp_path / "map-000000.h5"
    content = file.read_bytes()
    noticed = 0
    for position in np.random.default_rng(0).integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(position % 8)
        file.write_bytes(damaged)
        try:
            dataset = open_dataset(tmp_path)
            dataset.verify()
            assert same(dataset.episode(0), written)
        except DataError:
            noticed += 1
    assert noticed > 100


def test_a_damaged_description_is_explained(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json cannot be used.*Delete that file"):
        open_dataset(tmp_path)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": "worldloop.rollouts/99"}))
    with pytest.raises(DataError, match=r"worldloop\.rollouts/99"):
        open_dataset(tmp_path)


def test_a_file_of_another_data_set_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [[3]])
    write_dataset(tmp_path / "b", [[3], [3]], generator="2")
    os.replace(tmp_path / "b" / "map-000001.h5", tmp_path / "a" / "map-000001.h5")
    with pytest.raises(DataError, match=r"map-000001\.h5 was recorded for another data set"):
        open_dataset(tmp_path / "a")


def test_other_settings_in_the_same_directory_are_explained(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    with pytest.raises(
        DataError, match=r"env_kwargs\.task is 'find' there and 'explore' here; generator is '1' there"
    ):
        DatasetWriter.create(tmp_path, info(env_kwargs={"task": "explore"}, generator="2"))


def test_a_data_set_can_grow_but_not_shrink(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3], [3]], maps=2)
    assert DatasetWriter.create(tmp_path, info(maps=3)).info.maps == 3
    with pytest.warns(UserWarning, match="2 of 3 maps"):
        assert len(open_dataset(tmp_path)) == 2
    with pytest.raises(DataError, match="3 maps, not 2"):
        DatasetWriter.create(tmp_path, info(maps=2))


def test_a_full_disk_is_explained_and_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written,) = write_dataset(tmp_path, [[9]])
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = DatasetWriter.create(tmp_path, info())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for name in ("map-000000", "map-000001"):
            with pytest.raises(WorldloopError, match=f"disk is full.*{name}"):
                writer.write(name, [random_episode(9, seed=5)])
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert same(open_dataset(tmp_path).episode(0), written)


def test_what_a_killed_writer_left_is_ignored_and_later_removed(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    leftover = tmp_path / ".map-000001.h5.abcdef.h5"
    leftover.write_bytes(b"half a file")
    assert len(open_dataset(tmp_path)) == 1
    DatasetWriter.create(tmp_path, info())
    assert leftover.exists(), "someone may still be writing a file this young"
    os.utime(leftover, (0, 0))
    DatasetWriter.create(tmp_path, info())
    assert not leftover.exists()


def test_a_data_set_says_where_it_came_from(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    data = json.loads((tmp_path / "dataset.json").read_text())
    assert data["generator"] == "1"
    assert data["split"] == "train"
    assert data["env_kwargs"] == {"task": "find"}
    assert {"python", "numpy", "worldloop"} <= data["provenance"]["versions"].keys()
    assert data["provenance"]["command"]
    assert DatasetInfo.from_json(json.dumps(data)).to_json() == (tmp_path / "dataset.json").read_text()


def test_equal_content_has_equal_fingerprints(tmp_path: Path) -> None:
    for name in "ab":
        write_dataset(tmp_path / name, [[3], [4]])
    write_dataset(tmp_path / "c", [[3], [5]])
    a, b, c = (open_dataset(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


def test_an_open_data_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3], [4]])
    dataset = open_dataset(tmp_path)
    assert same(pickle.loads(pickle.dumps(dataset)).episode(1), dataset.episode(1))


def test_an_episode_that_does_not_exist_is_an_index_error(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[3]])
    with pytest.raises(IndexError, match="holds 1 episodes"):
        open_dataset(tmp_path).episode(1)
    for start, stop in ((0, 4), (-1, 2), (2, 2)):
        with pytest.raises(IndexError, match="episode 0 has 3 frames"):
            open_dataset(tmp_path).window(0, start, stop)


def test_an_episode_checks_its_arrays() -> None:
    episode = random_episode(5)
    with pytest.raises(DataError, match="'poses' of an episode of 5 frames needs shape"):
        replace(episode, poses=episode.poses[:4])
    with pytest.raises(DataError, match="float64"):
        replace(episode, poses=episode.poses.astype(np.float32))
    with pytest.raises(DataError, match="uint8"):
        replace(episode, frames=episode.frames.astype(np.int16))
    with pytest.raises(DataError, match="finite"):
        replace(episode, rewards=np.full(5, np.nan, np.float32))
    with pytest.raises(DataError, match="ends at its first"):
        replace(episode, terminated=np.ones(5, dtype=bool))
