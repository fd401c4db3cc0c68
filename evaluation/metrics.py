"""How near an imagined frame is to the real one, and how sure we may be of an average.

Frames are uint8 (..., H, W, 3). Similarities are per frame, so that every average, curve and interval is made
from the same numbers. Frames of one map resemble each other, so intervals are over maps, never over frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

PSNR_CEILING = 60.0
"""Decibels given to identical frames, whose PSNR is infinite and would swallow every average."""

FloatArray = NDArray[np.float64]


def psnr(predicted: Any, true: Any) -> FloatArray:
    """Peak signal-to-noise ratio (...) in dB of each uint8 frame (..., H, W, 3) against its true frame.

    The data range is pinned at 255, not read from the frames; values are capped at `PSNR_CEILING`.

    Raises:
        ValueError: the two are not uint8 frames of the same shape.
    """
    a, b, lead = _pair(predicted, true)
    if not len(a):
        return np.empty(lead)
    decibels = peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return _shaped(decibels.reshape(-1).clamp(max=PSNR_CEILING), lead)


def ssim(predicted: Any, true: Any) -> FloatArray:
    """Structural similarity (...) of each uint8 frame (..., H, W, 3) against its true frame.

    Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, data range pinned at full brightness.

    Raises:
        ValueError: the two are not uint8 frames of the same shape, or are smaller than the window.
    """
    a, b, lead = _pair(predicted, true)
    if not len(a):
        return np.empty(lead)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs frames of at least 11 x 11 pixels, got {tuple(a.shape[-2:])}.")
    similarity = structural_similarity_index_measure(a / 255, b / 255, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return _shaped(similarity.reshape(-1), lead)


def changed(last: Any, true: Any) -> NDArray[np.bool_]:
    """Mask (...) of the frames ``true`` that differ from ``last`` by more than one grey level on average.

    Averaged over pixels and channels. ``last`` (..., H, W, 3) is the last real frame a prediction could have
    copied: where the mask is false, copying is (nearly) perfect and the frame says little about a world.
    """
    a, b, lead = _pair(last, true)
    mask: NDArray[np.bool_] = ((a - b).abs().mean((1, 2, 3)) > 1.0).numpy().reshape(lead)
    return mask


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: the mean, or the share of successes.
        low: lower end of the interval.
        high: upper end of the interval.
        n: observations behind it: frames, clips or episodes.
    """

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Curve:
    """A quantity against the horizon, one entry per imagined step 1 … H.

    Attributes:
        mean: H means.
        low: H lower ends of the interval.
        high: H upper ends of the interval.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def bootstrap(
    values: ArrayLike, clusters: ArrayLike, *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Mean of ``values`` (N,) with a percentile bootstrap interval that resamples whole clusters.

    Args:
        values: (N,) numbers; NaN marks a missing observation and is left out.
        clusters: (N,) labels, such as map seeds; observations with equal labels are drawn together.
        seed: of the resampling, so that a report repeats.
        level: coverage of the interval.
        resamples: bootstrap samples.

    Returns:
        The interval; all NaN when there is no observation, and as wide as NaN when there is only one cluster.
    """
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    curve = bootstrap_curve(column, clusters, seed=seed, level=level, resamples=resamples)
    return Interval(curve.mean[0], curve.low[0], curve.high[0], int((~np.isnan(column)).sum()))


def bootstrap_curve(
    values: ArrayLike, clusters: ArrayLike, *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Curve:
    """Column means of ``values`` (N, H) with pointwise intervals; see `bootstrap`.

    Every column is resampled with the same clusters, so curves of one seed can be compared point by point.

    Raises:
        ValueError: shapes that do not agree.
    """
    table = np.asarray(values, dtype=np.float64)
    labels = np.asarray(clusters)
    if table.ndim != 2 or labels.shape != table.shape[:1]:
        raise ValueError(f"Expected values (N, H) and clusters (N,), got {table.shape} and {labels.shape}.")
    _, member = np.unique(labels, return_inverse=True)
    groups = int(member.max()) + 1 if len(member) else 0
    present = ~np.isnan(table)
    sums, counts = np.zeros((groups, table.shape[1])), np.zeros((groups, table.shape[1]))
    np.add.at(sums, member, np.where(present, table, 0.0))
    np.add.at(counts, member, present)
    mean = _ratio(sums.sum(0), counts.sum(0))
    if groups < 2:
        unknown = (float("nan"),) * table.shape[1]
        return Curve(tuple(map(float, mean)), unknown, unknown)
    draws = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
    # How often each cluster was drawn turns resampling into one matrix product.
    times = np.stack([np.bincount(draw, minlength=groups) for draw in draws]).astype(np.float64)
    means = _ratio(times @ sums, times @ counts)
    tail = 50 * (1 - level)
    filled = np.where(np.isnan(means).all(0), 0.0, means)
    low, high = np.nanpercentile(filled, [tail, 100 - tail], axis=0)
    gone = np.isnan(mean)
    low, high = np.where(gone, np.nan, low), np.where(gone, np.nan, high)
    return Curve(*(tuple(map(float, row)) for row in (mean, low, high)))


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Success rate with Wilson's score interval, which stays within [0, 1] and holds for few episodes.

    Raises:
        ValueError: unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n, got {successes} of {n}.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n)


def _pair(predicted: Any, true: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    a, b = (x.cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in (predicted, true))
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3 or {a.dtype, b.dtype} != {torch.uint8}:
        raise ValueError(
            "Expected two arrays of uint8 frames (..., H, W, 3) of one shape, "
            f"got {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}."
        )
    lead = tuple(a.shape[:-3])
    first, second = (t.reshape(-1, *t.shape[-3:]).permute(0, 3, 1, 2).to(torch.float32) for t in (a, b))
    return first, second, lead


def _shaped(values: Tensor, lead: tuple[int, ...]) -> FloatArray:
    array: FloatArray = values.to(torch.float64).numpy().reshape(lead)
    return array


def _ratio(sums: FloatArray, counts: FloatArray) -> FloatArray:
    result: FloatArray = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return result
