"""Calibration: does a world know when it is wrong? Its uncertainties against its error, on held-out maps.

Pictures of some maps are easier than others', so PSNR says more of a map's textures than of imagination. The error here
is the squared error of the latents over their variance within the walk: 1 is what the walk's mean frame would have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.explorers import WaypointExplorer
from ..envs.thresholds import write_thresholds
from ..envs.uncertainty import doubt, kinds_of
from ..errors import ConfigError
from ..files import write_json
from ..world_models.world import World
from .calibration_report import Calibrated, CalibrationReport, Threshold, calibration_figure
from .clips import Clips, record_clips
from .figures import write_figure
from .metrics import Curve, FloatArray, bootstrap, bootstrap_curve, psnr
from .progress import Progress, silent
from .ranking import Kept, auroc, choose_threshold, doubted_so_far, keep, over_maps, spearman, within_walks
from .real import MakeEnv, held_out
from .report import provenance

_SEED_STRIDE = 1_000_003
STEPS = "steps imagined"
"""The doubt that every uncertainty has to beat: how long ago reality was seen."""


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
    good: float = 1.0
    """Error below which a frame is good; at 1 the frames that are wrong are those no better than the mean frame."""
    share: float = 0.9
    """Share of good frames that a threshold shall leave."""
    batch: int = 40
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, walks, imagination and resampling."""
    write: bool = False
    """Keep the thresholds beside the world, for max_uncertainty="calibrated": those of uncertainties that rise with
    error, if they leave anything of the maps they were not chosen on."""

    def __post_init__(self) -> None:
        for name, least in (("maps", 4), ("context", 1), ("horizon", 2), ("samples", 2), ("bins", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Calibration is measured on 'validation' or 'test' maps, not on {self.split!r}.")
        if not self.good > 0 or not 0 < self.share < 1:
            raise ConfigError(f"good is above 0 and share between 0 and 1; got {self.good} and {self.share}.")
        if self.write and self.split == "test":
            raise ConfigError("Thresholds are chosen on validation maps; test maps are for reports only.")


@dataclass(frozen=True)
class Walks:
    """What happened on N maps over H imagined frames.

    Attributes:
        maps: (N,) map seeds, the clusters of every interval.
        error: (N, H) squared error of the latents over their variance within the walk.
        psnr: (N, H) in dB.
        mean_frame: (N,) PSNR in dB of the walk's mean frame, over the same frames.
        doubts: by kind (N, H).
    """

    maps: NDArray[np.int64]
    error: FloatArray
    psnr: FloatArray
    mean_frame: FloatArray
    doubts: dict[str, FloatArray]


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
        ConfigError: an environment that does not fit, or thresholds to be kept of a world that came from no directory.
    """
    with held_out([world], config.split, config.maps, config.seed, make_env) as (env, maps):
        clips = record_clips(
            env, WaypointExplorer(), maps, config.context + config.horizon, config.seed, progress
        )
    starts = range(0, config.maps, config.batch)
    parts = [_imagine(world, clips, np.arange(config.maps)[i : i + config.batch], config, progress) for i in starts]
    walks = Walks(
        clips.maps,
        np.concatenate([part.error for part in parts]),
        np.concatenate([part.psnr for part in parts]),
        np.concatenate([part.mean_frame for part in parts]),
        {kind: np.concatenate([part.doubts[kind] for part in parts]) for kind in parts[0].doubts},
    )
    report = judge(walks, config, provenance(world))
    write_figure(out / "calibration.png", calibration_figure(report))
    write_json(out / "calibration.json", report.to_json())
    if config.write:
        found = {k.kind: k.threshold.value for k in report.kinds if k.threshold and k.usable and k.kind != STEPS}
        write_thresholds(world, found, config.samples, asdict(config))
    return report


def judge(walks: Walks, config: CalibrationConfig, made: dict[str, Any]) -> CalibrationReport:
    """The report of ``walks``."""
    labels = np.repeat(walks.maps, walks.error.shape[1])
    return CalibrationReport(
        config=asdict(config),
        kinds=tuple(_calibrated(kind, walks, config) for kind in walks.doubts),
        error=bootstrap(walks.error.ravel(), labels, seed=config.seed),
        good=bootstrap((walks.error < config.good).ravel(), labels, seed=config.seed),
        psnr=bootstrap(walks.psnr.ravel(), labels, seed=config.seed),
        mean_frame_psnr=bootstrap(walks.mean_frame, walks.maps, seed=config.seed),
        provenance=made,
    )


@torch.inference_mode()
def _imagine(
    world: World, clips: Clips, rows: NDArray[np.int64], config: CalibrationConfig, progress: Progress
) -> Walks:
    """What is imagined after the clips of ``rows`` (N,)."""
    k, kinds = config.context, kinds_of(world)
    state = world.start(len(rows), rows + config.seed * _SEED_STRIDE)
    state = world.observe(state, clips.frames[rows, :k], clips.actions[rows, :k], clips.poses[rows, :k])
    true = torch.stack([world.encode(clips.frames[rows, t]) for t in range(k + config.horizon)], 1)
    variance = true.var(1, correction=0).mean((1, 2, 3))
    error, decibels, doubts = [], [], {kind: list[FloatArray]() for kind in kinds}
    for t in range(k, k + config.horizon):
        actions = clips.actions[rows, t]
        after, step = world.imagine(state, actions)
        for kind in kinds:
            unsure = doubt(kind, world, state, actions, step, config.samples)
            doubts[kind].append(unsure.cpu().numpy().astype(np.float64))
        square = (step.latents - true[:, t]).square().mean((1, 2, 3))
        error.append((square / variance).cpu().numpy().astype(np.float64))
        decibels.append(psnr(world.render(step.latents), clips.frames[rows, t]))
        state = after
        progress("imagining", int(rows[0]) * config.horizon + (t - k + 1) * len(rows), config.maps * config.horizon)
    told: dict[str, FloatArray] = {kind: np.stack(values, 1) for kind, values in doubts.items()}
    told[STEPS] = np.tile(np.arange(1.0, config.horizon + 1), (len(rows), 1))
    return Walks(clips.maps[rows], np.stack(error, 1), np.stack(decibels, 1), _mean_frame(clips, rows, k), told)


def _mean_frame(clips: Clips, rows: NDArray[np.int64], context: int) -> FloatArray:
    """PSNR (N,) in dB of each walk's mean frame, over the frames after the context."""
    values = []
    for row in rows:
        mean = np.round(clips.frames[row].mean(0, dtype=np.float64)).astype(np.uint8)
        rest = clips.frames[row, context:]
        values.append(float(psnr(np.broadcast_to(mean, rest.shape), rest).mean()))
    return np.array(values)


def _calibrated(kind: str, walks: Walks, config: CalibrationConfig) -> Calibrated:
    doubts, error, n = walks.doubts[kind], walks.error, len(walks.maps)
    groups = np.array_split(np.argsort(doubts, axis=None, kind="stable"), config.bins)
    labels = np.repeat(walks.maps, doubts.shape[1])

    def by_group(values: FloatArray) -> Curve:
        table = np.full((values.size, config.bins), np.nan)
        for i, group in enumerate(groups):
            table[group, i] = values.flat[group]
        return bootstrap_curve(table, labels, seed=config.seed)

    return Calibrated(
        kind,
        over_maps(lambda rows: spearman(doubts[rows].ravel(), error[rows].ravel()), n, config.seed),
        bootstrap(within_walks(doubts, error), walks.maps, seed=config.seed),
        over_maps(lambda rows: auroc(doubts[rows], error[rows] >= config.good), n, config.seed),
        tuple(float(doubts.flat[group].mean()) for group in groups),
        by_group(error),
        by_group(walks.psnr),
        _threshold(doubts, walks, config),
    )


def _threshold(doubts: FloatArray, walks: Walks, config: CalibrationConfig) -> Threshold | None:
    """Chosen on the even rows, judged on the odd ones."""
    good = walks.error < config.good
    value = choose_threshold(doubts[::2], good[::2], config.share)
    if value is None:
        return None
    rest, well, decibels = doubts[1::2], good[1::2], walks.psnr[1::2]
    kept = doubted_so_far(rest) <= value
    labels = np.repeat(walks.maps[1::2], rest.shape[1])

    def left(rows: NDArray[np.int64]) -> Kept:
        return keep(rest[rows], well[rows], value)

    return Threshold(
        value,
        over_maps(lambda rows: left(rows).kept, len(rest), config.seed),
        over_maps(lambda rows: left(rows).good, len(rest), config.seed),
        over_maps(lambda rows: left(rows).found, len(rest), config.seed),
        bootstrap(np.where(kept, decibels, np.nan), labels, seed=config.seed),
        bootstrap(np.where(kept, np.nan, decibels), labels, seed=config.seed),
    )
