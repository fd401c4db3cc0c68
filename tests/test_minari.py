"""Minari export and import: what comes back is what went in, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("minari", reason="needs Minari: pip install 'minari[hdf5]'")

import minari
from rollout_data import random_episode, same, write_dataset
from walk_env import SPECS

from worldloop.envs.collecting import CollectConfig, collect
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.errors import DataError, WorldloopError
from worldloop.rollouts.minari import export_minari, import_minari
from worldloop.rollouts.store import RolloutDataset, open_dataset


@pytest.fixture(autouse=True)
def _datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture
def random_data(tmp_path: Path) -> RolloutDataset:
    write_dataset(tmp_path / "random", [[5, 9, 2], [7], [3, 4]], first_map=100_002, split="validation", maps=3)
    return open_dataset(tmp_path / "random", "validation")


def assert_equal(a: RolloutDataset, b: RolloutDataset) -> None:
    assert len(a) == len(b)
    assert all(same(x, y) for x, y in zip(a.episodes(), b.episodes(), strict=True))
    assert a.info == b.info and a.fingerprint == b.fingerprint


def test_a_round_trip_loses_nothing(random_data: RolloutDataset, tmp_path: Path) -> None:
    export_minari(random_data, "rooms/random-v0", author="somebody", description="noise")
    back = import_minari("rooms/random-v0", tmp_path / "back")
    assert_equal(open_dataset(back, "validation"), random_data)
    files = [sorted(p.name for p in data.glob("*.h5")) for data in (back, random_data.path)]
    assert files[0] == files[1]


def test_the_split_still_guards_what_was_imported(random_data: RolloutDataset, tmp_path: Path) -> None:
    back = import_minari(export_minari(random_data, "random-v0"), tmp_path / "back")
    with pytest.raises(DataError, match="must not be used for training"):
        open_dataset(back, "training")


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_recordings_of_the_real_engine_come_back_bit_for_bit(actions: str, tmp_path: Path) -> None:
    kwargs = {"task": "find", "actions": actions}
    recorded = collect(CollectConfig(out=tmp_path / "real", maps=2, steps=60, workers=1, env_kwargs=kwargs))
    exported = export_minari(recorded, "doom-rooms/real-v0")
    assert_equal(open_dataset(import_minari(exported, tmp_path / "back")), recorded)
    env = exported.recover_environment()
    assert isinstance(env.unwrapped, DoomRoomsEnv) and env.unwrapped.action_spec == recorded.action_spec


def test_minari_reads_each_step_with_the_action_that_was_taken_before_it(random_data: RolloutDataset) -> None:
    exported = export_minari(random_data, "random-v0", author="somebody")
    assert exported.total_episodes == 6 and exported.total_steps == random_data.num_frames - 6
    assert exported.storage.metadata["author"] == {"somebody"}
    for theirs, ours in zip(exported.iterate_episodes(), random_data.episodes(), strict=True):
        for before in range(len(ours) - 1):
            assert np.array_equal(theirs.observations[before], ours.frames[before])
            assert np.array_equal(theirs.observations[before + 1], ours.frames[before + 1])
            assert theirs.actions[before] == ours.actions[before + 1]
            assert theirs.rewards[before] == ours.rewards[before + 1]
        assert theirs.terminations[-1] == ours.terminated[-1] and theirs.truncations[-1] == ours.truncated[-1]
        assert np.array_equal(theirs.infos["pose"], ours.poses)
        assert theirs.observations[0] in exported.observation_space
        assert int(theirs.actions[0]) in exported.action_space


def test_a_part_of_an_export_is_imported_in_order_and_claims_no_completeness(
    random_data: RolloutDataset, tmp_path: Path
) -> None:
    exported = export_minari(random_data, "random-v0")
    shuffled = minari.split_dataset(exported, sizes=[4], seed=1)[0]
    chosen = sorted(shuffled.episode_indices)
    assert list(shuffled.episode_indices) != chosen
    part = open_dataset(import_minari(shuffled, tmp_path / "part"), "validation")
    assert part.info == replace(random_data.info, maps=None)
    assert all(same(a, random_data.episode(i)) for a, i in zip(part.episodes(), chosen, strict=True))


def record_with_minari(dataset_id: str, jpeg_encoding: bool) -> tuple[Any, list[tuple[Any, ...]]]:
    """Two real episodes through Minari's own recorder, and what was seen meanwhile."""
    pytest.importorskip("jax", reason="Minari's recorder needs jax: pip install 'minari[create]'")
    env = minari.DataCollector(
        gym.make("worldloop/DoomRooms-v0", task="find", max_steps=6), record_infos=True, jpeg_encoding=jpeg_encoding
    )
    seen: list[tuple[Any, ...]] = []
    for seed in range(2):
        frame, info = env.reset(seed=seed)
        seen.append((frame, 0, 0.0, info))
        for action in (1, 5, 1, 6, 1, 1):
            frame, reward, _, _, info = env.step(action)
            seen.append((frame, action, reward, info))
    dataset = env.create_dataset(dataset_id)
    env.close()
    return dataset, seen


@pytest.mark.filterwarnings("ignore:.*is set to None.*:UserWarning")
def test_what_minari_recorded_itself_is_imported_row_for_row(tmp_path: Path) -> None:
    recorded, seen = record_with_minari("elsewhere-v0", jpeg_encoding=False)
    spec = DoomRoomsEnv().action_spec
    imported = open_dataset(import_minari(recorded, tmp_path / "out", action_spec=spec, policy="fixed"))
    assert len(imported) == 2 and imported.num_frames == 14 and imported.info.env_kwargs["task"] == "find"
    rows = [
        (e.frames[t], e.actions[t], e.rewards[t], e.poses[t], e.map_seed, e.collided[t], e.policy)
        for e in imported.episodes()
        for t in range(len(e))
    ]
    for row, (frame, action, reward, info) in zip(rows, seen, strict=True):
        assert np.array_equal(row[0], frame) and row[1] == action and row[2] == np.float32(reward)
        assert np.array_equal(row[3], info["pose"]) and row[4:] == (info["map_seed"], info["collided"], "fixed")
    assert all(e.truncated[-1] and not e.terminated.any() for e in imported.episodes())


@pytest.mark.filterwarnings("ignore:.*is set to None.*:UserWarning")
def test_lossy_frames_are_imported_with_a_warning(tmp_path: Path) -> None:
    recorded, _ = record_with_minari("lossy-v0", jpeg_encoding=True)
    with pytest.warns(UserWarning, match="JPEG"):
        import_minari(recorded, tmp_path / "out", action_spec=DoomRoomsEnv().action_spec)


def foreign(dataset_id: str, t: int = 4, **changes: Any) -> Any:
    """A data set of one episode that worldloop did not export; ``changes`` replace columns, None drops an info."""
    columns = {
        "observations": np.zeros((t, 12, 16, 3), np.uint8),
        "actions": np.ones(t - 1, np.int64),
        "pose": np.zeros((t, 5)),
        "map_seed": np.full(t, 7),
    } | changes
    frames = columns["observations"]
    buffer = minari.data_collector.EpisodeBuffer(
        observations=frames,
        actions=columns["actions"],
        rewards=np.zeros(t - 1),
        terminations=np.zeros(t - 1, bool),
        truncations=np.zeros(t - 1, bool),
        infos={name: columns[name] for name in ("pose", "map_seed") if columns[name] is not None},
    )
    high = 255 if frames.dtype == np.uint8 else 1.0
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffer=[buffer],
        observation_space=gym.spaces.Box(0, high, frames.shape[1:], frames.dtype),
        action_space=gym.spaces.Discrete(9),
        jpeg_encoding=False,
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((4, 12, 16), np.uint8)}, "uint8 frames"),
        ({"observations": np.zeros((4, 12, 16, 3), np.float32)}, "uint8 frames"),
        ({"pose": None}, "infos\\['pose'\\]"),
        ({"pose": np.zeros((4, 3))}, "infos\\['pose'\\]"),
        ({"pose": np.full((4, 5), np.nan)}, "finite"),
        ({"map_seed": None}, "map_seed="),
        ({"map_seed": np.arange(4)}, "one map"),
        ({"map_seed": np.full(4, -1)}, "map seed"),
        ({"actions": np.full(3, 8)}, "action space"),
    ],
)
def test_what_cannot_be_imported_is_one_clear_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        import_minari(foreign("odd-v0", **changes), tmp_path / "out", action_spec=SPECS["discrete"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_only_the_user_knows_is_asked_for(tmp_path: Path) -> None:
    recorded = foreign("odd-v0", map_seed=None)
    with pytest.raises(DataError, match="action_spec="):
        import_minari(recorded, tmp_path / "out")
    path = import_minari(recorded, tmp_path / "out", action_spec=SPECS["discrete"], map_seed=200_001)
    assert open_dataset(path, "report").split == "test"


def test_bad_ids_and_taken_places_are_refused(random_data: RolloutDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Minari data set"):
        import_minari("nothing-v0", tmp_path / "out")
    for malformed in ("no version", "noversion", "bad/../id-v0"):
        with pytest.raises(DataError, match="takes no new"):
            export_minari(random_data, malformed)
    exported = export_minari(random_data, "random-v0")
    with pytest.raises(DataError, match="already exists"):
        export_minari(random_data, "random-v0")
    with pytest.raises(DataError, match="says itself"):
        import_minari(exported, tmp_path / "out", map_seed=3)
    write_dataset(tmp_path / "other", [[3]])
    with pytest.raises(DataError, match="another data set"):
        import_minari(exported, tmp_path / "other")


def test_an_episode_without_a_step_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "short", [[4, 1]])
    with pytest.raises(DataError, match="single frame"):
        export_minari(open_dataset(tmp_path / "short"), "short-v0")
    assert minari.list_local_datasets() == {}


def test_an_export_that_fails_leaves_nothing(random_data: RolloutDataset) -> None:
    (random_data.path / "map-100003.h5").unlink()
    with pytest.raises(WorldloopError):
        export_minari(random_data, "random-v0")
    assert minari.list_local_datasets() == {}


def test_the_description_is_readable_without_worldloop(random_data: RolloutDataset) -> None:
    exported = export_minari(random_data, "random-v0")
    text = json.loads((Path(exported.storage.data_path) / "metadata.json").read_text())["worldloop"]
    assert json.loads(text)["split"] == "validation"


def test_a_one_step_episode_keeps_its_reset_row(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny", [[2]])
    back = open_dataset(import_minari(export_minari(open_dataset(tmp_path / "tiny"), "tiny-v0"), tmp_path / "back"))
    assert same(back.episode(0), random_episode(2))


def test_without_minari_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['minari'] = None\n"
        "from worldloop.rollouts.minari import import_minari\n"
        "import_minari('x-v0', 'out')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in result.stderr and "pip install 'minari[hdf5]'" in result.stderr


def test_the_command_line_takes_data_there_and_back(
    random_data: RolloutDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldloop import cli

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["worldloop", "minari", *map(str, words)])
        cli.main()

    run("export", "--data", random_data.path, "--id", "rooms/typed-v0")
    run("import", "--id", "rooms/typed-v0", "--out", tmp_path / "typed")
    assert_equal(open_dataset(tmp_path / "typed", "validation"), random_data)
    for words in (
        ("export", "--data", random_data.path, "--id", "rooms/typed-v0"),
        ("import", "--id", "rooms/none-v0", "--out", tmp_path / "none"),
        ("import", "--id", "rooms/typed-v0", "--out", tmp_path / "other", "--env", "Nowhere-v0"),
    ):
        with pytest.raises(SystemExit):
            run(*words)
        assert capsys.readouterr().err.count("error:") == 1
