"""A map of rooms as data: what `generate` makes of a map seed, and the questions one can ask about it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...errors import ConfigError
from .catalogue import FLATS, PROPS, TINTS, WALLS
from .draws import Draws

GENERATOR_VERSION = "1"
"""Changes whenever some map seed would give another map; recorded beside every data set."""

PLAYER_RADIUS = 16.0
GOAL_RADIUS = 20.0
WALL = 16
DOOR_WIDTH = 112
DOOR_HEIGHT = 104

Point = tuple[float, float]


@dataclass(frozen=True)
class Room:
    """One room: the textures of its east, north, west and south walls, floor, ceiling, height, light and tint."""

    walls: tuple[str, str, str, str]
    floor: str
    ceiling: str
    height: int
    light: int
    tint: int


@dataclass(frozen=True)
class Door:
    """An opening of `DOOR_WIDTH` between rooms ``a`` < ``b``, centred at (x, y)."""

    a: int
    b: int
    x: float
    y: float


@dataclass(frozen=True)
class Prop:
    """Solid furniture of a kind named in `catalogue.PROPS`, centred at (x, y)."""

    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Item:
    """Something of a kind named in `catalogue.ITEMS` that lies at (x, y) until it is taken; nothing bumps into it."""

    kind: str
    x: float
    y: float
    changed: bool = False


@dataclass(frozen=True)
class Leaf:
    """What shuts the ``door`` of that index, centred at (x, y), until it is opened: a solid slab of ``texture``."""

    door: int
    texture: str
    x: float
    y: float
    changed: bool = False


Thing = Item | Leaf
"""What can change, once: ``changed`` says whether it has."""


@dataclass(frozen=True)
class Layout:
    """A map: rows × cols square rooms with their south-west corner at the origin, x east, y north, in map units.

    Every floor lies at height 0, so that a move and its opposite cancel. Room ``i`` is in row ``i // cols`` (from the
    south) and column ``i % cols`` (from the west). What can change in it are its ``things``, named by their index.
    """

    map_seed: int
    rows: int
    cols: int
    room_size: int
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    props: tuple[Prop, ...]
    goal: Point
    things: tuple[Thing, ...] = ()

    def __post_init__(self) -> None:
        n = self.rows * self.cols
        if len(self.rooms) != n:
            raise ConfigError(f"A map of {self.rows} x {self.cols} rooms needs {n} rooms, got {len(self.rooms)}.")
        for prop in self.props:
            if prop.kind not in PROPS:
                raise ConfigError(f"A prop is one of {', '.join(sorted(PROPS))}; got {prop.kind!r}.")
        for door in self.doors:
            if not (0 <= door.a < door.b < n and door.b - door.a in (1, self.cols)):
                raise ConfigError(f"A door joins two neighbouring rooms of 0 … {n - 1}; got {door.a} and {door.b}.")
        for x, y in [self.goal, *((p.x, p.y) for p in self.props)]:
            if not all(math.isfinite(v) for v in (x, y)) or not (0 < x < self.width and 0 < y < self.height):
                raise ConfigError(f"Things stand inside the map of {self.width} x {self.height}; got ({x}, {y}).")

    @property
    def pitch(self) -> int:
        """Distance between the centres of neighbouring rooms."""
        return self.room_size + WALL

    @property
    def width(self) -> int:
        """Extent along x."""
        return self.cols * self.pitch - WALL

    @property
    def height(self) -> int:
        """Extent along y."""
        return self.rows * self.pitch - WALL

    def room_of(self, x: float, y: float) -> int:
        """The room that holds (x, y); in a doorway or outside the map, the nearest one."""
        column = min(max(int((x + WALL / 2) // self.pitch), 0), self.cols - 1)
        row = min(max(int((y + WALL / 2) // self.pitch), 0), self.rows - 1)
        return row * self.cols + column

    def room_corner(self, room: int) -> tuple[int, int]:
        """South-west corner of ``room``."""
        if not 0 <= room < len(self.rooms):
            raise ValueError(f"Rooms of this map are 0 … {len(self.rooms) - 1}; got {room}.")
        return room % self.cols * self.pitch, room // self.cols * self.pitch

    def room_centre(self, room: int) -> Point:
        """Centre of ``room``."""
        x, y = self.room_corner(room)
        return x + self.room_size / 2, y + self.room_size / 2

    def clear(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Whether a player at (x, y) touches neither wall, prop nor goal, with ``margin`` units to spare.

        The engine's bodies are axis-aligned boxes, so distances here are along the axes.
        """
        reach = PLAYER_RADIUS + margin
        if self._shut(x, y, reach):
            return False
        if np.any(np.abs(self.obstacles[:, :2] - (x, y)).max(1) < self.obstacles[:, 2] + reach):
            return False
        left, bottom = self.room_corner(self.room_of(x, y))
        size = self.room_size
        inside_x, inside_y = (
            left + reach <= x <= left + size - reach,
            bottom + reach <= y <= bottom + size - reach,
        )
        if inside_x and inside_y:
            return True
        lane = DOOR_WIDTH / 2 - reach
        for door in self.doors:
            across, along = self.through(door, x, y)
            if abs(along) <= lane and abs(across) <= WALL / 2 + reach:
                return True
        return False

    def _shut(self, x: float, y: float, reach: float) -> bool:
        """Whether a body of half side ``reach`` at (x, y) touches a shut door."""
        for thing in self.things:
            if isinstance(thing, Leaf) and not thing.changed:
                across, along = self.through(self.doors[thing.door], x, y)
                if abs(across) < reach and abs(along) < DOOR_WIDTH / 2 + reach:
                    return True
        return False

    def through(self, door: Door, x: float, y: float) -> Point:
        """(x, y) seen from the middle of ``door``: the distance across its wall, and along the wall."""
        return (x - door.x, y - door.y) if self.is_vertical(door) else (y - door.y, x - door.x)

    @property
    def changed(self) -> frozenset[int]:
        """Indices of the things that have changed."""
        return frozenset(i for i, thing in enumerate(self.things) if thing.changed)

    def with_changed(self, changed: Collection[int]) -> Layout:
        """The map as it is once exactly the things of these indices have changed.

        Raises:
            ValueError: an index of no thing.
        """
        if strangers := sorted(set(changed) - set(range(len(self.things)))):
            raise ValueError(f"The map has things 0 … {len(self.things) - 1} that change; got {strangers[0]}.")
        if self.changed == frozenset(changed):
            return self
        return replace(self, things=tuple(replace(t, changed=i in changed) for i, t in enumerate(self.things)))

    @cached_property
    def obstacles(self) -> np.ndarray:
        """Solid bodies (n, 3) float64: centre x, centre y, half side. The goal is the last."""
        rows = [(p.x, p.y, PROPS[p.kind].radius) for p in self.props]
        return np.array([*rows, (*self.goal, GOAL_RADIUS)], dtype=np.float64)

    def is_vertical(self, door: Door) -> bool:
        """Whether ``door`` is in a wall that runs north-south, so that one passes through it along x."""
        return door.b - door.a == 1 and self.cols > 1

    def doors_of(self, room: int) -> dict[int, Door]:
        """The neighbours one can reach from ``room``, and the doors to them."""
        return {(d.b if d.a == room else d.a): d for d in self.doors if room in (d.a, d.b)}

    def rooms_within(self, room: int, n_doors: int) -> list[int]:
        """Rooms at most ``n_doors`` doors away from ``room``, itself included, nearest first."""
        return [r for r, d in self.doors_away(room).items() if d <= n_doors]

    def doors_away(self, room: int) -> dict[int, int]:
        """Fewest doors between ``room`` and every room, nearest first."""
        away, queue = {room: 0}, deque([room])
        while queue:
            here = queue.popleft()
            for there in sorted(self.doors_of(here)):
                if there not in away:
                    away[there] = away[here] + 1
                    queue.append(there)
        return away

    def random_position(self, rng: np.random.Generator, room: int | None = None, margin: float = 4.0) -> Point:
        """A clear place with whole-number coordinates, uniform over ``room`` or over all rooms."""
        while True:
            chosen = int(rng.integers(len(self.rooms))) if room is None else room
            left, bottom = self.room_corner(chosen)
            across, up = rng.integers(0, self.room_size, 2)
            x, y = float(left + across), float(bottom + up)
            if self.clear(x, y, margin):
                return x, y

    def route(self, start: Point, end: Point) -> list[Point]:
        """Way-points from ``start`` to ``end`` (the last one), through door centres and round props.

        Straight lines between them keep clear of everything solid. ``end`` may be the goal itself.
        """
        from .routes import find_route

        return find_route(self, start, end)


def generate(map_seed: int, rows: int = 2, cols: int = 2, room_size: int = 320, props: int = 3) -> Layout:
    """The map that ``map_seed`` names: the same on every machine, in every process.

    Args:
        map_seed: see `rollouts.splits` for which seeds may be trained on.
        rows: rooms from south to north.
        cols: rooms from west to east.
        room_size: side of a room in map units, at least 256; a step is 25.
        props: pieces of furniture per room.

    Raises:
        ConfigError: a size that makes no map.
    """
    if map_seed < 0:
        raise ConfigError(f"A map seed is a whole number >= 0; got {map_seed}.")
    if rows < 1 or cols < 1 or rows * cols > 400:
        raise ConfigError(f"A map has 1 to 400 rooms; got {rows} x {cols}.")
    if not 256 <= room_size <= 2048 or room_size % 32:
        raise ConfigError(f"room_size is a multiple of 32 in 256 … 2048; got {room_size}.")
    if not 0 <= props <= 6:
        raise ConfigError(f"A room holds 0 to 6 props; got {props}.")
    draws = Draws([int(GENERATOR_VERSION), map_seed, rows, cols, room_size, props])
    doors = _doors(draws, rows, cols, room_size)
    goal_room = draws.below(rows * cols)
    taken: list[tuple[float, float, float]] = []
    goal = free_spot(draws, goal_room, cols, room_size, doors, taken, 80, 112)
    assert goal is not None
    taken.append((*goal, 112))
    furniture = []
    for room in range(rows * cols):
        for _ in range(props):
            spot = free_spot(draws, room, cols, room_size, doors, taken, 40, 80)
            if spot is not None:
                taken.append((*spot, 80))
                furniture.append(Prop(draws.choice(sorted(PROPS)), *spot))
    rooms = tuple(_room(draws) for _ in range(rows * cols))
    return Layout(map_seed, rows, cols, room_size, rooms, doors, tuple(furniture), goal)


def _doors(draws: Draws, rows: int, cols: int, size: int) -> tuple[Door, ...]:
    """A random spanning tree over the rooms, and about half of the remaining walls opened too."""
    walls = [(i, i + 1) for i in range(rows * cols) if i % cols < cols - 1]
    walls += [(i, i + cols) for i in range((rows - 1) * cols)]
    group = list(range(rows * cols))
    doors = []
    for a, b in draws.sample(walls, len(walls)):
        joins = group[a] != group[b]
        if joins:
            group = [group[a] if g == group[b] else g for g in group]
        if joins or draws.below(2):
            offset = draws.between(96, size - 96, 16)
            x, y = a % cols * (size + WALL), a // cols * (size + WALL)
            beside = (x + size + WALL / 2, float(y + offset))
            above = (float(x + offset), y + size + WALL / 2)
            doors.append(Door(a, b, *(beside if b == a + 1 and cols > 1 else above)))
    return tuple(sorted(doors, key=lambda d: (d.a, d.b)))


def free_spot(
    draws: Draws, room: int, cols: int, size: int, doors: tuple[Door, ...], taken: list[tuple[float, float, float]],
    from_wall: int, from_door: int,
) -> Point | None:  # fmt: skip
    """A whole-number place in ``room`` away from walls, doors and things; None when the room is full."""
    left, bottom = room % cols * (size + WALL), room // cols * (size + WALL)
    for _ in range(200):
        x = float(left + draws.between(from_wall, size - from_wall))
        y = float(bottom + draws.between(from_wall, size - from_wall))
        if any(room in (d.a, d.b) and math.hypot(x - d.x, y - d.y) < from_door for d in doors):
            continue
        if all(math.hypot(x - tx, y - ty) >= apart for tx, ty, apart in taken):
            return x, y
    return None


def _room(draws: Draws) -> Room:
    east, north, west, south = draws.sample(WALLS, 4)
    floor, ceiling = draws.sample(FLATS, 2)
    height, light = draws.between(128, 208, 16), draws.between(176, 255)
    return Room((east, north, west, south), floor, ceiling, height, light, draws.choice(TINTS))
