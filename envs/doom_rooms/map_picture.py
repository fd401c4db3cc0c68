"""A map seen from above, with the path walked on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .catalogue import PROPS
from .layout import DOOR_WIDTH, WALL, Item, Layout

_FLOORS = ("#e9e4d8", "#dfe7ea", "#e6ecdf", "#ece1e6", "#e8e8f2", "#f0ead6")


def draw_map(layout: Layout, path: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Picture (height, width, 3) uint8 of ``layout``, north up.

    Args:
        layout: the map.
        path: poses (5,) in order: a line from the start (blue dot) to where the player is and looks (arrow).
        size: height and width in pixels.
    """
    figure = Figure(figsize=(size[1] / 100, size[0] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-2 * WALL, layout.width + 2 * WALL)
    axes.set_ylim(-2 * WALL, layout.height + 2 * WALL)
    axes.add_patch(Rectangle((-WALL, -WALL), layout.width + 2 * WALL, layout.height + 2 * WALL, color="#3a3a3f"))
    for room in range(len(layout.rooms)):
        side = layout.room_size
        axes.add_patch(Rectangle(layout.room_corner(room), side, side, color=_FLOORS[room % len(_FLOORS)]))
    for door in layout.doors:
        wide, high = (WALL, DOOR_WIDTH) if layout.is_vertical(door) else (DOOR_WIDTH, WALL)
        axes.add_patch(Rectangle((door.x - wide / 2, door.y - high / 2), wide, high, color="#cfc8b8"))
    for prop in layout.props:
        radius = PROPS[prop.kind].radius
        axes.add_patch(Rectangle((prop.x - radius, prop.y - radius), 2 * radius, 2 * radius, color="#7d8a6a"))
    for thing in (thing for thing in layout.things if not thing.changed):
        if isinstance(thing, Item):
            axes.plot(thing.x, thing.y, marker="D", markersize=8, color="#e8a020", markeredgecolor="black")
        else:
            wide, high = (WALL, DOOR_WIDTH) if layout.is_vertical(layout.doors[thing.door]) else (DOOR_WIDTH, WALL)
            axes.add_patch(Rectangle((thing.x - wide / 2, thing.y - high / 2), wide, high, color="#a05a2c"))
    axes.plot(*layout.goal, marker="*", markersize=18, color="magenta", markeredgecolor="black")
    if len(path):
        points = np.stack(path)
        axes.plot(points[:, 0], points[:, 1], color="#1f6fd0", linewidth=2)
        axes.plot(*points[0, :2], marker="o", markersize=8, color="#1f6fd0")
        x, y, yaw = points[-1, 0], points[-1, 1], points[-1, 3]
        axes.arrow(
            x,
            y,
            36 * np.cos(yaw),
            36 * np.sin(yaw),
            head_width=18,
            color="#d04a1f",
            length_includes_head=True,
        )
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba(), np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]
