"""Calibration: does a world know when it is wrong? Its uncertainties against its error, on held-out maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from ..envs.explorers import WaypointExplorer
from ..envs.uncertainty import Uncertainty, coverage, disagreement
from ..errors import ConfigError
from ..files import write_json
from ..world_models.world import World
from .clips import Clips, record_clips
from .figures import COLOURS, finish, write_figure
from .metrics import Curve, FloatArray, Interval, bootstrap, bootstrap_curve, psnr
from .progress import Progress, silent
from .real import MakeEnv, held_out
from .report import jsonable, provenance

_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class CalibrationConfig:
    """What `calibration` measures."""

    maps: int = 40
    """Held-out maps, one walk on each. Thresholds are chosen on every other one and judged on the rest."""
    context: int = 48
    """Real frames observed before imagination starts."""
    horizon: int = 40
    """Frames imagined after them, along the world's own poses."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    samples: int = 4
    """Noise seeds that disagreement compares."""
    bins: int = 8
    """Groups of equally many frames, from the surest to the least sure, that error is averaged in."""
    good: float = 18.0
    """PSNR in dB that a frame should have; the mean frame of all maps reaches about as much."""
    batch: int = 40
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, walks, imagination and resampling."""

    def __post_init__(self) -> None:
        for name, least in (("maps", 4), ("context", 1), ("horizon", 1), ("samples", 2), ("bins", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Calibration is measured on 'validation' or 'test' maps, not on {self.split!r}.")


@dataclass(frozen=True)
class Threshold:
    """What comes of ending an episode where uncertainty passes ``value``.

    Attributes:
        value: chosen on one half of the maps: the largest that leaves frames whose mean PSNR is as good as wanted.
        kept: share of the frames on the other half that come before any frame as unsure as that.
        psnr_kept, psnr_dropped: mean PSNR of those frames and of the others there, in dB.
    """

    value: float
    kept: Interval
    psnr_kept: Interval
    psnr_dropped: Interval


@dataclass(frozen=True)
class Calibrated:
    """One kind of uncertainty.

    Attributes:
        kind: which.
        correlation: Spearman's rank correlation of uncertainty and PSNR, over frames; -1 would be perfect.
        bad_found: how often a frame below the wanted PSNR is less sure than one above it (area under the ROC curve).
        levels: mean uncertainty of every group, surest first.
        psnr: PSNR of every group.
        threshold: for ``max_uncertainty``; None where no value leaves frames that are good enough.
    """

    kind: Uncertainty
    correlation: Interval
    bad_found: Interval
    levels: tuple[float, ...]
    psnr: Curve
    threshold: Threshold | None


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibration` found; intervals are 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        kinds: one entry for every kind of uncertainty that the world has.
        psnr: of all imagined frames, in dB.
        provenance: versions and time.
    """

    config: CalibrationConfig
    kinds: tuple[Calibrated, ...]
    psnr: Interval
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        config = self.config
        lines = [
            f"{config.horizon} frames imagined after {config.context} real ones on {config.maps} {config.split} maps, "
            f"PSNR {self.psnr} dB; [95 % over maps]"
        ]
        for known in self.kinds:
            lines.append(
                f"{known.kind}: rank correlation with PSNR {known.correlation}, a frame below {config.good:g} dB is "
                f"less sure than one above with probability {known.bad_found}"
            )
            pairs = zip(known.levels, known.psnr.mean, strict=True)
            lines.append("  uncertainty → PSNR: " + ", ".join(f"{level:.3g} → {db:.1f}" for level, db in pairs))
            if (limit := known.threshold) is None:
                lines.append(f"  no threshold leaves frames of {config.good:g} dB on average")
            else:
                lines.append(
                    f"  max_uncertainty={limit.value:.3g}, on the other maps: keeps {limit.kept} of the frames, "
                    f"{limit.psnr_kept} dB, the others {limit.psnr_dropped} dB"
                )
        return "\n".join(lines)


def calibration(
    world: World,
    config: CalibrationConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> CalibrationReport:
    """Imagine real walks on and compare; write ``calibration.json`` and ``calibration.png`` into ``out``.

    Args:
        world: what imagines.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore, at the world's frame size.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit.
    """
    with held_out([world], config.split, config.maps, config.seed, make_env) as (env, maps):
        clips = record_clips(
            env, WaypointExplorer(), maps, config.context + config.horizon, config.seed, progress
        )
    decibels, doubts = [], []
    for begin in range(0, config.maps, config.batch):
        rows = np.arange(begin, min(begin + config.batch, config.maps))
        seen, unsure = _imagine(world, clips, rows, config, progress)
        decibels.append(seen)
        doubts.append(unsure)
    quality = np.concatenate(decibels)
    kinds = tuple(
        _calibrated(kind, np.concatenate([d[kind] for d in doubts]), quality, clips.maps, config) for kind in doubts[0]
    )
    labels = np.repeat(clips.maps, config.horizon)
    report = CalibrationReport(config, kinds, bootstrap(quality.ravel(), labels, seed=config.seed), provenance(world))
    write_figure(out / "calibration.png", calibration_figure(report))
    write_json(out / "calibration.json", report.to_json())
    return report


@torch.inference_mode()
def _imagine(
    world: World, clips: Clips, rows: NDArray[np.int64], config: CalibrationConfig, progress: Progress
) -> tuple[FloatArray, dict[Uncertainty, FloatArray]]:
    """PSNR (N, H) of what is imagined after the clips of ``rows`` (N,), and how unsure the world is, by kind."""
    k = config.context
    state = world.start(len(rows), rows + config.seed * _SEED_STRIDE)
    state = world.observe(state, clips.frames[rows, :k], clips.actions[rows, :k], clips.poses[rows, :k])
    kinds: tuple[Uncertainty, ...] = ("denoising", "disagreement") + (("coverage",) if state.memory else ())
    quality, doubts = [], {kind: list[FloatArray]() for kind in kinds}
    for t in range(k, k + config.horizon):
        actions = clips.actions[rows, t]
        after, step = world.imagine(state, actions)
        spread = disagreement(world, state, actions, step, config.samples)
        answers: dict[Uncertainty, Tensor] = {"denoising": step.uncertainty, "disagreement": spread}
        if state.memory is not None:
            answers["coverage"] = coverage(state, step.pose)
        for kind in kinds:
            doubts[kind].append(answers[kind].cpu().numpy().astype(np.float64))
        quality.append(psnr(world.render(step.latents), clips.frames[rows, t]))
        state = after
        progress("imagining", int(rows[0]) * config.horizon + (t - k + 1) * len(rows), config.maps * config.horizon)
    return np.stack(quality, 1), {kind: np.stack(values, 1) for kind, values in doubts.items()}


def _calibrated(
    kind: Uncertainty, doubt: FloatArray, quality: FloatArray, maps: NDArray[np.int64], config: CalibrationConfig
) -> Calibrated:
    order = np.argsort(doubt, axis=None, kind="stable")
    groups = np.array_split(order, config.bins)
    table = np.full((doubt.size, config.bins), np.nan)
    for i, group in enumerate(groups):
        table[group, i] = quality.flat[group]
    labels = np.repeat(maps, doubt.shape[1])
    return Calibrated(
        kind,
        _over_maps(lambda rows: spearman(doubt[rows].ravel(), quality[rows].ravel()), len(maps), config.seed),
        _over_maps(lambda rows: _bad_found(doubt[rows], quality[rows], config.good), len(maps), config.seed),
        tuple(float(doubt.flat[group].mean()) for group in groups),
        bootstrap_curve(table, labels, seed=config.seed),
        _threshold(doubt, quality, maps, config),
    )


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation of two columns (N,); NaN where one of them does not vary."""
    ranks = rankdata(a), rankdata(b)
    if min(r.std() for r in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _bad_found(doubt: FloatArray, quality: FloatArray, good: float) -> float:
    """Probability that a bad frame is less sure than a good one; ties count half (Mann and Whitney)."""
    bad = quality.ravel() < good
    ranks, n = rankdata(doubt.ravel()), int(bad.sum())
    if n in (0, len(bad)):
        return float("nan")
    return float((ranks[bad].sum() - n * (n + 1) / 2) / (n * (len(bad) - n)))


def _over_maps(statistic: Any, n: int, seed: int, resamples: int = 500) -> Interval:
    """``statistic`` of rows (N,), with a percentile bootstrap interval over rows."""
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    values = [statistic(rows) for rows in draws]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if np.isfinite(values).any() else (np.nan, np.nan)
    return Interval(statistic(np.arange(n)), float(low), float(high), n)


def _threshold(
    doubt: FloatArray, quality: FloatArray, maps: NDArray[np.int64], config: CalibrationConfig
) -> Threshold | None:
    """Chosen on the even rows, judged on the odd ones."""
    # An episode ends at its first unsure frame, so what counts is the greatest uncertainty so far.
    worst = np.maximum.accumulate(doubt, 1)
    own, wanted = worst[::2].ravel(), quality[::2].ravel()
    order = np.argsort(own, kind="stable")
    means = np.cumsum(wanted[order]) / np.arange(1, len(own) + 1)
    # A threshold takes in all frames that are as sure as it.
    last = np.flatnonzero(np.append(np.diff(own[order]) > 0, True) & (means >= config.good))
    if not len(last):
        return None
    value = float(own[order][last[-1]])
    kept, seen = (worst[1::2] <= value).ravel(), quality[1::2].ravel()
    labels = np.repeat(maps[1::2], doubt.shape[1])
    return Threshold(
        value,
        bootstrap(kept, labels, seed=config.seed),
        bootstrap(np.where(kept, seen, np.nan), labels, seed=config.seed),
        bootstrap(np.where(kept, np.nan, seen), labels, seed=config.seed),
    )


def calibration_figure(report: CalibrationReport) -> Figure:
    """One panel a kind: PSNR against uncertainty, with its interval and the threshold."""
    figure = Figure(figsize=(3.8 * len(report.kinds), 3.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(report.kinds), sharey=True, squeeze=False)[0]
    for panel, known, colour in zip(panels, report.kinds, COLOURS, strict=False):
        panel.plot(known.levels, known.psnr.mean, color=colour, linewidth=1.8, marker=".", markersize=7)
        panel.fill_between(known.levels, known.psnr.low, known.psnr.high, color=colour, alpha=0.18, linewidth=0)
        panel.axhline(report.config.good, color="#777777", linewidth=1.0, linestyle="--")
        if known.threshold is not None:
            panel.axvline(known.threshold.value, color="#777777", linewidth=1.0, linestyle=":")
        panel.set_title(f"{known.kind}, rank correlation {known.correlation.estimate:.2f}", fontsize=11)
        panel.set_xlabel("uncertainty")
        finish(panel)
    panels[0].set_ylabel("PSNR (dB)")
    return figure
