"""The return test with events: a place changed while one was there; does the imagined place show it as it is now?

Memory holds the place before and after the change. A world without memory knows neither; one that cannot tell when a
frame was seen cannot tell which of the two holds. WorldMem asks the same of its worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import write_json
from ..world_models.world import World
from .event_paths import EventPath, record_event_paths
from .event_report import QUANTITIES, SINCE, EventCell, EventConfig, EventReport, EventScore, Quantity
from .media import Frames, strip, write_png
from .metrics import PSNR_CEILING, FloatArray, bootstrap
from .progress import Progress, silent
from .real import MakeEnv, held_out
from .report import provenance
from .return_report import MEAN, NEAREST, ReturnConfig
from .return_test import imagine_returns, mean_frame_of_training

_COLUMNS = 10
_ENDLESS = 1_000_000


def event_test(
    worlds: Mapping[str, World],
    config: EventConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> EventReport:
    """Send ``worlds`` along the same real paths; write ``events.json`` and strips of pictures into ``out``.

    Args:
        worlds: name to world; the others are compared with the first.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms with events at the first world's frame size.
        progress: told how far it is.

    Raises:
        ConfigError: no world, a world named as a baseline, an environment that does not fit, or no path came back.
    """
    if not worlds or set(worlds) & {MEAN, NEAREST, SINCE}:
        raise ConfigError(f"The event test needs worlds, named otherwise than its baselines; got {list(worlds)}.")
    first = next(iter(worlds.values()))
    make = make_env or (lambda: _rooms(first, config))
    with held_out(worlds.values(), config.split, config.maps, config.seed, make) as (env, maps):
        paths, dropped = record_event_paths(env, maps, config, progress)
    if not paths:
        raise ConfigError(f"None of the {len(dropped)} walks came back to a change; use other maps or another seed.")
    mean_frame, mean_frame_of = mean_frame_of_training(first, paths)
    asked = ReturnConfig(maps=config.maps, poses="true", batch=config.batch, seed=config.seed)
    imagined: list[dict[str, Frames]] = [{} for _ in paths]
    for name, world in worlds.items():
        for i, _, frames, _ in imagine_returns(world, paths, asked, progress, f"imagining with {name}"):
            imagined[i][name] = frames
    for path, rows in zip(paths, imagined, strict=True):
        rows[MEAN] = mean_frame[None].repeat(path.length, 0)
        rows[NEAREST] = path.frames[path.nearest_seen(first.actions)]
        rows[SINCE] = path.frames[path.change + since(path).nearest_seen(first.actions)]
    judged = [
        judge(path, source, frames, config)
        for path, rows in zip(paths, imagined, strict=True)
        for source, frames in rows.items()
    ]
    kinds = [*config.kinds, "all"]
    report = EventReport(
        config=config,
        cells=tuple(_cell(kind, paths, config) for kind in kinds),
        scores=tuple(score for kind in kinds for score in _scores(kind, judged, list(imagined[0]), config)),
        dropped=dropped,
        mean_frame_of=mean_frame_of,
        files=tuple(f"strip-{i}.png" for i in range(min(config.pictures, len(paths)))),
        provenance={name: provenance(world) for name, world in worlds.items()},
    )
    for name, path, rows in zip(report.files, paths, imagined, strict=False):
        write_png(out / name, event_strip(path, {k: v for k, v in rows.items() if k != MEAN}, config))
    write_json(out / "events.json", report.to_json())
    return report


def since(path: EventPath) -> EventPath:
    """``path`` as if it had begun with the first frame after the change."""
    return replace(path, poses=path.poses[path.change :], begin=path.begin - path.change)


@dataclass(frozen=True)
class Judged:
    """How near one source came to one path, at those N frames of its return leg that show the change.

    Attributes:
        path: which path.
        source: a world or a baseline.
        values: by quantity (N,) float64.
    """

    path: EventPath
    source: str
    values: dict[Quantity, FloatArray]


def shown_again(path: EventPath, config: EventConfig) -> NDArray[np.int64]:
    """(N,) frames of the return leg, counted from its begin, that show the change."""
    times: NDArray[np.int64] = np.flatnonzero(path.size[path.begin :] >= config.pixels)
    return times


def judge(path: EventPath, source: str, frames: Frames, config: EventConfig) -> Judged:
    """Hold ``frames`` (R, H, W, 3) against the true frames and against those from before the change."""
    times = shown_again(path, config)
    ours, region = frames[times], path.region[path.begin :][times]
    now, before = path.frames[path.begin :][times], path.other[path.begin :][times]
    to_now, to_before = (squared_error(ours, true, region) for true in (now, before))
    values: dict[Quantity, FloatArray] = {
        "remembered": (to_now < to_before).astype(np.float64),
        "region": _decibels(to_now),
        "outside": _decibels(squared_error(ours, now, ~region)),
    }
    return Judged(path, source, values)


def squared_error(a: Frames, b: Frames, where: NDArray[np.bool_]) -> FloatArray:
    """(N,) mean squared error of frames (N, H, W, 3) over the pixels ``where`` (N, H, W); NaN where there are none."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(-1)
    count = where.sum((1, 2))
    total = (error * where).sum((1, 2))
    mean: FloatArray = np.divide(total, count, out=np.full(len(a), np.nan), where=count > 0)
    return mean


def event_strip(path: EventPath, rows: Mapping[str, Frames], config: EventConfig) -> Frames:
    """One picture: the place before, now, and as each source shows it, at frames that show the change."""
    times = shown_again(path, config)
    times = times[np.unique(np.linspace(0, len(times) - 1, _COLUMNS).round().astype(int))]
    true = {"before": path.other[path.begin :], "now": path.frames[path.begin :]}
    clips = {name: clip[times] for name, clip in {**true, **rows}.items()}
    return strip(clips, [int(t) + 1 for t in times], scale=3)


def _rooms(world: World, config: EventConfig) -> gym.Env[Any, Any]:
    return gym.make(
        "worldloop/DoomRooms-v0",
        task="explore",
        split=config.split,
        frame_size=tuple(world.frame_size),
        actions="discrete" if world.actions.kind == "discrete" else "continuous",
        max_steps=_ENDLESS,
        events=True,
    )


def _cell(kind: str, paths: Sequence[EventPath], config: EventConfig) -> EventCell:
    chosen = [path for path in paths if kind in (path.kind, "all")]
    times = [shown_again(path, config) for path in chosen]
    sizes = [path.size[path.begin :][t] for path, t in zip(chosen, times, strict=True)]
    last = [int(np.flatnonzero(path.size[: path.begin] >= config.pixels)[-1]) for path in chosen]
    gaps = [path.begin + int(t[0]) - seen for path, t, seen in zip(chosen, times, last, strict=True)]
    frames = sum(map(len, times))
    nothing = float("nan")
    return EventCell(
        kind=kind,
        paths=len(chosen),
        frames=frames,
        gap=float(np.mean(gaps)) if gaps else nothing,
        size=float(np.concatenate(sizes).mean()) if frames else nothing,
    )


def _scores(kind: str, judged: Sequence[Judged], sources: Sequence[str], config: EventConfig) -> list[EventScore]:
    chosen = [j for j in judged if kind in (j.path.kind, "all")]
    maps = [j.path.map_seed for j in chosen if j.source == sources[0] for _ in j.values["region"]]
    scores = []
    for quantity in QUANTITIES:
        columns = {s: _column(chosen, s, quantity) for s in sources}
        for source, column in columns.items():
            more = None if source == sources[0] else bootstrap(column - columns[sources[0]], maps, seed=config.seed)
            scores.append(EventScore(kind, quantity, source, bootstrap(column, maps, seed=config.seed), more))
    return scores


def _column(judged: Sequence[Judged], source: str, quantity: Quantity) -> FloatArray:
    parts = [j.values[quantity] for j in judged if j.source == source]
    return np.concatenate(parts) if parts else np.empty(0)


def _decibels(error: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        decibels: FloatArray = np.minimum(20 * np.log10(255.0) - 10 * np.log10(error), PSNR_CEILING)
    return decibels
