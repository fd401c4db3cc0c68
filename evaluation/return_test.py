"""The return test: leave, come back, and see whether the imagined place is the one that was left.

LoopNav's protocol: a world is shown the exploration leg of a path, then imagines the return leg from the true actions;
every imagined frame is compared with the true one. Plain copying cannot do it, and neither can a world that forgets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import write_json
from ..world_models.pose import pose_distance
from ..world_models.state import WorldState
from ..world_models.world import World
from .media import Frames
from .metrics import Curve, FloatArray, Interval, bootstrap, bootstrap_curve
from .perceptual import Measure, load_measures
from .progress import Progress, silent
from .real import MakeEnv, held_out
from .report import provenance
from .return_paths import ReturnPath, record_paths
from .return_pictures import Shown, draw
from .return_report import (
    BASELINES,
    COPYING,
    MEAN,
    NEAREST,
    Cell,
    Drift,
    Mode,
    ReturnConfig,
    ReturnReport,
    Score,
    Source,
)


def return_test(
    worlds: Mapping[str, World],
    config: ReturnConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> ReturnReport:
    """Send ``worlds`` along the same real paths; write ``return.json``, figures and clips into ``out``.

    Args:
        worlds: name to world; the others are compared with the first.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore, at the first world's frame size.
        progress: told how far it is.

    Raises:
        ConfigError: no world, a world named as a baseline, an environment that does not fit, no path that came back.
    """
    if not worlds or set(worlds) & set(BASELINES):
        raise ConfigError(f"The return test needs worlds, named otherwise than its baselines; got {list(worlds)}.")
    first = next(iter(worlds.values()))
    with held_out(worlds.values(), config.split, config.maps, config.seed, make_env) as (env, maps):
        recorded = record_paths(env, maps, config.types, config.radii, config.seed, progress)
    paths = recorded.paths
    if not paths:
        raise ConfigError(f"None of the {len(recorded.dropped)} walks came back; use other maps or another seed.")
    measures, unavailable = load_measures(first.device)
    mean_frame, mean_frame_of = mean_frame_of_training(first, paths)
    judged = [_Judged(path, measures) for path in paths]
    shown = [Shown(path) for path in paths[: config.pictures]]

    def judge(i: int, source: Source, frames: Frames, poses: NDArray[np.float64] | None = None) -> None:
        judged[i].add(source, frames, poses)
        if i < len(shown):
            shown[i].add(source, frames, poses)

    for name, world in worlds.items():
        for i, mode, frames, poses in imagine_returns(world, paths, config, progress, f"imagining with {name}"):
            judge(i, Source(name, mode), frames, poses)
    for i, path in enumerate(paths):
        real = path.frames[: path.begin]
        judge(i, Source(COPYING), real[-1:].repeat(path.length, 0))
        judge(i, Source(MEAN), mean_frame[None].repeat(path.length, 0))
        judge(i, Source(NEAREST), real[path.nearest_seen(first.actions)])
    cells, scores, drifts = _summarise(judged, recorded.dropped, [m.name for m in measures], config)
    report = ReturnReport(
        config=config,
        cells=cells,
        scores=scores,
        drifts=drifts,
        measures={m.name: m.unit for m in measures} | {u.name: str(u) for u in unavailable},
        reasons={u.name: u.reason for u in unavailable},
        mean_frame_of=mean_frame_of,
        provenance={name: provenance(world) for name, world in worlds.items()},
    )
    report = replace(report, files=draw(report, shown, out))
    write_json(out / "return.json", report.to_json())
    return report


def imagine_returns(
    world: World,
    paths: Sequence[ReturnPath],
    config: ReturnConfig,
    progress: Progress = silent,
    stage: str = "imagining",
) -> Iterator[tuple[int, Mode, Frames, NDArray[np.float64]]]:
    """Imagine every return leg after its exploration leg, longest first, ``config.batch`` worlds at once.

    A path's noise depends on its index among all paths that were asked for, so the batch size changes no frame.

    Yields:
        For every path and mode: place of the path in ``paths``, mode, frames (R, H, W, 3) uint8, poses (R, 5) float64.
    """
    order = sorted(range(len(paths)), key=lambda i: -paths[i].length)
    total, done = sum(path.length for path in paths) * len(config.modes), 0
    for begin in range(0, len(order), config.batch):
        chosen = order[begin : begin + config.batch]
        batch = [_told(paths[i], config, world.actions.step_length) for i in chosen]
        seen = _explored(world, batch, config.seed)
        for mode in config.modes:
            for i, (frames, poses) in zip(chosen, imagine_batch(world, seen, batch, mode), strict=True):
                yield i, mode, frames, poses
                done += len(frames)
                progress(stage, done, total)


def _told(path: ReturnPath, config: ReturnConfig, step_length: float) -> ReturnPath:
    """The path with the poses that a world is told: the true ones, with noise where that is asked for."""
    if not config.noise_steps and not config.noise_degrees:
        return path
    noise = np.random.default_rng([config.seed, path.index]).normal(size=path.poses.shape)
    scale = np.array([config.noise_steps * step_length] * 2 + [0, math.radians(config.noise_degrees), 0])
    return replace(path, poses=path.poses + noise * scale)


@torch.inference_mode()
def _explored(world: World, batch: Sequence[ReturnPath], seed: int) -> WorldState:
    """The batch after its exploration legs, which differ in length and are observed one by one."""
    states = []
    for path in batch:
        leg = slice(None, path.begin)
        state = world.start(1, np.array([path.index + seed * 1_000_003]))
        states.append(world.observe(state, path.frames[None, leg], path.actions[None, leg], path.poses[None, leg]))
    return WorldState.cat(states)


@torch.inference_mode()
def imagine_batch(
    world: World, state: WorldState, batch: Sequence[ReturnPath], mode: Mode
) -> list[tuple[Frames, NDArray[np.float64]]]:
    """Frames and poses of each return leg; ``batch`` is sorted, longest first, so that those that are back go last."""
    frames: list[list[Frames]] = [[] for _ in batch]
    poses: list[list[NDArray[np.float64]]] = [[] for _ in batch]
    for t in range(batch[0].length):
        going = [path for path in batch if path.length > t]
        if len(going) < state.batch_size:
            state = state[: len(going)]
        actions = np.stack([path.actions[path.begin + t] for path in going])
        pose = np.stack([path.poses[path.begin + t] for path in going]) if mode == "true" else None
        state, step = world.imagine(state, actions, pose)
        pictures, arrived = world.render(step.latents).cpu().numpy(), step.pose.cpu().numpy()
        for i in range(len(going)):
            frames[i].append(pictures[i])
            poses[i].append(arrived[i])
    return [(np.stack(f), np.stack(p)) for f, p in zip(frames, poses, strict=True)]


class _Judged:
    """One path, and how near every source came to it, frame by frame."""

    def __init__(self, path: ReturnPath, measures: Sequence[Measure]) -> None:
        self.path, self._measures = path, measures
        self._values: dict[tuple[Source, str], FloatArray] = {}
        self.drift: dict[str, tuple[float, float]] = {}

    def add(self, source: Source, frames: Frames, poses: NDArray[np.float64] | None) -> None:
        true = self.path.frames[self.path.begin :]
        for measure in self._measures:
            self._values[source, measure.name] = measure.of(frames, true)
        if source.poses == "predicted" and poses is not None:
            distance, angle = pose_distance(torch.as_tensor(poses[-1]), torch.as_tensor(self.path.poses[-1]))
            self.drift[source.name] = float(distance), math.degrees(float(angle))

    @property
    def sources(self) -> list[Source]:
        return list(dict.fromkeys(source for source, _ in self._values))

    def row(self, source: Source, base: Source, measure: str, last: int) -> FloatArray:
        """(4 + last,): whole leg, last third, their differences to ``base``, and the curve with NaN before it began."""
        ours, theirs = self._values[source, measure], self._values[base, measure]
        third = -(-len(ours) // 3)
        means = np.array([[v.mean(), v[-third:].mean()] for v in (ours, theirs)])
        curve = np.full(last, np.nan)
        curve[-len(ours) :] = ours[-last:]
        return np.concatenate([means[0], means[0] - means[1], curve])


def _summarise(
    judged: Sequence[_Judged],
    dropped: Sequence[tuple[str, int, int]],
    measures: Sequence[str],
    config: ReturnConfig,
) -> tuple[tuple[Cell, ...], tuple[Score, ...], tuple[Drift, ...]]:
    sources = judged[0].sources
    first = sources[0]
    cells, scores, drifts = [], [], []
    names: list[tuple[str, int | None]] = [(kind, radius) for kind in config.types for radius in config.radii]
    for kind, radius in [*names, ("all", None)]:
        chosen = [j for j in judged if radius is None or (j.path.type, j.path.radius) == (kind, radius)]
        paths = [j.path for j in chosen]
        maps = [path.map_seed for path in paths]
        lost = sum(radius is None or (t, r) == (kind, radius) for t, r, _ in dropped)
        about = np.array([(p.rooms, p.begin, p.length) for p in paths]).reshape(-1, 3)
        means = bootstrap_curve(about, maps).mean
        cells.append(Cell(kind, radius, len(paths), lost, *means))
        for measure in measures:
            for source in sources:
                base = replace(first, poses=source.poses or first.poses)
                rows = [j.row(source, base, measure, config.last) for j in chosen]
                curve = bootstrap_curve(np.array(rows).reshape(-1, 4 + config.last), maps, seed=config.seed)
                columns = list(zip(curve.mean, curve.low, curve.high, strict=True))
                whole, third, more, more_third = (Interval(*column, n=len(rows)) for column in columns[:4])
                gain, gain_third = (None, None) if source == base else (more, more_third)
                ends = Curve(curve.mean[4:], curve.low[4:], curve.high[4:])
                scores.append(Score(kind, radius, measure, source, whole, third, gain, gain_third, ends))
        for name in judged[0].drift:
            distance, heading = (
                bootstrap([j.drift[name][k] for j in chosen], maps, seed=config.seed) for k in range(2)
            )
            drifts.append(Drift(kind, radius, name, distance, heading))
    return tuple(cells), tuple(scores), tuple(drifts)


def mean_frame_of_training(world: World, paths: Sequence[ReturnPath]) -> tuple[Frames, str]:
    stored = getattr(world, "mean_frame", None)
    if stored is not None:
        return np.round(torch.as_tensor(stored).cpu().numpy()).astype(np.uint8), "the first world's training data"
    total = sum(path.frames[: path.begin].sum(0, dtype=np.float64) for path in paths)
    count = sum(path.begin for path in paths)
    return np.round(total / count).astype(np.uint8), "the exploration legs of this test"
