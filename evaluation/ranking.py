"""Does one number tell large errors from small ones? Rank statistics, and thresholds that end an episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from .metrics import FloatArray, Interval


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation of two columns (N,); NaN where one of them does not vary."""
    ranks = rankdata(a), rankdata(b)
    if min(r.std() for r in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def within_walks(doubt: FloatArray, error: FloatArray) -> FloatArray:
    """Rank correlation (N,) of ``doubt`` and ``error`` (N, H) along each walk.

    A doubt that does not vary along a walk says nothing there: 0.
    """
    return np.array([np.nan_to_num(spearman(d, e)) for d, e in zip(doubt, error, strict=True)])


def auroc(doubt: FloatArray, bad: NDArray[np.bool_]) -> float:
    """Probability that a bad frame is doubted more than a good one, ties counting half (Mann and Whitney).

    The area under the receiver operating characteristic; NaN where there are none of one kind.
    """
    flat, ranks = bad.ravel(), rankdata(doubt.ravel())
    n = int(flat.sum())
    if n in (0, len(flat)):
        return float("nan")
    return float((ranks[flat].sum() - n * (n + 1) / 2) / (n * (len(flat) - n)))


def over_maps(
    statistic: Callable[[NDArray[np.int64]], float], n: int, seed: int, resamples: int = 500
) -> Interval:
    """``statistic`` of row numbers 0 … n - 1, with a 95 % percentile bootstrap interval over rows."""
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    values = [statistic(rows) for rows in draws]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if np.isfinite(values).any() else (np.nan, np.nan)
    return Interval(statistic(np.arange(n)), float(low), float(high), n)


@dataclass(frozen=True)
class Kept:
    """What is left of walks that end at their first frame doubted more than a threshold.

    Attributes:
        kept: share of the frames.
        good: share of good ones among those.
        found: share of all good frames that is kept.
    """

    kept: float
    good: float
    found: float


def doubted_so_far(doubt: FloatArray) -> FloatArray:
    """(N, H) the greatest doubt up to each frame of each walk: an episode ends at its first unsure frame."""
    worst: FloatArray = np.maximum.accumulate(doubt, 1)
    return worst


def keep(doubt: FloatArray, good: NDArray[np.bool_], threshold: float) -> Kept:
    """What ``threshold`` leaves of walks with ``doubt`` and good frames (N, H)."""
    kept = doubted_so_far(doubt) <= threshold
    return Kept(
        float(kept.mean()),
        float(good[kept].mean()) if kept.any() else float("nan"),
        float(kept[good].mean()) if good.any() else float("nan"),
    )


def choose_threshold(doubt: FloatArray, good: NDArray[np.bool_], share: float) -> float | None:
    """The largest threshold that leaves frames of which at least ``share`` are good; None if there is none.

    Args:
        doubt: (N, H) of N walks.
        good: (N, H).
        share: in 0 … 1.
    """
    worst = doubted_so_far(doubt).ravel()
    order = np.argsort(worst, kind="stable")
    shares = np.cumsum(good.ravel()[order]) / np.arange(1, len(order) + 1)
    # A threshold takes in all frames that are as doubtful as it.
    possible = np.append(np.diff(worst[order]) > 0, True) & (shares >= share) & np.isfinite(worst[order])
    return float(worst[order][np.flatnonzero(possible)[-1]]) if possible.any() else None
