"""Calibration: uncertainty that is right scores as such, and uncertainty that says nothing scores as nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_world import KEYS, LATENT_SHAPE, ToyArena, ToyEnv, ToyWorld, toy_contexts

from worldloop import load_world
from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.steering import Point
from worldloop.envs.thresholds import write_thresholds
from worldloop.errors import ConfigError
from worldloop.evaluation.calibration import CalibrationConfig, Walks, _imagine, calibration, judge
from worldloop.evaluation.clips import Clips
from worldloop.evaluation.progress import silent
from worldloop.evaluation.ranking import auroc, choose_threshold, keep, spearman, within_walks
from worldloop.world_models.config import WorldConfig
from worldloop.world_models.perception.autoencoder import AutoencoderConfig
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel


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


SMALL = CalibrationConfig(maps=8, context=3, horizon=12, bins=2)


def test_honest_doubt_is_told_from_empty_words(tmp_path):
    report = calibration(Doubtful(True), SMALL, tmp_path / "honest", make_env=WalkedToy)
    says, spread, steps = report.kinds
    assert [kind.kind for kind in report.kinds] == ["denoising", "disagreement", "steps imagined"]
    assert says.wrong_found.estimate == 1.0 and says.correlation.estimate > 0.8 and says.within.estimate > 0.8
    # It doubts just the black frames, but an episode that goes on to its first one ends there.
    assert says.threshold.value == 0.0 and says.threshold.good.estimate == 1.0
    assert says.threshold.psnr_kept.estimate == 60 > 55 > says.threshold.psnr_dropped.estimate
    assert report.good.estimate == pytest.approx(2 / 3, abs=0.05)
    assert says.error.mean[0] < 1 < says.error.mean[-1]
    empty = calibration(Doubtful(False), SMALL, tmp_path / "empty", make_env=WalkedToy).kinds[0]
    assert abs(empty.wrong_found.estimate - 0.5) < 0.15 and abs(empty.correlation.estimate) < 0.3
    # Noise seeds say how wrong the batch is here, not which frame: nothing. Nor does time.
    assert 0.0 <= spread.wrong_found.estimate <= 1.0 and abs(steps.wrong_found.estimate - 0.5) < 0.15
    written = json.loads((tmp_path / "honest" / "calibration.json").read_text())
    assert written["kinds"][0]["wrong_found"]["estimate"] == 1.0
    assert (tmp_path / "honest" / "calibration.png").stat().st_size > 5000
    assert "rank correlation" in str(report)


def test_the_error_is_in_units_of_the_walks_variance_so_that_the_mean_frame_has_one():
    """A world that always shows the mean of a walk's latents has error 1 on average over the walk."""
    clips = Clips(
        np.zeros((2, 9, 4, 4, 3), np.uint8), np.zeros((2, 9), np.int64), np.zeros((2, 9, 5)), np.arange(2), np.arange(2)
    )
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.normal(size=(2, 9, *LATENT_SHAPE)) * np.array([1.0, 20.0]).reshape(2, 1, 1, 1, 1))
    frame = iter(range(9))

    class Mean(ToyWorld):
        def encode(self, frames):
            return true[:, next(frame)]

        def observe(self, state, frames, actions, poses):
            return state

        def imagine(self, state, actions, pose=None):
            after, step = super().imagine(state, actions, pose)
            return after, replace(step, latents=true.mean(1).repeat_interleave(state.batch_size // 2, 0))

        def render(self, latents):
            return torch.zeros(2, 4, 4, 3, dtype=torch.uint8)

    walks = _imagine(Mean(), clips, np.arange(2), replace(SMALL, context=1, horizon=8), silent)
    away = ((true - true.mean(1, keepdim=True)) ** 2).mean((2, 3, 4)).numpy()
    assert np.allclose(walks.error, away[:, 1:] / away.mean(1, keepdims=True))
    assert np.allclose(np.c_[away[:, :1] / away.mean(1, keepdims=True), walks.error].mean(1), 1)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_statistics_are_those_counted_by_hand(ties):
    rng = np.random.default_rng(1)
    doubt, error = rng.normal(size=(4, 30)), rng.normal(size=(4, 30))
    error += doubt
    if ties:
        doubt, error = np.round(doubt), np.round(error)
    bad = error > 0.5
    pairs = [(a > b) + 0.5 * (a == b) for a in doubt[bad] for b in doubt[~bad]]
    assert auroc(doubt, bad) == pytest.approx(np.mean(pairs))

    def ranks(values):
        return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])

    def slow(a, b):
        a, b = ranks(a) - (len(a) + 1) / 2, ranks(b) - (len(b) + 1) / 2
        return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())

    assert spearman(doubt.ravel(), error.ravel()) == pytest.approx(slow(doubt.ravel(), error.ravel()))
    along = [slow(d, e) for d, e in zip(doubt, error, strict=True)]
    assert within_walks(doubt, error) == pytest.approx(along)
    assert np.isnan(auroc(doubt, bad & False)) and np.isnan(spearman(np.zeros(5), np.arange(5.0)))
    constant = doubt.copy()
    constant[0] = 3
    assert within_walks(constant, error) == pytest.approx([0, *along[1:]])


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_threshold_is_the_largest_that_leaves_so_many_good_frames(share):
    rng = np.random.default_rng(2)
    doubt = np.round(rng.random((6, 10)), 1)
    good = rng.random((6, 10)) > doubt / 1.2

    def left(threshold):
        """Frames before an episode's first doubted one, one after the other."""
        kept = []
        for d, g in zip(doubt, good, strict=True):
            for one, fine in zip(d, g, strict=True):
                if one > threshold:
                    break
                kept.append(fine)
        return kept

    fitting = [t for t in np.unique(doubt) if left(t) and np.mean(left(t)) >= share]
    found = choose_threshold(doubt, good, share)
    assert found == (max(fitting) if fitting else None)
    for threshold in np.unique(doubt):
        kept, told = left(threshold), keep(doubt, good, threshold)
        assert told.kept == pytest.approx(len(kept) / 60) and told.found == pytest.approx(np.sum(kept) / good.sum())
        assert told.good == pytest.approx(np.mean(kept), nan_ok=True) if kept else np.isnan(told.good)


def test_the_threshold_is_chosen_on_even_rows_and_judged_on_odd_ones():
    rng = np.random.default_rng(3)
    doubt, error = rng.random((8, 5)), rng.random((8, 5)) * 2
    walks = Walks(np.arange(8), error, rng.random((8, 5)), rng.random(8), {"a": doubt})
    config = replace(SMALL, share=0.55)
    found = judge(walks, config, {}).kinds[0].threshold
    value = choose_threshold(doubt[::2], error[::2] < 1, 0.55)
    assert found.value == value
    assert found.good.estimate == pytest.approx(keep(doubt[1::2], error[1::2] < 1, value).good, nan_ok=True)
    assert found.kept.n == 4


def test_thresholds_are_kept_beside_a_world_and_found_by_its_environments(tmp_path):
    torch.manual_seed(0)
    cdit = CDiTConfig(1, 32, 2, context=(2, 1), retrieved=(1, 2))
    shape = WorldConfig((40, 48), KEYS, autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 8)), cdit=cdit)
    save_world(WorldModel(shape), tmp_path, {})
    starts = toy_contexts(ToyArena(frame_size=(40, 48)))

    def env(**settings):
        return ImaginedEnv(str(tmp_path), starts, max_uncertainty="calibrated", **settings)

    with pytest.raises(ConfigError, match="evaluate calibration --write"):
        env()
    world = load_world(tmp_path)
    write_thresholds(world, {"denoising": 0.25, "disagreement": 0.5}, 4, {})
    assert env().unwrapped.imagination.max_uncertainty == 0.25
    assert env(uncertainty="disagreement").unwrapped.imagination.max_uncertainty == 0.5
    with pytest.raises(ConfigError, match="4 samples, not with 3"):
        env(uncertainty="disagreement", uncertainty_samples=3)
    with pytest.raises(ConfigError, match="No threshold of 'coverage'"):
        env(uncertainty="coverage")
    with pytest.raises(ConfigError, match="another configuration"):
        env(overrides={"denoising_steps": 4})
    with pytest.raises(ConfigError, match="'calibrated', or None"):
        ImaginedEnv(str(tmp_path), starts, max_uncertainty="lax")
    with pytest.raises(ConfigError, match="several outcome heads"):
        ImaginedEnv(str(tmp_path), starts, uncertainty="ensemble")
    with pytest.raises(ConfigError, match="error head"):
        ImaginedEnv(str(tmp_path), starts, uncertainty="expected_error")
    save_world(WorldModel(shape), tmp_path, {})
    with pytest.raises(ConfigError, match="other parameters"):
        env()
    with pytest.raises(ConfigError, match="no"):
        write_thresholds(ToyWorld(), {}, 4, {})


@pytest.mark.parametrize(
    "bad",
    [{"maps": 3}, {"samples": 1}, {"bins": 1}, {"horizon": 1}, {"split": "train"}, {"share": 1.0}, {"good": 0.0},
     {"write": True, "split": "test"}],
)  # fmt: skip
def test_settings_that_measure_nothing_are_refused(bad):
    with pytest.raises(ConfigError):
        CalibrationConfig(**bad)


def test_only_thresholds_of_what_rises_with_error_and_leaves_something_are_worth_keeping():
    rng = np.random.default_rng(4)
    error = rng.random((40, 10)) * 2
    lucky = np.where(np.arange(40)[:, None] % 2, 2, 0) + error
    doubts = {"knows": error + 0.1 * rng.random((40, 10)), "guesses": rng.random((40, 10)), "elsewhere": lucky}
    walks = Walks(np.arange(40), error, rng.random((40, 10)), rng.random(40), doubts)
    knows, guesses, elsewhere = judge(walks, replace(SMALL, share=0.9), {}).kinds[:3]
    assert knows.usable and knows.threshold.kept.estimate > 0.01
    assert guesses.correlation.low < 0 and not guesses.usable
    # Chosen on even rows, where doubts are small, it leaves nothing of the odd ones.
    assert elsewhere.correlation.low > 0 and elsewhere.threshold.kept.estimate == 0 and not elsewhere.usable


def test_the_thresholds_that_come_with_a_bundled_world_are_of_its_present_parameters():
    env = ImaginedEnv("doom-rooms-nano", uncertainty="expected_error", max_uncertainty="calibrated")
    assert 0 < env.imagination.max_uncertainty < 2
