"""Worlds that come with worldloop, and `load_world`, the way to open any world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import WorldFormatError
from ..storage import read_world
from ..world_model import WorldModel

_HERE = Path(__file__).parent


def bundled_worlds() -> list[str]:
    """Names of the worlds that come with worldloop."""
    return sorted(path.parent.name for path in _HERE.glob("*/world.json"))


def world_directory(name: str | Path) -> Path:
    """The directory of a world: a bundled name, or the path of a directory that training wrote.

    Raises:
        WorldFormatError: neither exists.
    """
    if str(name) in bundled_worlds():
        return _HERE / str(name)
    if Path(name).is_dir():
        return Path(name)
    raise WorldFormatError(
        f"Unknown world {str(name)!r}: it is neither a bundled world ({', '.join(bundled_worlds()) or 'none'}) "
        "nor a directory with a world in it."
    )


def load_world(name: str | Path, device: torch.device | str = "cpu", **overrides: Any) -> WorldModel:
    """Open a learned world.

    Args:
        name: a bundled world (``"doom-rooms-tiny"``) or the directory of a trained one.
        device: where it shall compute.
        **overrides: use the same parameters differently, e.g. ``denoising_steps=4`` or ``context=(2, 1)``.

    Returns:
        The world: float32, evaluation mode, no gradients.

    Raises:
        WorldFormatError: unknown name, or missing, damaged or foreign files.
        ConfigError: an override that does not fit.

    Example:
        >>> world = worldloop.load_world("doom-rooms-tiny")            # doctest: +SKIP
    """
    return read_world(world_directory(name), device, **overrides)
