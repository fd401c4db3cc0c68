"""What people see of DoomRooms: pictures of any size, drawn beside the observations, and a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError
from .engine import RESOLUTIONS, Engine, Place
from .frames import AreaFilter
from .layout import Layout
from .window import Window

Size = tuple[int, int]
"""Height and width in pixels."""


class Lens:
    """Pictures of engines, brought to the sizes asked for."""

    def __init__(self) -> None:
        self._filters: dict[tuple[Size, Size], AreaFilter] = {}

    def picture(self, engine: Engine, size: Size) -> np.ndarray:
        """What ``engine`` shows, (height, width, 3) uint8."""
        key = (engine.resolution, size)
        if key not in self._filters:
            self._filters[key] = AreaFilter(*key)
        return self._filters[key](engine.picture())


class Display:
    """A second engine that draws what the first one shows, and a window for it.

    Args:
        size: of its pictures.
        fps: pictures a second, in the window.
    """

    def __init__(self, size: Size, fps: int) -> None:
        self.size, self._fps = size, fps
        self._lens = Lens()
        self._engine: Engine | None = None
        self._window: Window | None = None

    def draw(self, layout: Layout, place: Place) -> np.ndarray:
        """The view (height, width, 3) from ``place`` of a map."""
        if self._engine is None or not self._engine.alive:
            self._engine = Engine(layout, self.size)
        self._engine.load(layout)
        self._engine.place(place)
        return self._lens.picture(self._engine, self.size)

    def show(self, picture: np.ndarray) -> None:
        """Put a picture in the window, which opens with the first one."""
        if self._window is None:
            self._window = Window("worldloop DoomRooms", self._fps)
        self._window.show(picture)

    def close(self) -> None:
        """End the engine and shut the window."""
        if self._engine is not None:
            self._engine.close()
        if self._window is not None:
            self._window.close()
        self._engine = self._window = None


def checked_size(size: Sequence[int], name: str) -> Size:
    """``size`` as two integers.

    Raises:
        ConfigError: no size that the engine can draw; ``name`` says of what.
    """
    height, width = RESOLUTIONS[-1]
    sizes = np.asarray(size)
    whole = sizes.shape == (2,) and sizes.dtype.kind in "iu"
    if not whole or sizes.min() < 16 or sizes[0] > height or sizes[1] > width:
        raise ConfigError(f"{name} is (height, width) in pixels, (16, 16) to ({height}, {width}); got {size!r}.")
    return int(sizes[0]), int(sizes[1])
