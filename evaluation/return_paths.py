"""Paths that leave a place and come back to it: LoopNav's ABA and ABCA, walked in a real environment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.doom_rooms.routes import route_length
from ..envs.explorers import LOOP_RADII, ROOMS_PER_BLOCK, LoopWalker, layout_of
from ..envs.steering import WALKING, YAW, Gait, Layout, Point, Walk
from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.pose import pose_distance
from .media import Frames
from .progress import Progress, silent

PathType = Literal["ABA", "ABCA"]
"""``ABA`` returns the way it came; ``ABCA`` goes on to a third place and returns from there."""

TYPES: tuple[PathType, ...] = get_args(PathType)
RADII = tuple(round(radius / ROOMS_PER_BLOCK) for radius in LOOP_RADII)
"""LoopNav's radii in its own blocks, by which they are named: 5 | 15 | 30 | 50."""

_SPOTS = 200
_PAIRS = 8
_RING = 0.15


@dataclass(frozen=True)
class ReturnPath:
    """One real path of T frames: an exploration leg, then a return leg of R = T - begin frames.

    Attributes:
        type: see `PathType`.
        radius: LoopNav's label of the distance between A and the other places, in blocks.
        map_seed: of the map.
        index: the path's place among all that were asked for: what its noise depends on.
        frames: (T, H, W, 3) uint8.
        actions: (T, ...) the action that led to each frame; the first led nowhere and is zero.
        poses: (T, 5) float64 canonical.
        begin: index of the first frame of the return leg.
        places: A, B and perhaps C, in world units.
        layout: the map.
    """

    type: PathType
    radius: int
    map_seed: int
    index: int
    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    begin: int
    places: tuple[Point, ...]
    layout: Layout

    @property
    def length(self) -> int:
        """R, frames of the return leg."""
        return len(self.frames) - self.begin

    @property
    def rooms(self) -> float:
        """Distance from A to B as it came out, in rooms."""
        return math.dist(self.places[0], self.places[1]) / self.layout.room_size

    def nearest_seen(self, spec: ActionSpec) -> NDArray[np.int64]:
        """(R,) for every frame of the return leg, the exploration frame whose pose is nearest to its own.

        Distance and angle between two poses count in steps and turns of ``spec``, and add up as squares.
        """
        track = torch.as_tensor(self.poses)
        distance, angle = pose_distance(track[self.begin :, None], track[None, : self.begin])
        apart = torch.hypot(distance / spec.step_length, angle / spec.step_angle)
        nearest: NDArray[np.int64] = apart.argmin(1).numpy()
        return nearest


@dataclass(frozen=True)
class ReturnPaths:
    """The paths of a test, and those that came to nothing.

    Attributes:
        paths: in the order of their index; of different lengths.
        dropped: (type, radius, map seed) of each walk that got stuck before it was back.
    """

    paths: tuple[ReturnPath, ...]
    dropped: tuple[tuple[PathType, int, int], ...]


def record_paths(
    env: gym.Env[Any, Any],
    maps: Sequence[int],
    types: Sequence[PathType] = TYPES,
    radii: Sequence[int] = RADII,
    seed: int = 0,
    progress: Progress = silent,
) -> ReturnPaths:
    """One path of every type and radius on each of ``maps``, map after map; see `record_path`."""
    asked = [(kind, radius, m) for m in maps for radius in radii for kind in types]
    paths, dropped = [], []
    for index, (kind, radius, map_seed) in enumerate(asked):
        path = record_path(env, kind, radius, map_seed, seed=seed, index=index)
        if path is None:
            dropped.append((kind, radius, map_seed))
        else:
            paths.append(path)
        progress("walking real paths", index + 1, len(asked))
    return ReturnPaths(tuple(paths), tuple(dropped))


def record_path(
    env: gym.Env[Any, Any], kind: PathType, radius: int, map_seed: int, *, seed: int = 0, index: int = 0
) -> ReturnPath | None:
    """Walk one path; None if the walk got stuck. The same arguments always give the same path.

    At A the walker turns once around before it leaves; at B, and at C, it does so too, so that both sides of the way
    are known. It comes back to A, turns to its first heading, and turns once around again.

    Args:
        env: has a ``layout`` and an ``action_spec``; takes ``options={"map_seed": …, "pose": …}``.
        kind: see `PathType`.
        radius: distance between A and the other places, in blocks (`ROOMS_PER_BLOCK`), as nearly as the map allows.
        map_seed: of the map.
        seed: of places, first heading and walk, with the other arguments.
        index: recorded in the path.

    Raises:
        ConfigError: no such kind or radius, an environment to which paths mean nothing, or whose episode ended.
    """
    check_type(kind)
    check_radius(radius)
    own = int(np.random.SeedSequence([seed, map_seed, TYPES.index(kind), radius]).generate_state(1)[0])
    rng = np.random.default_rng(own)
    _, info = env.reset(seed=own, options={"map_seed": map_seed})
    layout = layout_of(env)
    places = choose_places(layout, kind, radius * ROOMS_PER_BLOCK * layout.room_size, rng)
    pose = np.array(info["pose"], dtype=np.float64)
    pose[:2] = places[0]
    frame, info = env.reset(seed=own, options={"map_seed": map_seed, "pose": pose})
    walker = Returning(places, kind)
    walker.reset(env, rng)
    walked = follow(env, walker, frame, info)
    if walked is None:
        return None
    frames, actions, poses, begin = walked
    return ReturnPath(
        kind, radius, map_seed, index, frames, actions, poses, begin, places, layout
    )


def follow(
    env: gym.Env[Any, Any], walker: Returning, frame: Frames, info: dict[str, Any]
) -> tuple[Frames, NDArray[Any], NDArray[np.float64], int] | None:
    """Record a walk to its end, from the frame and info of a reset: None where the walker got stuck.

    Returns:
        Frames (T, H, W, 3), the actions (T, ...) that led to them, poses (T, 5), and where the return leg begins.

    Raises:
        ConfigError: the episode ended first.
    """
    frames, actions, poses = [frame], [np.zeros(env.action_space.shape or (), env.action_space.dtype)], [info["pose"]]
    begin = 0
    try:
        while (action := walker.act(frame, info)) is not None:
            if walker.returning and not begin:
                begin = len(frames)
            frame, _, terminated, truncated, info = env.step(action)
            frames.append(frame)
            actions.append(np.asarray(action, env.action_space.dtype))
            poses.append(info["pose"])
            if terminated or truncated:
                raise ConfigError(
                    f"The real episode ended after {len(frames)} frames, before the walker was back; "
                    "use a task without an end."
                )
    except Stuck:
        return None
    return np.stack(frames), np.stack(actions), np.stack(poses), begin


def choose_places(layout: Layout, kind: PathType, distance: float, rng: np.random.Generator) -> tuple[Point, ...]:
    """A, B and for ``ABCA`` C, with B and C ``distance`` world units away from A as nearly as the map allows.

    Of the pairs that fit best, (A, B) is the one with the shortest way between them, so that a small radius is not a
    long way round a wall; C is as far from B as it can be, so that the way back from it is another one.
    """
    spots = [layout.random_position(rng) for _ in range(_SPOTS)]
    points = np.array(spots)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    error = np.abs(apart - distance)
    error[np.tril_indices(_SPOTS)] = np.inf
    pairs = [divmod(int(i), _SPOTS) for i in np.argsort(error, axis=None, kind="stable")[:_PAIRS]]
    a, b = min(pairs, key=lambda pair: route_length(spots[pair[0]], layout.route(spots[pair[0]], spots[pair[1]])))
    if kind == "ABA":
        return spots[a], spots[b]
    off = np.abs(apart[a] - distance)
    off[[a, b]] = np.inf
    ring = np.flatnonzero(off <= max(_RING * distance, off.min()))
    return spots[a], spots[b], spots[int(ring[np.argmax(apart[b, ring])])]


def check_type(kind: str) -> None:
    """Refuse what is no `PathType`, by a `ConfigError`."""
    if kind not in TYPES:
        raise ConfigError(f"A path is {' or '.join(map(repr, TYPES))}, not {kind!r}.")


def check_radius(radius: int) -> None:
    """Refuse what is no radius in blocks, by a `ConfigError`."""
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 1:
        raise ConfigError(f"A radius is a whole number of blocks, at least 1; got {radius!r}.")


class Stuck(Exception):
    """The walker gave up a walk."""


class Returning(LoopWalker):
    """Walks one path and then has no more actions: `act` returns None.

    Attributes:
        returning: whether the action just given belongs to the return leg.
    """

    def __init__(self, places: tuple[Point, ...], kind: PathType) -> None:
        super().__init__()
        self._places, self._kind = places, kind
        self.returning = False

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        try:
            return super().act(observation, info)
        except StopIteration:
            return None

    def _live(self) -> Iterator[Any]:
        (start, *others), yaw = self._places, float(self._pose[3])
        way = [start, *self._layout.route(start, others[0])]
        yield from self._turn_around()
        for place in others:
            yield from self._go(place)
            yield from self._turn_around()
        self.returning = True
        if self._kind == "ABA":
            self._layout = _KnownWay(self._layout, way[::-1])
        yield from self._go(start)
        yield from self._turn_to(yaw)
        yield from self._turn_around()

    def _go(self, target: Point, gait: Gait = WALKING) -> Iterator[Any]:
        walk = Walk(self._layout, self._steering, self._pose, target, gait)
        self._collided = False
        while (action := walk.act(self._pose, self._collided, self._rng)) is not None:
            yield action
        if not walk.arrived:
            raise Stuck

    def _turn_around(self) -> Iterator[Any]:
        sign = 1 if self._rng.random() < 0.5 else -1
        yield from [self._steering.action(YAW, sign * self._steering.turn)] * round(2 * math.pi / self._steering.turn)


class _KnownWay:
    """A `Layout` on which the only way to anywhere is along way-points walked before."""

    def __init__(self, layout: Layout, way: list[Point]) -> None:
        self.goal, self.room_size = layout.goal, layout.room_size
        self._layout, self._way = layout, way

    def random_position(self, rng: np.random.Generator, room: int | None = None) -> Point:
        return self._layout.random_position(rng, room)

    def route(self, start: Point, end: Point) -> list[Point]:
        nearest = min(range(len(self._way)), key=lambda i: math.dist(start, self._way[i]))
        return self._way[nearest:]

    def room_of(self, x: float, y: float) -> int:
        return self._layout.room_of(x, y)
