"""`worldloop VERB` as its users run it, for tests of worlds that are recorded, trained on and imagined."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from patience import wait_until

from worldloop import cli, load_world
from worldloop.envs.imagined import ImaginedEnv
from worldloop.rollouts.store import RolloutDataset, open_dataset

FEW_STEPS = ("--autoencoder.steps", "4", "--autoencoder.batch-size", "2", "--heads.steps", "2",
             "--heads.batch-size", "2", "--dynamics.steps", "4", "--dynamics.batch-size", "2",
             "--state.steps", "2", "--state.batch-size", "2")  # fmt: skip
FEW_ROUNDS = ("--collect.first-maps", "3", "--collect.maps", "2", "--collect.steps", "40",
              "--collect.goal-fraction", "1", "--collect.acting", "0.13", "--collect.search", "0",
              "--collect.env-kwargs", "task=find", "level=near",
              *(f"{word.replace('--', '--first.')}" if word.startswith("--") else word for word in FEW_STEPS),
              *(f"{word.replace('--', '--further.')}" if word.startswith("--") else word for word in FEW_STEPS[4:]),
              "--agent.imagined-steps", "32", "--agent.time-limit", "4", "--agent.starts", "4",
              "--agent.sb3.envs", "2", "--agent.sb3.rollout", "4", "--agent.sb3.batch-size", "4",
              "--agent.sb3.checkpoint-every", "8", "--agent.denoising-steps", "2",
              "--agent.no-rewarded", "--agent.samples", "16", "--agent.cloning.steps", "4",
              "--checkpoint-every", "1", "--transfer.tasks", "find-near",
              "--transfer.episodes", "4", "--transfer.envs", "2", "--transfer.max-steps", "6")  # fmt: skip
HERE = Path(__file__).parent


def worldloop(*words: object) -> None:
    """Run a command in this process; anything but success is an error."""
    with mock.patch.object(sys, "argv", ["worldloop", *map(str, words)]):
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, f"worldloop {' '.join(map(str, words))} ended with status {end.code}"


def collected(data: Path, maps: int, steps: int, *words: object) -> RolloutDataset:
    """What `worldloop collect` has recorded in ``data``: all of it."""
    worldloop("collect", "--out", data, "--maps", maps, "--steps", steps, "--workers", 1, *words)
    dataset = open_dataset(data)
    # Where an episode ends one frame before its map is full, that frame is not recorded.
    assert maps * (steps - 1) <= dataset.num_frames <= maps * steps
    assert len(np.unique(dataset.map_seeds)) == maps
    return dataset


def collected_after_a_kill(data: Path, maps: int, steps: int, *words: object) -> RolloutDataset:
    """The same, where the command is killed after its first map and given once more."""
    command = ("collect", "--out", data, "--maps", maps, "--steps", steps, "--workers", 1, *words)
    # The worker learns of its parent's death by itself, as users' workers must.
    with subprocess.Popen(
        [sys.executable, "-m", "worldloop.cli", *map(str, command)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        stderr=subprocess.PIPE,
        text=True,
    ) as killed:
        wait_until(lambda: list(data.glob("map-*.h5")), killed)
        killed.kill()
    with pytest.warns(UserWarning, match=f"of {maps} maps"):
        before = open_dataset(data)
    assert 1 <= len(np.unique(before.map_seeds)) < maps
    kept = {path: path.read_bytes() for path in data.glob("map-*.h5")}
    dataset = collected(data, maps, steps, *words)
    assert all(path.read_bytes() == content for path, content in kept.items())
    return dataset


def train_and_imagine(dataset: RolloutDataset, data: Path, out: Path) -> Path:
    """The directory of what `worldloop train` makes of ``data`` in a few steps, after `worldloop imagine` in it.

    The world knows the actions of the data by their names, and the environment that imagines it returns their poses.
    """
    worldloop("train", "--data", data, "--out", out / "run", "--device", "cpu", *FEW_STEPS)
    directory = out / "run" / "world"
    spec = load_world(directory).actions
    assert spec == dataset.action_spec
    named = [] if spec.kind == "box" else ["--actions", " ".join(f"{name}*2" for name in spec.names)]
    worldloop("imagine", "--world", directory, "--out", out / "film", "--steps", 3, *named)
    assert (out / "film" / "imagined.mp4").stat().st_size > 0
    env = ImaginedEnv(directory)
    frame, info = env.reset(seed=0)
    assert frame.shape == (*dataset.frame_size, 3)
    starts = [episode.poses for episode in dataset.episodes()]
    assert min(np.abs(poses - info["pose"]).sum(1).min() for poses in starts) < 1e-9
    return directory
