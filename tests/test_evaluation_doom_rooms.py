"""Evaluation in the real engine, with a world that has learned nothing: everything fits together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import worldloop
from worldloop.benchmarks.imagination import MODES, ImaginationBenchmark, run
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.explorers import WaypointExplorer
from worldloop.evaluation import CompareConfig, PlanConfig, compare, run_control
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.world_models.config import preset
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("untrained")
    save_world(WorldModel(preset("tiny", DoomRoomsEnv().action_spec)), directory, {})
    return directory


def test_a_world_that_knows_nothing_is_worse_than_copying(untrained: Path, tmp_path: Path) -> None:
    world = worldloop.load_world(untrained)
    report = compare(world, CompareConfig(maps=3, context=4, horizon=4, pictures=0), tmp_path)
    assert report.rollout.gain.high < 0 and report.provenance["world"] == untrained.name


def test_a_pose_can_be_planned_for_without_having_learned_anything(untrained: Path, tmp_path: Path) -> None:
    # Why the default goal is a picture: what the keys mean is enough to reach a pose on free ground.
    config = PlanConfig(
        goal="pose", episodes=2, context=4, candidates=16, horizon=6, batch=2, pictures=1, random_repeats=1
    )
    report = run_control(worldloop.load_world(untrained), config, tmp_path)
    assert report.planner.success.estimate == 1
    assert (tmp_path / "episode-0-map.png").exists()


def test_goals_in_real_rooms_are_seen_from_their_poses() -> None:
    env = DoomRoomsEnv(split="validation", max_steps=10_000)
    spec = env.action_spec
    tasks = sample_goals(env, WaypointExplorer(), spec, range(100_000, 100_006), context=4)
    for task in tasks:
        task.begin(env)
        assert (env.render_at(task.goal_pose) == task.goal_frame).all()
        assert np.allclose(env.pose, task.poses[-1])
        for action in task.route:
            frame, *_ = env.step(action)
        assert (frame == task.goal_frame).all()
    env.close()


def test_the_benchmark_tells_every_figure(untrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    config = ImaginationBenchmark(
        world=str(untrained), batches=(1, 2), repeats=2, seconds=0.05, cold_starts=1, out=out
    )
    told: list[str] = []
    run(config, report=told.append)
    data = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert set(data["steps_per_second"]) == {"1", "2"}
    row = data["steps_per_second"]["2"]
    assert {"frames", "latents", "next_step", "same_step", "by_hand", "bare_frames", "bare_latents"} <= set(row)
    assert {f"resets_{mode}" for mode in MODES} <= set(row)
    states = worldloop.load_world(str(untrained)).state_size > 0
    assert states == ("states" in row) == ("overhead_states" in row) != any("no state space" in line for line in told)
    assert all(row[name]["low"] <= row[name]["median"] <= row[name]["high"] for name in row)
    assert 0 < data["cold_start"]["first_frame_s"] < data["cold_start"]["process_s"]
    assert data["peak_mb"] > 100
