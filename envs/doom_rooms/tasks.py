"""What an agent is asked to do in the rooms: where it starts, what it earns, when it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...errors import ConfigError
from .layout import Layout, Point
from .routes import route_length

Task = Literal["explore", "find", "return"]
Level = Literal["near", "next", "far"]

STEP_COST = 0.002
GOAL_REACH = 64.0
"""``find`` succeeds within this distance of the goal's centre, in map units."""
START_DISTANCE = 112.0
"""``find`` starts at least this far from the goal."""
RETURN_LEAVE = 200.0
"""``return`` counts as explored once the player has been this far from its start."""
RETURN_REACH = 48.0
"""``return`` succeeds within this distance of the start …"""
RETURN_HEADING = math.radians(30)
"""… and with a heading at most this far from the first one."""
SHAPING_DISCOUNT = 0.99

_STEPS = {"explore": 500, "near": 100, "next": 150, "far": 300, "return": 400}


@dataclass(frozen=True)
class Judgement:
    """What one step earned, and whether the task is done."""

    reward: float
    success: bool


@dataclass
class Assignment:
    """One episode's task: the rules, and how far it has got.

    Attributes:
        task: ``"explore"`` never ends and pays nothing; ``"find"`` ends at the goal; ``"return"`` ends back at the
            first pose, once the player has been `RETURN_LEAVE` away.
        level: how far the goal of ``"find"`` is: ``"near"`` in the room of the start, ``"next"`` one door away,
            ``"far"`` in any room.
        shaping: add ``SHAPING_DISCOUNT * potential(after) - potential(before)`` to the reward, the potential being
            minus the length of the way to the target in rooms; the best policy stays the same.
        start: (x, y, yaw) of the first frame.
        left: whether the player has been `RETURN_LEAVE` away from the start.
        potential: of the latest position.
    """

    task: Task
    level: Level
    shaping: bool
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)
    left: bool = False
    potential: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ConfigError(f"task is one of {', '.join(get_args(Task))}; got {self.task!r}.")
        if self.level not in get_args(Level):
            raise ConfigError(f"level is one of {', '.join(get_args(Level))}; got {self.level!r}.")

    @property
    def default_steps(self) -> int:
        """Steps after which an episode is cut off unless told otherwise."""
        return _STEPS[self.level if self.task == "find" else self.task]

    def draw_start(self, layout: Layout, rng: np.random.Generator) -> Point:
        """A random place to start from that fits the level."""
        if self.task != "find":
            return layout.random_position(rng)
        goal_room = layout.room_of(*layout.goal)
        away = layout.doors_away(goal_room)
        wanted = {"near": [0], "next": [1], "far": sorted(set(away.values()))}[self.level]
        rooms = [room for room, doors in away.items() if doors in wanted]
        if not rooms:
            raise ConfigError(f"Level {self.level!r} needs a room that far from the goal; this map has one room only.")
        while True:
            place = layout.random_position(rng, rooms[int(rng.integers(len(rooms)))])
            if math.dist(place, layout.goal) >= START_DISTANCE:
                return place

    def begin(self, layout: Layout, x: float, y: float, yaw: float) -> None:
        """The first frame of an episode is at (x, y, yaw)."""
        self.start, self.left = (x, y, yaw), False
        self.potential = self._potential(layout, x, y)

    def judge(self, layout: Layout, x: float, y: float, yaw: float) -> Judgement:
        """What a step that led to (x, y, yaw) earns."""
        if self.task == "explore":
            return Judgement(0.0, False)
        success = self._done(layout, x, y, yaw)
        reward = float(success) - STEP_COST
        if self.shaping:
            before, self.potential = self.potential, 0.0 if success else self._potential(layout, x, y)
            reward += SHAPING_DISCOUNT * self.potential - before
        return Judgement(reward, success)

    def _done(self, layout: Layout, x: float, y: float, yaw: float) -> bool:
        if self.task == "find":
            return math.dist((x, y), layout.goal) <= GOAL_REACH
        distance = math.dist((x, y), self.start[:2])
        self.left = self.left or distance >= RETURN_LEAVE
        turned = abs(math.remainder(yaw - self.start[2], 2 * math.pi))
        return self.left and distance <= RETURN_REACH and turned <= RETURN_HEADING + 1e-9

    def _potential(self, layout: Layout, x: float, y: float) -> float:
        if not self.shaping or self.task == "explore":
            return 0.0
        if self.task == "return" and not self.left:
            return 0.0
        target = layout.goal if self.task == "find" else self.start[:2]
        return -route_length((x, y), layout.route((x, y), target)) / layout.room_size
