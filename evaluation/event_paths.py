"""Paths on which something changes: seen before, changed, seen after, left, and seen again. Walked in DoomRooms."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.doom_rooms.events import touched
from ..envs.doom_rooms.layout import Item, Layout, Thing
from ..envs.event_explorer import rooms_of, things_of, view_of, way_to
from ..envs.explorers import ROOMS_PER_BLOCK, layout_of
from ..envs.steering import YAW, Point
from ..errors import ConfigError
from .event_report import Dropped, EventConfig, Kind, Reason
from .media import Frames
from .progress import Progress, silent
from .return_paths import Returning, ReturnPath, follow

_PLACES = 50


@dataclass(frozen=True)
class EventPath(ReturnPath):
    """One real path; its exploration leg ends away from the thing that changed on it.

    Attributes:
        kind: of the thing.
        thing: its index in the map's ``things``.
        change: index of the first frame after it changed.
        other: (T, H, W, 3) uint8, each frame as it would be with this one thing in its other state: before the change
            as after, after as before. All else is as it is in ``frames``.
        exists: (T,) bool, whether there is such a frame: not where the walker stands in the shut door.
        region: (T, H, W) bool, the pixels in which the two differ; none where ``other`` does not exist.
    """

    kind: Kind
    thing: int
    change: int
    other: Frames
    exists: NDArray[np.bool_]
    region: NDArray[np.bool_]

    @property
    def size(self) -> NDArray[np.int64]:
        """(T,) pixels of the region."""
        size: NDArray[np.int64] = self.region.sum((1, 2))
        return size


def record_event_paths(
    env: gym.Env[Any, Any], maps: Sequence[int], config: EventConfig, progress: Progress = silent
) -> tuple[tuple[EventPath, ...], tuple[Dropped, ...]]:
    """One path of every kind on each of ``maps``, and those that came to nothing; see `record_event_path`."""
    paths, dropped = [], []
    asked = [(kind, map_seed) for map_seed in maps for kind in config.kinds]
    for index, (kind, map_seed) in enumerate(asked):
        path = record_event_path(env, kind, map_seed, config, index)
        if isinstance(path, EventPath):
            paths.append(path)
        else:
            dropped.append(Dropped(kind, map_seed, path))
        progress("walking real paths", index + 1, len(asked))
    return tuple(paths), tuple(dropped)


def record_event_path(
    env: gym.Env[Any, Any], kind: Kind, map_seed: int, config: EventConfig, index: int = 0
) -> EventPath | Reason:
    """Walk one path, or say why there is none. The same arguments always give the same path.

    The walker begins at A, facing the thing, and turns once around; goes there, so that it changes; comes back to A and
    looks from left to right; goes to two places in another room, turning around at each. There the return leg begins:
    back to A, facing the thing, and once around.

    Args:
        env: DoomRooms with events, and an episode that does not end.
        kind: of the thing, which is drawn from those of the map.
        map_seed: of the map.
        config: ``away``, ``pixels`` and ``threshold`` say what counts as seen and as away.
        index: recorded in the path.

    Raises:
        ConfigError: nothing changes in ``env``, or its episode ended.
    """
    own = int(np.random.SeedSequence([config.seed, map_seed, int(kind == "door")]).generate_state(1)[0])
    rng = np.random.default_rng(own)
    _, info = env.reset(seed=own, options={"map_seed": map_seed})
    layout = things_of(env)
    chosen = _choose(layout, kind, rng)
    if chosen is None:
        return "nothing to see"
    index_of, view, places = chosen
    thing = layout.things[index_of]
    pose = [*view, info["pose"][2], math.atan2(thing.y - view[1], thing.x - view[0]), 0.0]
    frame, info = env.reset(seed=own, options={"map_seed": map_seed, "pose": pose})
    walker = _EventWalker(layout, thing, view, places)
    walker.reset(env, rng)
    walked = follow(env, walker, frame, info)
    if walked is None:
        return "stuck"
    frames, actions, poses, begin = walked
    changes = [index_of in changed for changed in walker.changed]
    if not changes[begin]:
        return "unchanged"
    other = _others(env, poses, [changed ^ {index_of} for changed in walker.changed])
    differs = np.abs(frames.astype(np.int16) - other.frames).max(-1) > config.threshold
    path = EventPath(
        "ABCA", round(math.dist(view, places[0]) / layout.room_size / ROOMS_PER_BLOCK), map_seed, index,
        frames, actions, poses, begin, (view, *places), layout_of(env),
        kind, index_of, changes.index(True), other.frames, other.exists, differs & other.exists[:, None, None],
    )  # fmt: skip
    return _why_not(path, config) or path


def unchanged(path: EventPath) -> EventPath | None:
    """The same walk as if the thing had stayed as it was; None where it leads through the door that is then shut."""
    if not path.exists.all():
        return None
    after = (np.arange(len(path.frames)) >= path.change)[:, None, None, None]
    frames, other = (np.where(after, a, b) for a, b in ((path.other, path.frames), (path.frames, path.other)))
    return replace(path, frames=frames, other=other)


def _why_not(path: EventPath, config: EventConfig) -> Reason | None:
    seen = path.size >= config.pixels
    if not (seen[: path.change].any() and seen[path.change : path.begin].any()):
        return "not seen before and after"
    if path.size[max(0, path.begin - config.away) : path.begin].any():
        return "not away"
    return None if seen[path.begin :].any() else "not seen again"


def _choose(layout: Layout, kind: Kind, rng: np.random.Generator) -> tuple[int, Point, tuple[Point, Point]] | None:
    """A thing, A to see it from, and two places in a room where it is not, the most doors away; None if none fits."""
    right = [i for i, thing in enumerate(layout.things) if isinstance(thing, Item) == (kind == "item")]
    for i in (right[k] for k in rng.permutation(len(right))):
        thing = layout.things[i]
        rooms = rooms_of(layout, thing)
        room = rooms[int(rng.integers(len(rooms)))]
        view = view_of(layout, thing, room, rng)
        away = {r: doors for r, doors in layout.doors_away(room).items() if r not in rooms}
        if view is None or not away or touched(layout, *view):
            continue
        far = [r for r, doors in away.items() if doors == max(away.values())]
        there = far[int(rng.integers(len(far)))]
        first, second = (layout.random_position(rng, there) for _ in range(2))
        return i, view, (first, second)
    return None


class _EventWalker(Returning):
    """Walks the path of `record_event_path`.

    Attributes:
        changed: what had changed at each frame seen so far.
    """

    def __init__(self, layout: Layout, thing: Thing, view: Point, places: tuple[Point, ...]) -> None:
        super().__init__((view, *places), "ABCA")
        self._thing, self._there = thing, way_to(layout, thing, view)
        self.changed: list[frozenset[int]] = []

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        super().reset(env, rng)
        self._env = env

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        self.changed.append(things_of(self._env).changed)
        return super().act(observation, info)

    def _live(self) -> Iterator[Any]:
        view, *places = self._places
        yield from self._turn_around()
        yield from self._go(self._there)
        yield from self._go(view)
        yield from self._face()
        for turn in (1, -1, -1, 1):
            yield self._steering.action(YAW, turn * self._steering.turn)
        for place in places:
            yield from self._go(place)
            yield from self._turn_around()
        self.returning = True
        yield from self._go(view)
        yield from self._face()
        yield from self._turn_around()

    def _face(self) -> Iterator[Any]:
        x, y = self._thing.x - float(self._pose[0]), self._thing.y - float(self._pose[1])
        yield from self._turn_to(math.atan2(y, x))


@dataclass(frozen=True)
class _Others:
    """Frames (T, H, W, 3), and whether each exists; one that does not is black."""

    frames: Frames
    exists: NDArray[np.bool_]


def _others(env: gym.Env[Any, Any], poses: NDArray[np.float64], changed: Sequence[Collection[int]]) -> _Others:
    """What ``env`` shows at every pose with the things of ``changed`` changed; every set of these is shown once."""
    real = env.unwrapped
    if not isinstance(real, DoomRoomsEnv):
        raise ConfigError(f"Events are tested in DoomRooms; got {real}.")
    sets = [frozenset(c) for c in changed]
    maps = [real.layout.with_changed(c) for c in sets]
    exists = np.array([m.clear(x, y, -0.1) for m, (x, y) in zip(maps, poses[:, :2].tolist(), strict=True)])
    height, width = real.frame_size
    frames = np.zeros((len(poses), height, width, 3), np.uint8)
    for one in set(sets):
        chosen = np.flatnonzero(exists & np.array([c == one for c in sets]))
        if len(chosen):
            frames[chosen] = real.render_path(list(poses[chosen]), one)
    return _Others(frames, exists)
