"""What changes in the rooms: items that are taken by walking over them, doors that open when one comes near."""

from __future__ import annotations

from dataclasses import replace

from .catalogue import ITEMS, LEAVES
from .draws import Draws
from .layout import DOOR_WIDTH, PLAYER_RADIUS, Item, Layout, Leaf, Thing, free_spot

EVENTS_VERSION = "1"
"""Changes whenever some map seed would give other things, or they would change otherwise."""

ITEMS_PER_ROOM = 3
ITEM_REACH = PLAYER_RADIUS + 20.0
"""An item is taken within this distance of it along either axis, in map units."""
OPEN_REACH = 48.0
"""A door opens within this distance of its middle plane, before a walker's step could end at it."""

_STREAM = 0x65766E74
"""Sets the draws of things apart from those of the rooms, which stay as they are without things."""


def add_things(layout: Layout) -> Layout:
    """``layout`` with items on its floors and leaves in about two thirds of its doors, all of them unchanged.

    They depend on the map seed and the shape of the map alone. A room that is full has fewer items.
    """
    draws = Draws([_STREAM, int(EVENTS_VERSION), layout.map_seed, layout.rows, layout.cols, layout.room_size])
    taken = [(*layout.goal, 100.0), *((prop.x, prop.y, 64.0) for prop in layout.props)]
    things: list[Thing] = []
    for room in range(len(layout.rooms)):
        for kind in draws.sample(sorted(ITEMS), ITEMS_PER_ROOM):
            spot = free_spot(draws, room, layout.cols, layout.room_size, layout.doors, taken, 48, 96)
            if spot is not None:
                taken.append((*spot, 72.0))
                things.append(Item(kind, *spot))
    for index, door in enumerate(layout.doors):
        texture = draws.choice(LEAVES)
        if draws.below(3):
            things.append(Leaf(index, texture, door.x, door.y))
    return replace(layout, things=tuple(things))


def touched(layout: Layout, x: float, y: float) -> frozenset[int]:
    """Which unchanged things of ``layout`` change when a walker's step ends at (x, y)."""
    return frozenset(i for i, t in enumerate(layout.things) if not t.changed and _reaches(layout, t, x, y))


def _reaches(layout: Layout, thing: Thing, x: float, y: float) -> bool:
    if isinstance(thing, Item):
        return max(abs(x - thing.x), abs(y - thing.y)) <= ITEM_REACH
    across, along = layout.through(layout.doors[thing.door], x, y)
    return abs(across) <= OPEN_REACH and abs(along) <= DOOR_WIDTH / 2
