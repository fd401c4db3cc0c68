"""`SearchingExplorer`: looks for the goal as one must who knows no map."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .explorers import Planned
from .steering import YAW, wrap


class SearchingExplorer(Planned):
    """Turns until the goal is in view, goes there, and looks elsewhere where it is not.

    A walker that knows the way never looks for anything: who learns from its walks does not learn that turning round
    shows what was out of view. This one uses its map only to know whether a goal ahead is reached in a straight line.

    Args:
        heeds: how often it goes to a goal that it sees; otherwise it goes somewhere else and looks again.
        view: width of what it takes to be in view, in radians.
        stroll: how far it goes on at most before it looks again, in rooms.
    """

    name = "search"

    def __init__(self, heeds: float = 0.8, view: float = math.radians(75), stroll: float = 0.8) -> None:
        self._heeds, self._view, self._stroll = heeds, view, stroll

    def _live(self) -> Iterator[object]:
        while True:
            yield from self._look_for_goal()
            if self._sees_goal() and self._rng.random() < self._heeds:
                yield from self._go(self._layout.goal)
                # Who stands at the goal already would go there again and again without a step.
                yield from self._look_around()
            else:
                yield from self._go(self._nearby())

    def _look_for_goal(self) -> Iterator[object]:
        """Turn one way until the goal is in view, or once round."""
        side = 1 if self._rng.random() < 0.5 else -1
        for _ in range(round(2 * math.pi / self._steering.turn)):
            if self._sees_goal():
                return
            yield self._steering.action(YAW, side * self._steering.turn)

    def _sees_goal(self) -> bool:
        (x, y), goal = self._pose[:2].tolist(), self._layout.goal
        bearing = wrap(math.atan2(goal[1] - y, goal[0] - x) - float(self._pose[3]))
        return abs(bearing) <= self._view / 2 and len(self._layout.route((x, y), goal)) == 1

    def _nearby(self) -> tuple[float, float]:
        here = (float(self._pose[0]), float(self._pose[1]))
        reach = self._stroll * self._layout.room_size
        places = [self._layout.random_position(self._rng, self._layout.room_of(*here)) for _ in range(8)]
        return next((place for place in places if math.dist(here, place) <= reach), places[-1])
