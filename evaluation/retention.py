"""Retention: how well a world still knows a place it left 50, 200, 1000 or 5000 steps ago.

A place A is seen in a whole turn and left; after so many steps elsewhere the walker comes back. All of that is real and
is observed. Then the whole turn at A is imagined, from true actions along true poses, and compared with the true one.
Some of it was seen again while arriving: what was not is reported on its own, for only memory can know it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.explorers import ROOMS_PER_BLOCK, LoopWalker, layout_of
from ..envs.steering import WALKING, Gait, Point
from ..errors import ConfigError
from ..files import write_json
from ..world_models.actions import ActionSpec
from ..world_models.pose import pose_distance
from ..world_models.world import World
from .figures import write_figure
from .media import Frames
from .metrics import bootstrap
from .perceptual import Measure, load_measures
from .progress import Progress, silent
from .real import MakeEnv, held_out
from .report import provenance
from .retention_report import Arrival, AwayCell, Retained, RetentionConfig, RetentionReport, retention_figure
from .return_paths import Returning, ReturnPath, follow
from .return_report import BASELINES, COPYING, MEAN, NEAREST
from .return_test import imagine_batch, mean_frame_of_training

_GAITS: dict[Arrival, Gait] = {"forward": WALKING, "backward": Gait(WALKING.axis, -1)}
_OWN_MEAN = "what was real on each path before the turn"
_PLACES = 50
_LOOK = 0.3


@dataclass(frozen=True)
class RetentionPath(ReturnPath):
    """One real path; its exploration leg ends with the arrival at A, its return leg is the whole turn there.

    It begins with a turn at A too, of as many frames. ``radius`` says how far away it went.

    Attributes:
        away: steps asked for between leaving A and turning back.
    """

    away: int

    @property
    def gap(self) -> slice:
        """Frames between the two turns."""
        return slice(self.length + 1, self.begin)

    @property
    def elsewhere(self) -> float:
        """Share of the gap that was spent outside A's room."""
        rooms = [self.layout.room_of(float(x), float(y)) for x, y in self.poses[self.gap, :2]]
        home = self.layout.room_of(*self.places[0])
        return float(np.mean([room != home for room in rooms])) if rooms else 0.0

    def unseen(self, spec: ActionSpec, config: RetentionConfig) -> NDArray[np.bool_]:
        """(R,) which frames of the turn were unseen lately.

        Of the last ``config.lately`` real frames the one whose pose is nearest, as in `nearest_seen`, looks more than
        ``config.lately_angle`` away or is more than ``config.lately_distance`` away.
        """
        window = slice(max(0, self.begin - config.lately), self.begin)
        nearest = replace(self, poses=self.poses[window.start :], begin=self.begin - window.start).nearest_seen(spec)
        track = torch.as_tensor(self.poses)
        distance, angle = pose_distance(track[self.begin :], track[window][nearest])
        far = (angle > math.radians(config.lately_angle)) | (distance > config.lately_distance)
        unseen: NDArray[np.bool_] = far.numpy()
        return unseen


def retention(
    worlds: Mapping[str, World],
    config: RetentionConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> RetentionReport:
    """Take ``worlds`` along the same real paths; write ``retention.json`` and ``retention.png`` into ``out``.

    Every path is walked anew for its own time away, and forgotten before the next one.

    Args:
        worlds: name to world; the others are compared with the first.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore, at the first world's frame size.
        progress: told how far it is.

    Raises:
        ConfigError: no world, a world named as a baseline, an environment that does not fit, or a time away after which
            no walk came back.
    """
    if not worlds or set(worlds) & set(BASELINES):
        raise ConfigError(f"Retention needs worlds, named otherwise than its baselines; got {list(worlds)}.")
    first = next(iter(worlds.values()))
    measures, unavailable = load_measures(first.device)
    judged: dict[int, list[_Judged]] = {away: [] for away in config.away}
    with held_out(worlds.values(), config.split, config.maps, config.seed, make_env) as (env, maps):
        asked = [(away, map_seed) for away in config.away for map_seed in maps]
        for index, (away, map_seed) in enumerate(asked):
            path = record_retention_path(env, away, map_seed, config.arrival, seed=config.seed, index=index)
            if path is not None:
                mean_frame, _ = mean_frame_of_training(first, [path])
                real = path.frames[: path.begin]
                shown = {name: imagine_turn(world, path, config) for name, world in worlds.items()} | {
                    COPYING: real[-1:].repeat(path.length, 0),
                    MEAN: mean_frame[None].repeat(path.length, 0),
                    NEAREST: real[path.nearest_seen(first.actions)],
                }
                judged[away].append(_judge(path, shown, measures, path.unseen(first.actions, config)))
            progress("walking and imagining", index + 1, len(asked))
    for away, paths in judged.items():
        if not paths:
            raise ConfigError(f"None of the {config.maps} walks of {away} steps came back; use another seed.")
    report = RetentionReport(
        config=config,
        cells=tuple(_cell(away, paths, config) for away, paths in judged.items()),
        scores=tuple(score for away, paths in judged.items() for score in _scores(paths, away, config)),
        measures={m.name: m.unit for m in measures} | {u.name: str(u) for u in unavailable},
        reasons={u.name: u.reason for u in unavailable},
        mean_frame_of=_OWN_MEAN if getattr(first, "mean_frame", None) is None else "the first world's training data",
        files=("retention.png",),
        provenance={name: provenance(world) for name, world in worlds.items()},
    )
    write_figure(out / "retention.png", retention_figure(report))
    write_json(out / "retention.json", report.to_json())
    return report


@torch.inference_mode()
def imagine_turn(world: World, path: RetentionPath, config: RetentionConfig) -> Frames:
    """The turn at A, frames (R, H, W, 3) uint8, as ``world`` imagines it after all that was real before."""
    state = world.start(1, np.array([path.index + config.seed * 1_000_003]))
    for begin in range(0, path.begin, config.chunk):
        leg = slice(begin, min(begin + config.chunk, path.begin))
        state = world.observe(state, path.frames[None, leg], path.actions[None, leg], path.poses[None, leg])
    ((frames, _),) = imagine_batch(world, state, [path], "true")
    return frames


def record_retention_path(
    env: gym.Env[Any, Any], away: int, map_seed: int, arrival: Arrival = "backward", *, seed: int = 0, index: int = 0
) -> RetentionPath | None:
    """Walk one path; None if the way back got stuck. The same arguments always give the same path.

    A and the first heading depend on ``seed`` and ``map_seed`` alone: times away differ in nothing but the walk.

    Args:
        env: has a ``layout`` and an ``action_spec``; takes ``options={"map_seed": …, "pose": …}``.
        away: steps between the first turn at A and turning back.
        map_seed: of the map.
        arrival: how to come back to A.
        seed: of the place, the first heading and the walk, with the other arguments.
        index: recorded in the path.

    Raises:
        ConfigError: an environment that means nothing to a walker, or whose episode ended.
    """
    own = int(np.random.SeedSequence([seed, map_seed]).generate_state(1)[0])
    _, info = env.reset(seed=own, options={"map_seed": map_seed})
    layout = layout_of(env)
    home = layout.random_position(np.random.default_rng(own))
    frame, info = env.reset(seed=own, options={"map_seed": map_seed, "pose": [*home, *info["pose"][2:]]})
    walker = _Wanderer(home, away, _GAITS[arrival])
    walker.reset(env, np.random.default_rng([own, away]))
    walked = follow(env, walker, frame, info)
    if walked is None:
        return None
    frames, actions, track, begin = walked
    apart = np.linalg.norm(track[:, :2] - home, axis=1)
    x, y = track[apart.argmax(), :2]
    radius = round(float(apart.max()) / layout.room_size / ROOMS_PER_BLOCK)
    return RetentionPath(
        "ABCA", radius, map_seed, index, frames, actions, track, begin,
        (home, (float(x), float(y))), layout, away,
    )  # fmt: skip


class _Wanderer(Returning):
    """Turns at A, walks elsewhere for ``away`` steps, comes back by ``gait`` and turns again."""

    def __init__(self, home: Point, away: int, gait: Gait) -> None:
        super().__init__((home,), "ABCA")
        self._away, self._gait = away, gait

    def _live(self) -> Iterator[Any]:
        (home,) = self._places
        yield from self._turn_around()
        yield from islice(self._wander(), self._away)
        yield from self._go(home, self._gait)
        self.returning = True
        yield from self._turn_around()

    def _wander(self) -> Iterator[Any]:
        while True:
            # Not arriving is no failure here: the next place is another one.
            yield from LoopWalker._go(self, self._elsewhere())
            if self._rng.random() < _LOOK:
                yield from self._look_around()

    def _elsewhere(self) -> Point:
        """A place outside A's room, on a way that does not lead back through it, as far as the map allows."""
        layout, home = self._layout, self._layout.room_of(*self._places[0])
        here: Point = (float(self._pose[0]), float(self._pose[1]))
        place = other = layout.random_position(self._rng)
        for _ in range(_PLACES):
            if layout.room_of(*place) != home:
                other = place
                inside = layout.room_of(*here) == home
                if inside or all(layout.room_of(*point) != home for point in layout.route(here, place)):
                    return place
            place = layout.random_position(self._rng)
        return other


@dataclass(frozen=True)
class _Judged:
    """One path without its frames.

    Attributes:
        map_seed: of its map.
        about: gap, share elsewhere, frames of the turn, how many of them were unseen lately.
        values: by source and measure, the mean over the turn and over what was unseen lately (NaN if nothing was).
    """

    map_seed: int
    about: tuple[float, float, float, float]
    values: dict[tuple[str, str], tuple[float, float]]


def _judge(
    path: RetentionPath, shown: Mapping[str, Frames], measures: Sequence[Measure], unseen: NDArray[np.bool_]
) -> _Judged:
    values = {}
    for measure in measures:
        for source, frames in shown.items():
            alike = measure.of(frames, path.frames[path.begin :])
            rest = float(alike[unseen].mean()) if unseen.any() else math.nan
            values[source, measure.name] = float(alike.mean()), rest
    about = (path.begin - 1 - path.length, path.elsewhere, path.length, int(unseen.sum()))
    return _Judged(path.map_seed, about, values)


def _cell(away: int, judged: Sequence[_Judged], config: RetentionConfig) -> AwayCell:
    return AwayCell(away, len(judged), config.maps - len(judged), *np.mean([j.about for j in judged], 0).tolist())


def _scores(judged: Sequence[_Judged], away: int, config: RetentionConfig) -> Iterator[Retained]:
    maps = [j.map_seed for j in judged]
    first, _ = next(iter(judged[0].values))
    for source, measure in judged[0].values:
        ours, base = (np.array([j.values[name, measure] for j in judged]) for name in (source, first))
        turn, unseen = (bootstrap(column, maps, seed=config.seed) for column in ours.T)
        more, more_unseen = (bootstrap(column, maps, seed=config.seed) for column in (ours - base).T)
        gains = (None, None) if source == first else (more, more_unseen)
        yield Retained(away, measure, source, turn, unseen, *gains)
