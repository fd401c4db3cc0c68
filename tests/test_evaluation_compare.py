"""`compare` on an exact world, where the answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from toy_world import ToyArena, ToyEnv, ToyWorld

from worldloop.envs.explorers import FunctionPolicy
from worldloop.errors import ConfigError
from worldloop.evaluation.clips import record_clips
from worldloop.evaluation.comparison import CompareConfig
from worldloop.evaluation.imagined_vs_real import compare, imagine_clips
from worldloop.evaluation.metrics import PSNR_CEILING, psnr

ARENA = ToyArena(goal=(-1e6, 0.0))
CONFIG = CompareConfig(maps=5, context=3, horizon=6, pictures=1, seed=4)


WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")


@pytest.fixture
def env() -> ToyEnv:
    return ToyEnv(ARENA)


def test_an_exact_world_is_perfect(env: ToyEnv, tmp_path: Path) -> None:
    report = compare(ToyWorld(ARENA), CONFIG, tmp_path, make_env=lambda: env, explorer=WALKER)
    assert report.psnr.imagined.mean == (PSNR_CEILING,) * 6
    assert report.next_frame.imagined.estimate == PSNR_CEILING
    assert max(report.distance.mean) < 0.02 and max(report.heading.mean) < 0.01
    assert report.rollout.gain.low > 0


def test_baselines_are_what_they_say(env: ToyEnv, tmp_path: Path) -> None:
    report = compare(ToyWorld(ARENA), CONFIG, tmp_path, make_env=lambda: env, explorer=WALKER)
    maps = np.random.default_rng(4).choice(np.arange(100_000, 200_000), 5, replace=False)
    clips = record_clips(env, WALKER, maps.tolist(), 9, seed=4)
    copy = [psnr(clips.frames[:, 2], clips.frames[:, 3 + h]).mean() for h in range(6)]
    assert report.psnr.copying.mean == pytest.approx(copy)
    mean = np.round(clips.frames[:, :3].reshape(-1, 36, 48, 3).mean(0)).astype(np.uint8)
    flat = [np.mean([psnr(mean, clips.frames[i, 3 + h]) for i in range(5)]) for h in range(6)]
    assert report.psnr.mean_frame.mean == pytest.approx(flat)
    moved = [
        (i, t) for i in range(5) for t in range(3, 9) if (clips.frames[i, t] != clips.frames[i, t - 1]).any()
    ]
    copied = np.mean([psnr(clips.frames[i, t - 1], clips.frames[i, t]) for i, t in moved])
    assert report.next_frame.copying.estimate == pytest.approx(copied)
    assert report.next_frame.imagined.n == len(moved) < 30


class Drifting(ToyWorld):
    """Forgets turns: wrong, but only where the true walk turned."""

    def imagine(self, state: Any, actions: Any, pose: Any = None) -> Any:
        actions = torch.as_tensor(actions).clone()
        actions[actions > 4] = 0
        return super().imagine(state, actions, pose)


def test_a_wrong_world_scores_worse_and_drifts(env: ToyEnv, tmp_path: Path) -> None:
    report = compare(Drifting(ARENA), CONFIG, tmp_path, make_env=lambda: env, explorer=WALKER)
    assert report.psnr.imagined.mean[-1] < PSNR_CEILING - 10
    assert report.heading.mean[-1] > report.heading.mean[0]
    truth = compare(
        Drifting(ARENA), replace(CONFIG, poses="true"), tmp_path, make_env=lambda: env, explorer=WALKER
    )
    assert max(truth.distance.mean) == 0 and truth.psnr.imagined.mean[-1] == PSNR_CEILING


def test_batch_size_changes_no_frame(env: ToyEnv) -> None:
    clips = record_clips(env, WALKER, [100_001, 100_002, 100_003], 9)
    world = ToyWorld(ARENA, noise=3.0)
    together = imagine_clips(world, clips, CONFIG)
    alone = imagine_clips(world, clips, replace(CONFIG, batch=1))
    assert (together.frames == alone.frames).all() and (together.next_frames == alone.next_frames).all()


def test_clips_hold_the_action_that_led_to_each_frame(env: ToyEnv) -> None:
    clips = record_clips(env, WALKER, [100_001], 8)
    pose = torch.as_tensor(clips.poses[0])
    arrived = ARENA.arrive(pose[:-1], torch.as_tensor(clips.actions[0, 1:]))
    assert torch.allclose(arrived, pose[1:])


def test_the_report_is_json_with_its_pictures_beside_it(env: ToyEnv, tmp_path: Path) -> None:
    report = compare(ToyWorld(ARENA), CONFIG, tmp_path, make_env=lambda: env, explorer=WALKER)
    data = json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail)
    assert data["config"]["horizon"] == 6 and len(data["psnr"]["imagined"]["mean"]) == 6
    assert set(data["files"]) == {"horizon.png", "clip-0.mp4", "clip-0.gif", "strip-0.png"}
    assert {p.name for p in tmp_path.iterdir()} == {*report.files, "compare.json"}
    assert len(iio.imread(tmp_path / "clip-0.mp4", plugin="pyav")) == 6


def test_a_seed_repeats_the_report(env: ToyEnv, tmp_path: Path) -> None:
    first, second = (
        compare(ToyWorld(ARENA, noise=3.0), CONFIG, tmp_path / n, make_env=lambda: env, explorer=WALKER)
        for n in "ab"
    )
    assert replace(first, provenance={}) == replace(second, provenance={})


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="draws frames"):
        compare(
            ToyWorld(ARENA),
            CONFIG,
            tmp_path,
            make_env=lambda: ToyEnv(ToyArena(frame_size=(40, 40))),
            explorer=WALKER,
        )
    with pytest.raises(ConfigError, match="ended after 4 frames, but 9"):
        compare(
            ToyWorld(ARENA),
            CONFIG,
            tmp_path,
            make_env=lambda: ToyEnv(ARENA, max_episode_steps=3),
            explorer=WALKER,
        )
    with pytest.raises(ConfigError, match="not on 'train'"):
        CompareConfig(split="train")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="horizon must be at least 1"):
        CompareConfig(horizon=0)
