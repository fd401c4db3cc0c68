"""The return test with events: a place changed while one was there; does the imagined place show it as it is now?

Memory holds the place before and after the change. A world without memory knows neither; one that cannot tell when a
frame was seen cannot tell which of the two holds. WorldMem asks the same of its worlds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import write_json
from ..world_models.actions import ActionSpec
from ..world_models.pose import pose_distance
from ..world_models.world import World
from .event_paths import EventPath, record_event_paths, unchanged
from .event_report import ALL, KNOWN, QUANTITIES, SINCE, EventCell, EventConfig, EventReport, EventScore, Quantity
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
    imagined = _shown(worlds, paths, mean_frame, config, progress)
    looks = [look_again(path, first.actions, config) for path in paths]
    judged = [
        {source: judge(look, frames) for source, frames in rows.items()}
        for look, rows in zip(looks, imagined, strict=True)
    ]
    controls = {i: control for i, path in enumerate(paths) if (control := unchanged(path)) is not None}
    shown = _shown(worlds, list(controls.values()), mean_frame, config, progress, ", nothing changed")
    for (i, control), rows in zip(controls.items(), shown, strict=True):
        for source, frames in rows.items():
            judged[i][source]["false_change"] = false_change(looks[i], control, frames)
    kinds = [*config.kinds, ALL, KNOWN]
    report = EventReport(
        config=config,
        cells=tuple(_cell(kind, looks, config) for kind in kinds),
        scores=tuple(score for kind in kinds for score in _scores(kind, looks, judged, config)),
        dropped=dropped,
        mean_frame_of=mean_frame_of,
        files=tuple(f"strip-{i}.png" for i in range(min(config.pictures, len(paths)))),
        provenance={name: provenance(world) for name, world in worlds.items()},
    )
    for name, look, rows in zip(report.files, looks, imagined, strict=False):
        write_png(out / name, event_strip(look, {k: v for k, v in rows.items() if k != MEAN}))
    write_json(out / "events.json", report.to_json())
    return report


def _shown(
    worlds: Mapping[str, World],
    paths: Sequence[EventPath],
    mean_frame: NDArray[np.uint8],
    config: EventConfig,
    progress: Progress,
    what: str = "",
) -> list[dict[str, Frames]]:
    """Of every path, the frames (R, H, W, 3) of the return leg as each world and each baseline shows them."""
    asked = ReturnConfig(maps=config.maps, poses="true", batch=config.batch, seed=config.seed)
    shown: list[dict[str, Frames]] = [{} for _ in paths]
    for name, world in worlds.items():
        for i, _, frames, _ in imagine_returns(world, paths, asked, progress, f"imagining with {name}{what}"):
            shown[i][name] = frames
    spec = next(iter(worlds.values())).actions
    for path, rows in zip(paths, shown, strict=True):
        rows[MEAN] = mean_frame[None].repeat(path.length, 0)
        rows[NEAREST] = path.frames[path.nearest_seen(spec)]
        rows[SINCE] = path.frames[path.change + since(path).nearest_seen(spec)]
    return shown


def since(path: EventPath) -> EventPath:
    """``path`` as if it had begun with the first frame after the change."""
    return replace(path, poses=path.poses[path.change :], begin=path.begin - path.change)


@dataclass(frozen=True)
class Look:
    """Those N frames of a return leg that show the change.

    Attributes:
        path: which path.
        times: (N,) counted from the begin of the return leg.
        known: (N,) bool, whether since the change a frame was seen from within a step or a turn of here, so that memory
            holds this very view as it is now.
    """

    path: EventPath
    times: NDArray[np.int64]
    known: NDArray[np.bool_]

    def of(self, kind: str) -> NDArray[np.bool_]:
        """(N,) which of the frames belong to the cell of ``kind``."""
        if kind == KNOWN:
            return self.known
        return np.full(len(self.times), kind in (ALL, self.path.kind))


def look_again(path: EventPath, spec: ActionSpec, config: EventConfig) -> Look:
    """The frames of ``path`` that are judged."""
    times = np.flatnonzero(path.size[path.begin :] >= config.pixels)
    lately = since(path)
    here = torch.as_tensor(path.poses[path.begin :][times])
    distance, angle = pose_distance(here, torch.as_tensor(lately.poses[lately.nearest_seen(spec)][times]))
    apart = torch.hypot(distance / spec.step_length, angle / spec.step_angle)
    return Look(path, times, (apart <= 1 + 1e-3).numpy())


def judge(look: Look, frames: Frames) -> dict[Quantity, FloatArray]:
    """Every quantity (N,) of ``frames`` (R, H, W, 3), held against the true frames and those from before the change.

    Whether a change is false they cannot tell: see `false_change`.
    """
    path = look.path
    leg, times = slice(path.begin, None), look.times
    ours, region = frames[times], path.region[leg][times]
    now, before = path.frames[leg][times], path.other[leg][times]
    to_now, to_before = (squared_error(ours, true, region) for true in (now, before))
    return {
        "remembered": (to_now < to_before).astype(np.float64),
        "false_change": np.full(len(times), np.nan),
        "region": _decibels(to_now),
        "outside": _decibels(squared_error(ours, now, ~region)),
    }


def false_change(look: Look, control: EventPath, frames: Frames) -> FloatArray:
    """(N,) whether ``frames`` (R, H, W, 3), shown after ``control``, are nearer to the change that it lacks."""
    return 1 - judge(replace(look, path=control), frames)["remembered"]


def squared_error(a: Frames, b: Frames, where: NDArray[np.bool_]) -> FloatArray:
    """(N,) mean squared error of frames (N, H, W, 3) over the pixels ``where`` (N, H, W); NaN where there are none."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(-1)
    count = where.sum((1, 2))
    total = (error * where).sum((1, 2))
    mean: FloatArray = np.divide(total, count, out=np.full(len(a), np.nan), where=count > 0)
    return mean


def event_strip(look: Look, rows: Mapping[str, Frames]) -> Frames:
    """One picture: the place before, now, and as each source shows it, at frames that show the change."""
    path, times = look.path, look.times
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


def _cell(kind: str, looks: Sequence[Look], config: EventConfig) -> EventCell:
    gaps, sizes, controls = [], [], 0
    for look in (look for look in looks if look.of(kind).any()):
        path, times = look.path, look.times[look.of(kind)]
        controls += bool(path.exists.all())
        sizes.append(path.size[path.begin :][times])
        last = np.flatnonzero(path.size[: path.begin] >= config.pixels)[-1]
        gaps.append(path.begin + int(times[0]) - int(last))
    if not gaps:
        return EventCell(kind, 0, 0, 0, float("nan"), float("nan"))
    pixels = np.concatenate(sizes)
    return EventCell(kind, len(gaps), controls, len(pixels), float(np.mean(gaps)), float(pixels.mean()))


def _scores(
    kind: str, looks: Sequence[Look], judged: Sequence[dict[str, dict[Quantity, FloatArray]]], config: EventConfig
) -> Iterator[EventScore]:
    maps = [look.path.map_seed for look in looks for _ in range(int(look.of(kind).sum()))]
    first = next(iter(judged[0]))
    for quantity in QUANTITIES:
        both = list(zip(looks, judged, strict=True))
        columns = {s: np.concatenate([rows[s][quantity][look.of(kind)] for look, rows in both]) for s in judged[0]}
        for source, column in columns.items():
            more = None if source == first else bootstrap(column - columns[first], maps, seed=config.seed)
            yield EventScore(kind, quantity, source, bootstrap(column, maps, seed=config.seed), more)


def _decibels(error: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        decibels: FloatArray = np.minimum(20 * np.log10(255.0) - 10 * np.log10(error), PSNR_CEILING)
    return decibels
