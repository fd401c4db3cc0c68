"""Recording the real engine: exact, repeatable, and clean after every kind of end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_process import Recording, needs_proc

from worldloop.envs.collecting import CollectConfig, collect
from worldloop.rollouts.store import open_dataset
from worldloop.world_models.pose import motion_between

pytestmark = pytest.mark.slow


def _config(out: Path, **changes: Any) -> CollectConfig:
    return CollectConfig(**{"out": out, "maps": 6, "steps": 120, "workers": 2} | changes)


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_free_steps_move_the_camera_exactly_as_their_action_says(tmp_path: Path, actions: str) -> None:
    kwargs = {"task": "find", "level": "far", "actions": actions}
    dataset = collect(_config(tmp_path, env_kwargs=kwargs))
    free_steps = 0
    for episode in dataset.episodes():
        poses = torch.from_numpy(episode.poses)
        moved = motion_between(poses[:-1], poses[1:]).numpy()
        nominal = dataset.action_spec.nominal_motion(torch.from_numpy(episode.actions[1:])).numpy()
        free = ~episode.collided[1:]
        assert np.abs(moved - nominal)[free].max(initial=0) < 1e-3
        assert np.array_equal(episode.terminated, episode.success)
        free_steps += int(free.sum())
    assert free_steps > 0.8 * dataset.num_frames


def test_what_is_recorded_does_not_depend_on_the_engines_history(tmp_path: Path) -> None:
    one = collect(_config(tmp_path / "one", workers=1))
    late = collect(_config(tmp_path / "late", workers=1, first_map=3, maps=3))
    for k in range(1, len(late) + 1):
        assert np.array_equal(one.episode(-k).frames, late.episode(-k).frames)
        assert np.array_equal(one.episode(-k).poses, late.episode(-k).poses)


@needs_proc
def test_a_killed_recording_is_completed_bit_for_bit_and_leaves_no_engine(tmp_path: Path) -> None:
    config = _config(tmp_path / "killed", maps=30, steps=250)
    recording = Recording(tmp_path, config)
    try:
        recording.wait_for_maps(3)
        recording.process.kill()
        recording.process.wait()
        recording.assert_all_gone()
    finally:
        recording.end()
    with pytest.warns(UserWarning, match="of 30 maps"):
        open_dataset(config.out).verify()
    resumed = collect(config)
    untouched = collect(_config(tmp_path / "untouched", maps=30, steps=250, workers=1))
    assert resumed.fingerprint == untouched.fingerprint
    assert list(Path("/dev/shm").glob("ViZDoom*")) == []
    assert sorted(p.suffix for p in config.out.iterdir()) == [".h5"] * 30 + [".json"]
