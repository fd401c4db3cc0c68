"""Maps in the engine's own format: a PWAD archive with room for maps that are written while the engine runs."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import EngineError
from .catalogue import ITEMS, PROPS
from .layout import DOOR_HEIGHT, DOOR_WIDTH, GOAL_RADIUS, PLAYER_RADIUS, WALL, Item, Layout, Leaf

HOPS = 2
"""Parts that a motion is made in, one engine tic (1/35 s of game time) each."""

PLACE_SCRIPT, MOVE_SCRIPT = 1, 2
"""Scripts ``(x, y, angle)`` and ``(velocity x, velocity y, angle)``: 16.16 fixed point, 1/65536 turns."""

SLOTS = ("MAP01", "MAP02")
"""Maps are written to these in turn, so that the engine never meets the one it plays in its file buffer."""

EMPTY_MAP = (
    b'namespace="ZDoom";vertex{x=0;y=0;}vertex{x=0;y=64;}vertex{x=64;y=64;}vertex{x=64;y=0;}'
    b'sector{heightfloor=0;heightceiling=128;texturefloor="FLAT1";textureceiling="FLAT1";}'
    + b"".join(b"linedef{v1=%d;v2=%d;sidefront=%d;blocking=true;}" % (i, (i + 1) % 4, i) for i in range(4))
    + b'sidedef{sector=0;texturemiddle="STARTAN2";}' * 4
    + b"thing{x=32;y=32;type=1;skill3=true;single=true;}"
)
"""The smallest room, to start an engine with."""

MINIMUM_SLOT = 32_768
_GOAL_TYPE, _FIRST_PROP_TYPE, _FIRST_ITEM_TYPE = 20_000, 20_001, 20_101
_GOAL_PAD = 24


class WadFile:
    """The archive an engine was started with. `write` replaces a map in place; the engine reads it when it loads it."""

    def __init__(self, path: Path, slot_bytes: int) -> None:
        self.path = path
        self.slot_bytes = slot_bytes
        blank = b" " * slot_bytes
        lumps = [("DECORATE", _decorate().encode()), ("ZMAPINFO", _mapinfo().encode())]
        lumps += [("S_START", b""), ("WLGOA0", _goal_sprite()), ("S_END", b"")]
        for slot in SLOTS:
            lumps += [(slot, b""), ("TEXTMAP", blank), ("BEHAVIOR", _scripts()), ("ENDMAP", b"")]
        path.write_bytes(_archive(lumps))
        starts = _offsets(lumps)
        self._offset = dict(
            zip(SLOTS, [o for (n, _), o in zip(lumps, starts, strict=True) if n == "TEXTMAP"], strict=True)
        )

    def write(self, slot: str, text: bytes) -> None:
        """Put the map ``text`` (from `textmap`) into ``slot``."""
        if len(text) > self.slot_bytes:
            raise EngineError(f"A map of {len(text)} bytes does not fit the engine's {self.slot_bytes}.")
        with self.path.open("r+b") as file:
            file.seek(self._offset[slot])
            file.write(text.ljust(self.slot_bytes))


def slot_bytes_for(text: bytes) -> int:
    """Space to reserve so that maps like ``text`` fit: a power of two with room to spare."""
    return max(MINIMUM_SLOT, 1 << (len(text) * 5 // 4).bit_length())


def textmap(layout: Layout) -> bytes:
    """``layout`` as UDMF text (namespace ZDoom), without nodes: the engine builds those."""
    return _MapWriter(layout).text().encode("ascii")


class _MapWriter:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._vertices: dict[tuple[float, float], int] = {}
        self._sides: list[str] = []
        self._lines: list[str] = []
        self._sectors: list[str] = []
        self._things: list[str] = []

    def text(self) -> str:
        layout = self._layout
        for room in layout.rooms:
            self._sector(room.height, room.floor, room.ceiling, room.light, room.tint)
        for door in layout.doors:
            a = layout.rooms[door.a]
            self._sector(DOOR_HEIGHT, a.floor, "FLAT23", min(a.light, layout.rooms[door.b].light), 0xFFFFFF)
        for number in range(len(layout.rooms)):
            self._walls(number)
        for index in range(len(layout.doors)):
            self._passage(index)
        self._goal()
        self._thing(1, *_spawn(layout))
        kinds = sorted(PROPS)
        for prop in layout.props:
            self._thing(_FIRST_PROP_TYPE + kinds.index(prop.kind), prop.x, prop.y)
        for item in layout.things:
            if isinstance(item, Item) and not item.changed:
                self._thing(_FIRST_ITEM_TYPE + sorted(ITEMS).index(item.kind), item.x, item.y)
        vertices = [f"vertex{{x={x:.1f};y={y:.1f};}}" for x, y in self._vertices]
        parts = [vertices, self._lines, self._sides, self._sectors, self._things]
        return 'namespace="ZDoom";\n' + "\n".join(line for part in parts for line in part)

    def _sector(self, height: int, floor: str, ceiling: str, light: int, tint: int) -> int:
        self._sectors.append(
            f'sector{{heightfloor=0;heightceiling={height};texturefloor="{floor}";textureceiling="{ceiling}";'
            f"lightlevel={light};lightcolor={tint};}}"
        )
        return len(self._sectors) - 1

    def _vertex(self, x: float, y: float) -> int:
        return self._vertices.setdefault((float(x), float(y)), len(self._vertices))

    def _side(self, sector: int, texture: str, where: str) -> int:
        self._sides.append(f'sidedef{{sector={sector};texture{where}="{texture}";}}')
        return len(self._sides) - 1

    def _wall(self, start: tuple[float, float], end: tuple[float, float], sector: int, texture: str) -> None:
        """A solid wall; its face is on the right of the way from ``start`` to ``end``."""
        side = self._side(sector, texture, "middle")
        self._lines.append(
            f"linedef{{v1={self._vertex(*start)};v2={self._vertex(*end)};sidefront={side};blocking=true;}}"
        )

    def _opening(
        self, start: tuple[float, float], end: tuple[float, float], right: int, left: int, texture: str
    ) -> None:
        """A border one can cross between the sectors ``right`` and ``left`` of it; ``texture`` fills above it."""
        front, back = self._side(right, texture, "top"), self._side(left, texture, "top")
        self._lines.append(
            f"linedef{{v1={self._vertex(*start)};v2={self._vertex(*end)};sidefront={front};sideback={back};twosided=true;}}"
        )

    def _walls(self, room: int) -> None:
        """The four walls clockwise, so that their right side is the room's inside, with openings for doors."""
        layout, size = self._layout, self._layout.room_size
        left, bottom = layout.room_corner(room)
        corners = [(left, bottom), (left, bottom + size), (left + size, bottom + size), (left + size, bottom)]
        east, north, west, south = layout.rooms[room].walls
        for i, texture in enumerate((west, north, east, south)):
            start, end = corners[i], corners[(i + 1) % 4]
            dx, dy = (end[0] - start[0]) / size, (end[1] - start[1]) / size
            here: tuple[float, float] = start
            for along, index in self._doors_on(start, dx, dy, room):
                gap = [(start[0] + dx * t, start[1] + dy * t) for t in (along - DOOR_WIDTH / 2, along + DOOR_WIDTH / 2)]
                self._wall(here, gap[0], room, texture)
                self._opening(gap[0], gap[1], room, len(layout.rooms) + index, texture)
                here = gap[1]
            self._wall(here, end, room, texture)

    def _doors_on(self, start: tuple[float, float], dx: float, dy: float, room: int) -> list[tuple[float, int]]:
        """Doors of ``room`` on the wall that begins at ``start`` and runs along (dx, dy): (distance, index)."""
        found = []
        for index, door in enumerate(self._layout.doors):
            if room in (door.a, door.b):
                x, y = door.x - start[0], door.y - start[1]
                if abs(x * dy - y * dx) <= WALL:
                    found.append((x * dx + y * dy, index))
        return sorted(found)

    def _passage(self, index: int) -> None:
        """The two side walls of a doorway, and what shuts it."""
        door, sector = self._layout.doors[index], len(self._layout.rooms) + index
        half, deep = DOOR_WIDTH / 2, WALL / 2
        if self._layout.is_vertical(door):
            sides = [[(door.x + s * d, door.y + s * half) for d in (-deep, 0, deep)] for s in (1, -1)]
        else:
            sides = [[(door.x - s * half, door.y + s * d) for d in (-deep, 0, deep)] for s in (1, -1)]
        leaf = next((t for t in self._layout.things if isinstance(t, Leaf) and t.door == index), None)
        for begin, middle, end in sides:
            stops = [begin, end] if leaf is None else [begin, middle, end]
            for start, stop in itertools.pairwise(stops):
                self._wall(start, stop, sector, "DOORTRAK")
        if leaf is not None:
            self._leaf(sides[0][1], sides[1][1], sector, leaf)

    def _leaf(self, start: tuple[float, float], end: tuple[float, float], sector: int, leaf: Leaf) -> None:
        """A slab across the middle of a doorway. Open, it leaves its line behind, so that nothing else is redrawn."""
        texture, state = ("-", "") if leaf.changed else (leaf.texture, "blocking=true;")
        front, back = self._side(sector, texture, "middle"), self._side(sector, texture, "middle")
        self._lines.append(
            f"linedef{{v1={self._vertex(*start)};v2={self._vertex(*end)};sidefront={front};sideback={back};"
            f"twosided=true;dontpegbottom=true;clipmidtex=true;{state}}}"
        )

    def _goal(self) -> None:
        """The goal on a pad of its own, lit in white: a coloured light would change its colour."""
        layout, (x, y) = self._layout, self._layout.goal
        room = layout.room_of(x, y)
        look = layout.rooms[room]
        pad = self._sector(look.height, look.floor, look.ceiling, 255, 0xFFFFFF)
        corners = [(x + sx * _GOAL_PAD, y + sy * _GOAL_PAD) for sx, sy in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
        for i in range(4):
            self._opening(corners[i], corners[(i + 1) % 4], pad, room, "-")
        self._thing(_GOAL_TYPE, x, y)

    def _thing(self, kind: int, x: float, y: float) -> None:
        self._things.append(f"thing{{x={x:.1f};y={y:.1f};type={kind};skill3=true;single=true;}}")


def _spawn(layout: Layout) -> tuple[float, float]:
    """A clear place for the engine to put the player before the environment does."""
    for room in range(len(layout.rooms)):
        x, y = layout.room_centre(room)
        for dx in range(-layout.room_size // 2, layout.room_size // 2, 16):
            for dy in range(-layout.room_size // 2, layout.room_size // 2, 16):
                if layout.clear(x + dx, y + dy, 4.0):
                    return x + dx, y + dy
    raise EngineError("The map has no clear place for a player; move its props.")


def _decorate() -> str:
    """Actors. The player has no friction to coast on: a script gives it a velocity for each hop.

    Without ``ReactionTime 0`` it would not slide along walls in its first eight tics on a map.
    """
    actors = [
        f"ACTOR Walker : PlayerPawn {{ Radius {PLAYER_RADIUS:.0f} Height 56 Friction 0.0 ReactionTime 0 "
        'Player.DisplayName "Walker" States { Spawn: PLAY A -1\n stop\n } }',
        f"ACTOR WalkersGoal {_GOAL_TYPE} {{ Radius {GOAL_RADIUS:.0f} Height 112 +SOLID "
        "States { Spawn: WLGO A -1 BRIGHT\n stop\n } }",
    ]
    for index, name in enumerate(sorted(PROPS)):
        kind = PROPS[name]
        actors.append(
            f"ACTOR Furniture{index} {_FIRST_PROP_TYPE + index} {{ Radius {kind.radius} Height 56 Scale {kind.scale} "
            f"+SOLID States {{ Spawn: {kind.sprite} A -1 {'BRIGHT' if kind.bright else ''}\n stop\n }} }}"
        )
    for index, name in enumerate(sorted(ITEMS)):
        item = ITEMS[name]
        actors.append(
            f"ACTOR Item{index} {_FIRST_ITEM_TYPE + index} {{ Radius 20 Height 56 Scale {item.scale} "
            f"States {{ Spawn: {item.sprite} A -1 BRIGHT\n stop\n }} }}"
        )
    return "\n".join(actors)


def _mapinfo() -> str:
    maps = [f'map {slot} "{slot}" {{ nointermission }}' for slot in SLOTS]
    return "\n".join(['gameinfo { playerclasses = "Walker" }', *maps])


def _scripts() -> bytes:
    """Bytecode of the two scripts, in the old uncompressed ACS format.

    The console's ``warp`` takes whole numbers only and the walking keys round differently forward and back; scripts
    set 16.16 fixed-point numbers, so a pose is exact and a move and its opposite cancel to the last bit.
    """
    terminate, number, argument, drop, wait, call = 1, 3, 28, 54, 56, 351
    set_angle, set_position, set_velocity = 276, 283, 23
    turn = [number, 0, argument, 2, set_angle]
    place = [number, 0, argument, 0, argument, 1, number, 0, number, 0, set_position, drop, *turn, terminate]
    push = [number, 0, argument, 0, argument, 1, number, 0, number, 0, number, 0, call, 6, set_velocity, drop]
    move = [*push, *[word for _ in range(HOPS - 1) for word in (wait, 1, *push)], *turn, terminate]
    words = [*place, *move]
    table = [2, PLACE_SCRIPT, 8, 3, MOVE_SCRIPT, 8 + 4 * len(place), 3, 0]
    return b"ACS\0" + struct.pack(f"<{1 + len(words) + len(table)}i", 8 + 4 * len(words), *words, *table)


def _goal_sprite() -> bytes:
    """A magenta column with white bands as PNG: a colour no texture, flat or prop of the catalogue has."""
    picture = np.zeros((112, 48, 4), np.uint8)
    picture[...] = (255, 0, 255, 255)
    picture[:10] = picture[52:60] = picture[-10:] = 255
    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    foot = struct.pack(">ii", width // 2, height)
    chunks = [(b"IHDR", header), (b"grAb", foot), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _offsets(lumps: Sequence[tuple[str, bytes]]) -> list[int]:
    """Where each lump begins in the archive."""
    return [12 + sum(len(data) for _, data in lumps[:i]) for i in range(len(lumps))]


def _archive(lumps: Sequence[tuple[str, bytes]]) -> bytes:
    body = b"".join(data for _, data in lumps)
    entries = zip(lumps, _offsets(lumps), strict=True)
    directory = b"".join(struct.pack("<II8s", at, len(data), name.encode()) for (name, data), at in entries)
    return b"PWAD" + struct.pack("<II", len(lumps), 12 + len(body)) + body + directory
