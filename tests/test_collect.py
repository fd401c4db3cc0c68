"""`collect`: the same data set however many engines record it and however often they are interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from patience import PATIENCE
from recording_process import Recording, needs_proc
from rollout_data import same
from walk_env import WalkRooms, picture

from worldloop.envs.collecting import CollectConfig, CollectProgress, collect, record_map
from worldloop.envs.worker_pool import Stopped
from worldloop.errors import ConfigError, DataError, EngineError, WorldloopError
from worldloop.rollouts.store import RolloutDataset, open_dataset


def _config(out: Path, **changes: Any) -> CollectConfig:
    fields: dict[str, Any] = {
        "out": out,
        "env": "walk_env:WalkRooms-v0",
        "env_kwargs": {},
        "maps": 6,
        "steps": 40,
        "workers": 1,
        "seed": 3,
    }
    return CollectConfig(**fields | changes)


def _here(config: CollectConfig) -> list[Any]:
    """The episodes of ``config``, recorded in this process one after the other."""
    env = WalkRooms(**config.kwargs)
    return [episode for seed in config.map_seeds for episode in record_map(env, config, seed)]


def _assert_holds(dataset: RolloutDataset, expected: list[Any]) -> None:
    assert len(dataset) == len(expected)
    assert all(same(a, b) for a, b in zip(dataset.episodes(), expected, strict=True))


def test_what_is_recorded_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    seen: list[CollectProgress] = []
    config = _config(tmp_path, workers=2)
    dataset = collect(config, seen.append)
    _assert_holds(dataset, _here(config))
    assert dataset.num_frames == 6 * 40
    assert [p.maps_done for p in seen] == [1, 2, 3, 4, 5, 6]
    assert (seen[-1].frames, seen[-1].maps_kept) == (240, 0)


def test_a_game_at_a_port_is_one_engine_unless_more_are_asked_for(tmp_path: Path) -> None:
    def engines(**changes: Any) -> int:
        return _config(tmp_path, **changes).engines

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert engines(workers=None, env_kwargs={"port": 9000}) == 1
    assert engines(workers=None) == cores
    assert engines(workers=3, env_kwargs={"port": 9000}) == engines(workers=3) == 3


def test_every_map_gets_all_its_frames_in_as_many_episodes_as_it_takes(tmp_path: Path) -> None:
    config = _config(tmp_path, steps=300, policy="waypoint", goal_fraction=0.8)
    for map_seed in range(5):
        episodes = record_map(WalkRooms(), config, map_seed)
        assert sum(len(e) for e in episodes) in (300, 299), "a last frame alone would be no episode"
        assert all(len(e) >= 2 for e in episodes)
        assert len(episodes) > 1
        assert all(e.terminated[-1] for e in episodes[:-1])
        starts = np.stack([e.poses[0] for e in episodes])
        assert len(np.unique(starts, axis=0)) == len(episodes)
        for e in episodes:
            assert np.array_equal(e.frames, np.stack([picture(p, map_seed) for p in e.poses]))


def test_the_mix_uses_every_policy_by_its_share(tmp_path: Path) -> None:
    config = _config(tmp_path, steps=20, waypoint=0.3, loop=0.2, roam=0.2, random=0.2, search=0.1)
    names = [e.policy for m in range(150) for e in record_map(WalkRooms(), config, m)[:1]]
    assert abs(names.count("waypoint") / 150 - 0.3) < 0.12
    assert abs(names.count("roam") / 150 - 0.2) < 0.1
    assert set(names) == {"waypoint", "loop", "roam", "random", "search"}


def test_other_seeds_and_other_maps_are_recorded_differently(tmp_path: Path) -> None:
    config = _config(tmp_path)
    chosen = [(config, 0), (config, 1), (replace(config, seed=4), 0)]
    poses = [record_map(WalkRooms(), c, m)[0].poses for c, m in chosen]
    assert len({p.tobytes() for p in poses}) == 3


def test_a_map_stops_being_recorded_when_told_to(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        record_map(WalkRooms(), _config(tmp_path), 0, lambda: True)


def test_the_same_command_again_records_only_what_is_damaged_or_new(
    tmp_path: Path,
) -> None:
    collect(_config(tmp_path, maps=4))
    files = sorted(tmp_path.glob("*.h5"))
    os.truncate(files[1], 1000)
    content = bytearray(files[2].read_bytes())
    content[len(content) // 2] ^= 255
    files[2].write_bytes(content)
    files[3].unlink()
    before = files[0].stat().st_mtime_ns
    seen: list[CollectProgress] = []
    larger = _config(tmp_path, maps=5)
    _assert_holds(collect(larger, seen.append), _here(larger))
    assert (seen[-1].maps_done, seen[-1].maps_kept) == (5, 1)
    assert files[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 41}, "recipe.steps is 40 there and 41 here"),
        ({"seed": 9}, "recipe.seed is 3 there and 9 here"),
        ({"env_kwargs": {"actions": "continuous"}}, "env_kwargs.actions is None there and 'continuous' here"),
        ({"split": "validation"}, "split is 'train' there and 'validation' here"),
    ],
)
def test_another_configuration_in_the_same_directory_is_explained(
    recorded: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        collect(_config(recorded, maps=1, **changes))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded")
    collect(_config(path, maps=1))
    return path


def test_a_worker_that_dies_is_reported_with_its_map(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"exit code 7.*map seed 2"):
        collect(_config(tmp_path, env_kwargs={"die_in": 2}, workers=1))
    with pytest.warns(UserWarning, match="2 of 6 maps"):
        assert len(np.unique(open_dataset(tmp_path).map_seeds)) == 2


def test_an_environment_that_fails_is_reported_with_its_map(tmp_path: Path) -> None:
    with pytest.raises(WorldloopError, match="Map seed 1 failed: RuntimeError: the map is on fire") as caught:
        collect(_config(tmp_path, env_kwargs={"fail_in": 1}, workers=1))
    assert "walk_env.py" in "".join(caught.value.__notes__)


def test_a_policy_of_ones_own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_policy.py").write_text("def left(observation, info, rng):\n    return 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = _config(tmp_path / "data", policy="own_policy:left", epsilon=0.0)
    (episode,) = record_map(WalkRooms(), config, 0)
    assert episode.policy == "own_policy:left"
    assert set(episode.actions[1:]) == {5}


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("validation", 100_000), ("test", 200_000)])
def test_maps_are_the_first_of_their_split(split: str, first: int) -> None:
    assert _config(Path("x"), split=split).map_seeds == range(first, first + 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": 0}, "at least one map"),
        ({"steps": 1}, "at least two frames"),
        ({"workers": 0}, "at least one worker"),
        ({"seed": -1}, "whole number >= 0"),
        ({"epsilon": 1.5}, "probabilities"),
        ({"waypoint": 0.0, "loop": 0.0, "roam": 0.0, "random": 0.0}, "not all zero"),
        ({"first_map": 99_999, "maps": 2}, "not all of the train split"),
        ({"first_map": 5, "split": "test"}, "not all of the test split"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(Path("nowhere"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "walk"}, "A policy is mix, waypoint"),
        ({"policy": "missing.zip"}, "missing.zip could not be loaded"),
        ({"env": "worldloop/Nowhere-v0"}, "Cannot make worldloop/Nowhere-v0"),
        ({"env_kwargs": {"wings": 2}}, "wings"),
        ({"env": "CartPole-v1"}, r"\(H, W, 3\) frames"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(_config(tmp_path / "data", **changes))
    assert not (tmp_path / "data").exists()


def test_the_command_line_reads_environment_arguments_as_key_value_words() -> None:
    words = [
        "--out",
        "x",
        "--env-kwargs",
        "task=return",
        "rows=3",
        "frame_size=[96,128]",
        "shaping=true",
        "--maps",
        "7",
    ]
    config = tyro.cli(CollectConfig, args=words)
    assert config.kwargs == {"task": "return", "rows": 3, "frame_size": [96, 128], "shaping": True}
    assert (config.out, config.maps) == (Path("x"), 7)
    assert tyro.cli(CollectConfig, args=["--out", "x"]).kwargs == {"task": "find", "level": "far"}


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Recording]:
    """A recording that takes seconds, under way."""
    config = _config(tmp_path / "data", env_kwargs={"slow": 0.005}, maps=8, workers=2)
    recording = Recording(tmp_path, config)
    try:
        recording.wait_for_maps(2)
        yield recording
    finally:
        recording.end()


@needs_proc
def test_a_killed_recording_is_completed_by_the_same_command(slow: Recording) -> None:
    slow.process.kill()
    slow.process.wait()
    slow.assert_all_gone()
    config = slow.config
    with pytest.warns(UserWarning, match="of 8 maps"):
        before = open_dataset(config.out)
    before.verify()
    finished = len(np.unique(before.map_seeds))
    assert 2 <= finished < 8
    seen: list[CollectProgress] = []
    _assert_holds(collect(config, seen.append), _here(replace(config, env_kwargs={})))
    assert seen[-1].maps_kept == finished
    assert [p.name for p in config.out.glob(".*")] == []


@needs_proc
def test_ctrl_c_stops_the_workers_and_keeps_finished_maps(slow: Recording) -> None:
    os.killpg(slow.process.pid, signal.SIGINT)
    _, errors = slow.process.communicate(timeout=PATIENCE)
    assert errors.count("Traceback") == 1, errors
    assert "KeyboardInterrupt" in errors
    slow.assert_all_gone()
    with pytest.warns(UserWarning, match="of 8 maps"):
        dataset = open_dataset(slow.config.out)
    dataset.verify()
    assert len(np.unique(dataset.map_seeds)) >= 2
