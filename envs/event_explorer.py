"""A walker that changes things and comes back to look: what it records shows places before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ConfigError
from .doom_rooms.layout import Item, Layout, Leaf, Thing
from .doom_rooms.routes import in_sight
from .explorers import Planned
from .steering import WALKING, YAW, Gait, Point

NEAREST_VIEW, FARTHEST_VIEW = 96.0, 240.0
"""Distance in map units from which a thing is looked at before and after it changes."""

_TRIES = 60
_AT_DOOR = 24.0
_BACKWARDS = Gait(WALKING.axis, -1)


class EventExplorer(Planned):
    """Looks at a thing, goes there so that it changes, looks again, goes elsewhere, and comes back to look.

    It does so with one or two things at a time, those near it first, and with things that changed earlier once all
    have. Half of the time it comes back to where it looked from before, else to another place.

    Args:
        pairs: how often it changes two things before it goes elsewhere.
        elsewhere: how often the place it goes to meanwhile is outside the room of the thing.
        same_place: how often it comes back to where it had looked from.
    """

    name = "event"

    def __init__(self, pairs: float = 0.4, elsewhere: float = 0.8, same_place: float = 0.5) -> None:
        self._pairs, self._elsewhere, self._same_place = pairs, elsewhere, same_place

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`.

        Raises:
            ConfigError: a world in which nothing changes.
        """
        super().reset(env, rng)
        self._env = env
        self._map = things_of(env)

    def _live(self) -> Iterator[Any]:
        while True:
            tour: list[tuple[Thing, Point]] = []
            for _ in range(2 if self._rng.random() < self._pairs else 1):
                thing = self._next_thing()
                view = self._view_of(thing)
                tour.append((thing, view))
                yield from self._meet(thing, view)
            for _ in range(int(self._rng.integers(1, 3))):
                yield from self._go(self._away_from(tour[0][0]))
            if self._rng.random() < 0.3:
                yield from self._look_around()
            for thing, view in tour:
                yield from self._look_at(thing, view if self._rng.random() < self._same_place else self._view_of(thing))

    def _next_thing(self) -> Thing:
        """The nearest of three that have not changed; of three that have, once all have."""
        changed = things_of(self._env).changed
        fresh = [thing for i, thing in enumerate(self._map.things) if i not in changed] or list(self._map.things)
        picked = [fresh[i] for i in self._rng.permutation(len(fresh))[:3]]
        nearest: Thing = min(picked, key=lambda thing: math.dist(self._pose[:2], (thing.x, thing.y)))
        return nearest

    def _meet(self, thing: Thing, view: Point) -> Iterator[Any]:
        """Look at it, change it, look again."""
        yield from self._look_at(thing, view)
        yield from self._go(way_to(self._map, thing, view))
        if self._rng.random() < 0.3:
            yield from self._go(view, _BACKWARDS if self._steering.can(_BACKWARDS) else WALKING)
        yield from self._look_at(thing, view)

    def _look_at(self, thing: Thing, view: Point) -> Iterator[Any]:
        yield from self._go(view)
        yield from self._turn_to(math.atan2(thing.y - float(self._pose[1]), thing.x - float(self._pose[0])))
        sign = 1 if self._rng.random() < 0.5 else -1
        for turn in (sign, -sign) if self._rng.random() < 0.5 else ():
            yield self._steering.action(YAW, turn * self._steering.turn)

    def _view_of(self, thing: Thing) -> Point:
        """A place to see ``thing`` from, in the room where the walker is if that can be."""
        rooms = rooms_of(self._map, thing)
        mine = self._map.room_of(float(self._pose[0]), float(self._pose[1]))
        room = mine if mine in rooms else rooms[int(self._rng.integers(len(rooms)))]
        return view_of(self._map, thing, room, self._rng) or self._map.random_position(self._rng, room)

    def _away_from(self, thing: Thing) -> Point:
        others = sorted(set(range(len(self._map.rooms))) - set(rooms_of(self._map, thing)))
        if not others or self._rng.random() >= self._elsewhere:
            return self._somewhere()
        return self._map.random_position(self._rng, others[int(self._rng.integers(len(others)))])


def view_of(layout: Layout, thing: Thing, room: int, rng: np.random.Generator) -> Point | None:
    """A place in ``room`` to see ``thing`` from, `NEAREST_VIEW` to `FARTHEST_VIEW` away, or None.

    Nothing solid stands in between, and a door is not seen edgewise.
    """
    for _ in range(_TRIES):
        spot = layout.random_position(rng, room)
        distance = math.dist(spot, (thing.x, thing.y))
        if not NEAREST_VIEW <= distance <= FARTHEST_VIEW:
            continue
        if isinstance(thing, Leaf) and abs(layout.through(layout.doors[thing.door], *spot)[0]) < distance / 2:
            continue
        if in_sight(layout, spot, (thing.x, thing.y)):
            return spot
    return None


def way_to(layout: Layout, thing: Thing, start: Point) -> Point:
    """Where to walk from ``start`` so that ``thing`` changes; on the same side of a door."""
    if isinstance(thing, Item):
        return thing.x, thing.y
    door = layout.doors[thing.door]
    step = math.copysign(_AT_DOOR, layout.through(door, *start)[0])
    return (thing.x + step, thing.y) if layout.is_vertical(door) else (thing.x, thing.y + step)


def rooms_of(layout: Layout, thing: Thing) -> list[int]:
    """The room that holds an item, or the two that a door joins."""
    if isinstance(thing, Item):
        return [layout.room_of(thing.x, thing.y)]
    door = layout.doors[thing.door]
    return [door.a, door.b]


def things_of(env: gym.Env[Any, Any]) -> Layout:
    """The map of ``env`` as it is now.

    Raises:
        ConfigError: nothing in it changes.
    """
    layout = env.get_wrapper_attr("layout") if env.has_wrapper_attr("layout") else None
    if not isinstance(layout, Layout) or not layout.things:
        raise ConfigError(f"{env.unwrapped} has nothing that changes; make DoomRooms with events=True.")
    return layout
