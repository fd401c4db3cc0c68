"""Ways through a map: door to door, and round what stands in a room."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np

from .layout import PLAYER_RADIUS, WALL, Door, Layout, Point

_MARGIN = 10.0
"""Room kept beside a straight line for a walker that turns in steps of 22.5 degrees."""


def find_route(layout: Layout, start: Point, end: Point) -> list[Point]:
    """See `Layout.route`."""
    rooms = _rooms_between(layout, layout.room_of(*start), layout.room_of(*end))
    points, here = [], start
    for a, b in itertools.pairwise(rooms):
        door = layout.doors_of(a)[b]
        for gate in _gates(layout, door, a):
            points += _round_props(layout, here, gate)
            here = gate
    return points + _round_props(layout, here, end)


def route_length(start: Point, route: list[Point]) -> float:
    """Length in map units of ``route`` walked from ``start``."""
    return sum(math.dist(a, b) for a, b in zip([start, *route], route, strict=False))


def in_sight(layout: Layout, start: Point, end: Point) -> bool:
    """Whether nothing solid stands on the straight line between two points of one room, or of its doors."""
    return not any(_crosses(start, end, (x, y, r)) for x, y, r in layout.obstacles.tolist())


def _rooms_between(layout: Layout, start: int, end: int) -> list[int]:
    """Rooms from ``start`` to ``end`` through the fewest doors."""
    away = layout.doors_away(end)
    rooms = [start]
    while rooms[-1] != end:
        rooms.append(min(layout.doors_of(rooms[-1]), key=lambda r: (away[r], r)))
    return rooms


def _gates(layout: Layout, door: Door, room: int) -> list[Point]:
    """Points before, in and after a door, so that it is crossed at a right angle."""
    step = (WALL / 2 + PLAYER_RADIUS + _MARGIN) * (1 if room == door.a else -1)
    dx, dy = (step, 0.0) if layout.is_vertical(door) else (0.0, step)
    return [(door.x - dx, door.y - dy), (door.x, door.y), (door.x + dx, door.y + dy)]


def _round_props(layout: Layout, start: Point, end: Point) -> list[Point]:
    """Shortest way-points inside one room over the corners of the boxes that props occupy."""
    near = layout.obstacles[np.abs(layout.obstacles[:, :2] - start).max(1) < 2 * layout.room_size]
    # A thing that an end point touches cannot be avoided by that end: the goal, or a prop one has slid along.
    reach = near[:, 2] + PLAYER_RADIUS
    boxes = []
    for (x, y, _), r in zip(near, reach, strict=True):
        ends = min(max(abs(x - px), abs(y - py)) for px, py in (start, end))
        if ends > r:
            boxes.append((x, y, min(r + _MARGIN, ends - 1e-6)))
    if not any(_crosses(start, end, box) for box in boxes):
        return [end]
    corners = [(x + sx * (r + 2), y + sy * (r + 2)) for x, y, r in boxes for sx in (-1, 1) for sy in (-1, 1)]
    free = [p for p in corners if layout.clear(*p)]
    return _shortest([start, end, *free], boxes)


def _shortest(nodes: list[Point], boxes: list[tuple[float, float, float]]) -> list[Point]:
    """Dijkstra from nodes[0] to nodes[1] over straight lines that cross no box; the direct line when there is none."""
    best, came, queue = {0: 0.0}, {0: 0}, [(0.0, 0)]
    while queue:
        length, i = heapq.heappop(queue)
        if i == 1:
            break
        if length > best[i]:
            continue
        for j in range(1, len(nodes)):
            through = length + math.dist(nodes[i], nodes[j])
            if through < best.get(j, math.inf) and not any(_crosses(nodes[i], nodes[j], b) for b in boxes):
                best[j], came[j] = through, i
                heapq.heappush(queue, (through, j))
    if 1 not in came:
        return [nodes[1]]
    way, i = [], 1
    while i:
        way.append(nodes[i])
        i = came[i]
    return way[::-1]


def _crosses(a: Point, b: Point, box: tuple[float, float, float]) -> bool:
    """Whether the line from ``a`` to ``b`` enters the open box (centre x, centre y, half side)."""
    near, far = 0.0, 1.0
    for p, q, centre in ((a[0], b[0], box[0]), (a[1], b[1], box[1])):
        low, high, d = centre - box[2] - p, centre + box[2] - p, q - p
        if d == 0:
            if not low < 0 < high:
                return False
            continue
        t0, t1 = sorted((low / d, high / d))
        near, far = max(near, t0), min(far, t1)
    return near < far
