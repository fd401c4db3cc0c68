"""Metrics against the obvious computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldloop.evaluation.metrics import (
    PSNR_CEILING,
    bootstrap,
    bootstrap_curve,
    changed,
    psnr,
    ssim,
    wilson,
)


def frames(seed: int, *lead: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*lead, 48, 64, 3), dtype=np.uint8)


def test_psnr_is_the_formula_per_frame() -> None:
    a, b = frames(0, 2, 3), frames(1, 2, 3)
    got = psnr(a, b)
    assert got.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            mse = np.mean((a[i, j].astype(float) - b[i, j].astype(float)) ** 2)
            assert got[i, j] == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-4)


def test_psnr_does_not_read_its_range_from_the_frames() -> None:
    dark = np.zeros((1, 48, 64, 3), np.uint8)
    assert psnr(dark + np.uint8(2), dark)[0] == pytest.approx(10 * math.log10(255**2 / 4), abs=1e-4)


def test_identical_frames_score_the_ceiling() -> None:
    a = frames(0, 3)
    assert (psnr(a, a) == PSNR_CEILING).all()
    assert ssim(a, a) == pytest.approx(np.ones(3), abs=1e-5)


def test_ssim_is_wangs_formula_in_the_flat_case() -> None:
    # Constant pictures have no variance: only the luminance term (2ab + c1) / (a^2 + b^2 + c1) is left.
    a, b, c1 = 100.0, 140.0, (0.01 * 255) ** 2
    first, second = (np.full((1, 48, 64, 3), v, np.uint8) for v in (a, b))
    assert ssim(first, second)[0] == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-3)


def test_ssim_of_a_frame_does_not_depend_on_its_neighbours() -> None:
    a, b = frames(0, 4), frames(1, 4)
    b[0] = a[0]
    assert ssim(a, b)[1:] == pytest.approx(ssim(a[1:], b[1:]), abs=1e-6)


def test_changed_means_more_than_one_grey_level_on_average() -> None:
    last = np.full((3, 48, 64, 3), 100, np.uint8)
    true = last.copy()
    true[1] += 1
    true[2] += 1
    true[2, 0, 0, 0] += 1
    assert changed(last, true).tolist() == [False, False, True]


@pytest.mark.parametrize("bad", [np.zeros((2, 48, 64, 3), np.float32), np.zeros((1, 48, 64, 3), np.uint8)])
def test_frames_of_another_type_or_shape_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 frames"):
        psnr(bad, np.zeros((2, 48, 64, 3), np.uint8))


def test_wilson_matches_the_score_equation() -> None:
    # Wilson's ends are the rates p at which (rate - p)^2 = z^2 p (1 - p) / n.
    got = wilson(7, 20)
    for p in (got.low, got.high):
        assert (0.35 - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / 20, rel=1e-4)
    assert wilson(0, 10).low == pytest.approx(0) and wilson(0, 10).high > 0.2


def test_bootstrap_resamples_whole_clusters() -> None:
    # Ten copies of five numbers: as frames the interval would be narrow, as clusters it is that of five.
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    once = bootstrap(values, np.arange(5), seed=3)
    tenfold = bootstrap(np.tile(values, 10), np.tile(np.arange(5), 10), seed=3)
    assert (once.low, once.high) == pytest.approx((tenfold.low, tenfold.high))
    assert once.estimate == pytest.approx(2.0) and tenfold.n == 50


def test_bootstrap_agrees_with_a_loop_and_repeats() -> None:
    rng = np.random.default_rng(1)
    values, maps = rng.normal(size=60), rng.integers(0, 9, 60)
    got = bootstrap(values, maps, seed=5, resamples=4000)
    means = []
    labels = np.unique(maps)
    for _ in range(4000):
        drawn = np.concatenate([values[maps == m] for m in rng.choice(labels, len(labels))])
        means.append(drawn.mean())
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.03)
    assert got == bootstrap(values, maps, seed=5, resamples=4000)


def test_missing_observations_are_left_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    curve = bootstrap_curve(values, [0, 1, 2])
    assert curve.mean[0] == 2.0 and math.isnan(curve.mean[1]) and math.isnan(curve.low[1])


def test_one_cluster_has_no_interval() -> None:
    got = bootstrap([1.0, 2.0], [7, 7])
    assert got.estimate == 1.5 and math.isnan(got.low)
