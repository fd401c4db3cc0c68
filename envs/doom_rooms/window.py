"""A window on the screen for ``render_mode="human"``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError

_LEAST_WIDTH = 640


class Window:
    """Shows pictures one after another, in their time; small ones magnified by a whole number.

    Args:
        title: of the window.
        fps: pictures a second; `show` waits where they come faster.

    Raises:
        ConfigError: pygame is not installed, or there is no screen to open a window on.
    """

    def __init__(self, title: str, fps: float) -> None:
        try:
            import pygame
        except ImportError as error:
            raise ConfigError('render_mode="human" needs pygame; install it with pip install pygame.') from error
        self._pygame: Any = pygame
        self._title, self._fps = title, fps
        self._clock = pygame.time.Clock()
        self._screen: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Replace what is shown by ``picture`` (height, width, 3) uint8."""
        pygame = self._pygame
        height, width, _ = picture.shape
        scale = max(1, -(-_LEAST_WIDTH // width))
        size = (width * scale, height * scale)
        if self._screen is None or self._screen.get_size() != size:
            self._screen = self._open(size)
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale(surface, size), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None

    def _open(self, size: tuple[int, int]) -> Any:
        pygame = self._pygame
        try:
            pygame.display.init()
            screen = pygame.display.set_mode(size)
        except pygame.error as error:
            raise ConfigError(
                f'render_mode="human" needs a screen, and none was found ({error}); use render_mode="rgb_array".'
            ) from error
        pygame.display.set_caption(self._title)
        return screen
