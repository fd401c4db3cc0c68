"""Where a goal lies as seen from somewhere: its bearing, what stands between, and how far it is to walk."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.doom_rooms.layout import PLAYER_RADIUS, Layout, Point
from ..envs.doom_rooms.routes import route_length
from ..world_models.actions import ActionSpec
from .goals import Pose

HALF_VIEW = 45.0
"""Degrees from the middle of DoomRooms' picture to its edge."""
_STRIDE = 4


def map_of(env: gym.Env[Any, Any]) -> Layout | None:
    """The map that ``env`` shows now; None for an environment without one, where nothing is in the way."""
    layout: Layout | None = getattr(env.unwrapped, "layout", None)
    return layout


def bearing(start: Pose, goal: Pose) -> float:
    """Degrees between the viewing direction at ``start`` and the direction to ``goal``'s position."""
    toward = math.atan2(goal[1] - start[1], goal[0] - start[0])
    return abs(math.degrees((toward - start[3] + math.pi) % (2 * math.pi) - math.pi))


def free_line(layout: Layout | None, start: Pose, end: Pose, body: bool, short: float = 0.0) -> bool:
    """Whether the straight line holds nothing solid, ``short`` units before its end: for a walker's ``body``, or only
    for a look."""
    if layout is None:
        return True
    margin, length = 0.0 if body else -PLAYER_RADIUS, math.dist(start[:2], end[:2])
    stop = end[:2] if not short else start[:2] + max(0.0, 1 - short / length) * (end[:2] - start[:2])
    points = np.linspace(start[:2], stop, max(2, math.ceil(length / _STRIDE)))
    return all(layout.clear(float(x), float(y), margin) for x, y in points)


def in_view(layout: Layout | None, start: Pose, goal: Pose, short: float = 0.0) -> bool:
    """Whether the position of ``goal`` is inside the picture at ``start``, nothing solid before it but for the last
    ``short`` units."""
    return bearing(start, goal) <= HALF_VIEW and free_line(layout, start, goal, body=False, short=short)


def unseen(layout: Layout | None, poses: NDArray[np.float64], goal: Pose, short: float = 0.0) -> int | None:
    """Frames since the position of ``goal`` was last `in_view` from poses (K, 5); None for never."""
    return next((ago for ago in range(len(poses)) if in_view(layout, poses[-1 - ago], goal, short)), None)


def straight_steps(spec: ActionSpec, start: Pose, goal: Pose) -> float:
    """Actions between two poses, by turning and going forward, where nothing is in the way."""
    return _turning_and_walking(spec, start, goal, [(float(goal[0]), float(goal[1]))])


def walking_steps(layout: Layout, spec: ActionSpec, start: Pose, goal: Pose) -> float:
    """About the actions of the shortest way between two poses, by turning and going forward."""
    route = layout.route((float(start[0]), float(start[1])), (float(goal[0]), float(goal[1])))
    return _turning_and_walking(spec, start, goal, route)


def _turning_and_walking(spec: ActionSpec, start: Pose, goal: Pose, route: list[Point]) -> float:
    points = [(float(start[0]), float(start[1])), *route]
    headings = [math.atan2(b[1] - a[1], b[0] - a[0]) for a, b in itertools.pairwise(points) if a != b]
    facing = [float(start[3]), *headings, float(goal[3])]
    turned = sum(abs(math.remainder(b - a, 2 * math.pi)) for a, b in itertools.pairwise(facing))
    return route_length(points[0], route) / spec.step_length + turned / spec.step_angle


def walking_distance(layout: Layout | None, start: Pose, goal: Pose) -> float:
    """World units of the shortest way between two poses on the true map."""
    here, there = (float(start[0]), float(start[1])), (float(goal[0]), float(goal[1]))
    return math.dist(here, there) if layout is None else route_length(here, layout.route(here, there))
