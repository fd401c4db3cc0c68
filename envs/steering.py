"""Walking along way-points by the actions of any `ActionSpec`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..world_models.actions import ActionSpec

Point = tuple[float, float]
FORWARD, LEFT, YAW = 0, 1, 3


@dataclass(frozen=True)
class Gait:
    """A way to move: along ``axis`` (`FORWARD` or `LEFT`), to its positive or negative side."""

    axis: int
    sign: int

    @property
    def angle(self) -> float:
        """Direction of the movement, seen from the camera, in radians counter-clockwise."""
        return (math.pi / 2 if self.axis == LEFT else 0.0) + (math.pi if self.sign < 0 else 0.0)


WALKING = Gait(FORWARD, 1)
OTHER_GAITS = (Gait(FORWARD, -1), Gait(LEFT, 1), Gait(LEFT, -1))
"""Backwards and sideways."""


class Layout(Protocol):
    """What a walker needs to know of a map; `doom_rooms.layout.Layout` is one. Lengths are in world units."""

    goal: Point
    room_size: int

    def random_position(self, rng: np.random.Generator, room: int | None = None) -> Point:
        """A free place in ``room``, or anywhere."""

    def route(self, start: Point, end: Point) -> list[Point]:
        """Way-points from ``start`` to ``end``, the last one; straight lines between them are free."""

    def room_of(self, x: float, y: float) -> int:
        """The room that holds (x, y)."""


class Steering:
    """Chooses actions that turn and move the camera.

    Attributes:
        step: how far one action moves forward, in world units.
        turn: how far one action turns, in radians.

    Raises:
        ConfigError: no action moves forward, or none turns each way.
    """

    def __init__(self, spec: ActionSpec) -> None:
        self._spec = spec
        self._motion = np.array(spec.motion, dtype=np.float64)
        self.step = float(np.abs(self._motion[:, FORWARD]).max(initial=0))
        self.turn = float(np.abs(self._motion[:, YAW]).max(initial=0))
        if self.step == 0 or self.turn == 0:
            raise ConfigError(
                f"Walking needs actions that move forward and turn; this world's are {', '.join(spec.names)}."
            )

    def action(self, axis: int, amount: float) -> Any:
        """The action nearest to a motion of ``amount`` along ``axis`` (`FORWARD`, `LEFT` or `YAW`)."""
        if self._spec.kind == "discrete":
            return int(np.argmax(self._motion[:, axis] * math.copysign(1, amount)))
        return self._box({axis: amount})

    def can(self, gait: Gait) -> bool:
        """Whether some action moves that way."""
        along = self._motion[:, gait.axis]
        return bool((along != 0).any() if self._spec.kind == "box" else (along * gait.sign > 0).any())

    def toward(self, pose: NDArray[np.float64], target: Point, gait: Gait = WALKING) -> Any:
        """The action from ``pose`` (5,) towards ``target``: turn until ``gait`` leads there, then move."""
        dx, dy = target[0] - pose[0], target[1] - pose[1]
        error = wrap(math.atan2(dy, dx) - gait.angle - float(pose[3]))
        if self._spec.kind == "discrete":
            return self.action(*((YAW, error) if abs(error) > self.turn / 2 else (gait.axis, gait.sign)))
        along = math.hypot(dx, dy) * math.cos(error) if abs(error) < math.pi / 4 else 0.0
        return self._box({YAW: error, gait.axis: gait.sign * along})

    def facing(self, pose: NDArray[np.float64], yaw: float) -> Any | None:
        """The action that turns ``pose`` (5,) towards ``yaw``, or None if it looks there already."""
        error = wrap(yaw - float(pose[3]))
        return self.action(YAW, error) if abs(error) > self.turn / 2 else None

    def random(self, rng: np.random.Generator) -> Any:
        """Any action, uniformly."""
        if self._spec.kind == "discrete":
            return int(rng.integers(self._spec.n))
        return rng.uniform(-1, 1, self._spec.n).astype(np.float32)

    def _box(self, amounts: dict[int, float]) -> NDArray[np.float32]:
        action = np.zeros(self._spec.n, dtype=np.float32)
        for axis, amount in amounts.items():
            coordinate = int(np.argmax(np.abs(self._motion[:, axis])))
            unit = self._motion[coordinate, axis]
            if unit:
                action[coordinate] = np.clip(amount / unit, -1, 1)
        return action


class Walk:
    """One walk to a place, that finds its way again when something stops it.

    Args:
        layout: the map.
        steering: the actions.
        pose: (5,) where the walk begins.
        target: where it leads.
        gait: how to move.

    Attributes:
        arrived: whether the walk came to its target. False while it goes on, and for good if it was given up.
    """

    _RETRIES = 4

    def __init__(
        self,
        layout: Layout,
        steering: Steering,
        pose: NDArray[np.float64],
        target: Point,
        gait: Gait = WALKING,
    ) -> None:
        self._layout, self._steering, self._target, self._gait = layout, steering, target, gait
        self._retries = self._RETRIES
        self._escape: list[Any] = []
        self.arrived = False
        self._plan(pose)

    def act(self, pose: NDArray[np.float64], collided: bool, rng: np.random.Generator) -> Any | None:
        """The next action from ``pose`` (5,), or None once the walk has arrived or was given up."""
        if collided and not self._escape:
            if self._retries == 0:
                return None
            self._retries -= 1
            self._escape = self._ways_out(rng)
        if self._escape:
            action = self._escape.pop()
            self._replan = not self._escape
            return action
        if self._replan:
            self._plan(pose)
        while self._points and math.dist(pose[:2], self._points[0]) <= 0.6 * self._steering.step:
            del self._points[0]
        self.arrived = not self._points
        self._patience -= 1
        if self.arrived or self._patience < 0:
            return None
        return self._steering.toward(pose, self._points[0], self._gait)

    def _plan(self, pose: NDArray[np.float64]) -> None:
        start = (float(pose[0]), float(pose[1]))
        self._points = list(self._layout.route(start, self._target))
        self._replan = False
        length = sum(math.dist(a, b) for a, b in zip([start, *self._points], self._points, strict=False))
        half_turn = math.pi / self._steering.turn
        self._patience = int(2 * length / self._steering.step + half_turn * len(self._points)) + 8

    def _ways_out(self, rng: np.random.Generator) -> list[Any]:
        """One or two steps another way."""
        ways = [gait for gait in (WALKING, *OTHER_GAITS) if gait != self._gait and self._steering.can(gait)]
        if not ways:
            return [self._steering.action(YAW, self._steering.turn)]
        way = ways[int(rng.integers(len(ways)))]
        return [self._steering.action(way.axis, way.sign * self._steering.step)] * int(rng.integers(1, 3))


def wrap(angle: float) -> float:
    """An angle in radians brought into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
