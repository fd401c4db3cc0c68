"""A window on the screen for ``render_mode="human"``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError


class Window:
    """Shows pictures one after another.

    Raises:
        ConfigError: there is no screen to open a window on.
    """

    def __init__(self, title: str) -> None:
        from matplotlib import pyplot

        figure = pyplot.figure(title)
        if getattr(figure.canvas.manager, "window", None) is None:
            pyplot.close(figure)
            raise ConfigError(
                'render_mode="human" needs a screen, and none was found; use render_mode="rgb_array".'
            )
        self._pyplot: Any = pyplot
        self._figure = figure
        self._image: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Replace what is shown by ``picture`` (height, width, 3) uint8."""
        if self._image is None:
            axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
            axes.set_axis_off()
            self._image = axes.imshow(picture)
        self._image.set_data(picture)
        self._pyplot.pause(0.001)

    def close(self) -> None:
        """Close the window."""
        self._pyplot.close(self._figure)
