"""Calibration: uncertainty that is right scores as such, and uncertainty that says nothing scores as nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_world import ToyArena, ToyEnv, ToyWorld

from worldloop.envs.steering import Point
from worldloop.errors import ConfigError
from worldloop.evaluation.calibration import CalibrationConfig, _threshold, calibration, spearman


class OpenSquare:
    """A layout without walls."""

    goal = (300.0, 300.0)
    room_size = 400

    def random_position(self, rng: np.random.Generator, room: int | None = None) -> Point:
        x, y = rng.uniform(40, 360, 2)
        return float(x), float(y)

    def route(self, start: Point, end: Point) -> list[Point]:
        return [end]

    def room_of(self, x: float, y: float) -> int:
        return 0


class WalkedToy(ToyEnv):
    layout = OpenSquare()

    def __init__(self) -> None:
        super().__init__(ToyArena(goal=(-1000.0, -1000.0)))
        self.action_spec = self.arena.actions


class Doubtful(ToyWorld):
    """Imagines exactly, but blackens the picture now and then; ``honest``: and says so."""

    def __init__(self, honest: bool) -> None:
        super().__init__(ToyArena(goal=(-1000.0, -1000.0)))
        self.honest = honest

    def imagine(self, state, actions, pose=None):
        after, step = super().imagine(state, actions, pose)
        wrong = (state.seeds * 7 + state.step) % 3 == 0
        latents = torch.where(wrong.view(-1, 1, 1, 1), torch.zeros_like(step.latents), step.latents)
        says = wrong if self.honest else (state.seeds + state.step) % 2 == 0
        return after, replace(step, latents=latents, uncertainty=says.to(torch.float32))


SMALL = CalibrationConfig(maps=8, context=3, horizon=12, bins=2, good=55.0)


def test_honest_doubt_is_told_from_empty_words(tmp_path):
    honest = calibration(Doubtful(True), SMALL, tmp_path / "honest", make_env=WalkedToy)
    (says, spread) = honest.kinds
    assert (says.kind, spread.kind) == ("denoising", "disagreement")
    assert says.bad_found.estimate == 1.0 and says.correlation.estimate < -0.8
    assert says.threshold.value == 0.0
    assert says.threshold.psnr_kept.estimate == 60 > 50 > says.threshold.psnr_dropped.estimate
    empty = calibration(Doubtful(False), SMALL, tmp_path / "empty", make_env=WalkedToy).kinds[0]
    assert abs(empty.bad_found.estimate - 0.5) < 0.15 and abs(empty.correlation.estimate) < 0.3
    # Noise seeds say how wrong the batch is here, not which frame: nothing.
    assert 0.0 <= spread.bad_found.estimate <= 1.0
    written = json.loads((tmp_path / "honest" / "calibration.json").read_text())
    assert written["kinds"][0]["bad_found"]["estimate"] == 1.0
    assert (tmp_path / "honest" / "calibration.png").stat().st_size > 5000
    assert "rank correlation" in str(honest)


def test_rank_correlation_of_columns_with_ties_is_that_of_their_mean_ranks():
    a, b = np.array([1.0, 2.0, 2.0, 5.0]), np.array([3.0, 1.0, 4.0, 9.0])
    expected = np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 3, 4])[0, 1]
    assert spearman(a, b) == pytest.approx(expected)
    assert spearman(a, -a) == pytest.approx(-1.0)


def test_the_threshold_is_the_largest_that_keeps_frames_good_and_ends_an_episode_for_good():
    config = replace(SMALL, good=20.0)
    # Rows 0 and 2 choose: kept up to 0.2 the mean is (30 + 30 + 6) / 3 = 22; up to 0.5 it falls below 20.
    doubt = np.array([[0.1, 0.2, 0.5], [0.1, 0.9, 0.1], [0.2, 0.6, 0.1], [0.2, 0.2, 0.3]])
    quality = np.array([[30.0, 6.0, 3.0], [25.0, 5.0, 25.0], [30.0, 3.0, 10.0], [20.0, 22.0, 4.0]])
    found = _threshold(doubt, quality, np.arange(4), config)
    assert found.value == 0.2
    # The second row's last frame is sure, but comes after one that is not.
    assert found.kept.estimate == pytest.approx(3 / 6)
    assert found.psnr_kept.estimate == pytest.approx((25 + 20 + 22) / 3)
    assert found.psnr_dropped.estimate == pytest.approx((5 + 25 + 4) / 3)
    assert _threshold(doubt, quality, np.arange(4), replace(config, good=50.0)) is None


@pytest.mark.parametrize("bad", [{"maps": 3}, {"samples": 1}, {"bins": 1}, {"horizon": 0}, {"split": "train"}])
def test_settings_that_measure_nothing_are_refused(bad):
    with pytest.raises(ConfigError):
        CalibrationConfig(**bad)
