"""Canonical poses of the player, and the engine's own numbers for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .engine import FIXED, Place

EYE_HEIGHT = 41.0
"""Height of the camera over the floor, in map units."""


def place_of(pose: Any) -> Place:
    """A canonical pose (5,) in the engine's own numbers.

    Raises:
        ValueError: it is no pose, or does not look level from `EYE_HEIGHT`.
    """
    values = np.asarray(pose, np.float64)
    if values.shape != (5,) or not bool(np.isfinite(values).all()):
        raise ValueError(f"A pose is five finite numbers (x, y, z, yaw, pitch); got {pose!r}.")
    x, y, z, yaw, pitch = values.tolist()
    if abs(z - EYE_HEIGHT) > 1.0 or abs(pitch) > 0.01:
        raise ValueError(f"The player looks level from height {EYE_HEIGHT}; got z {z} and pitch {pitch}.")
    return round(x * FIXED), round(y * FIXED), round(yaw * FIXED / (2 * math.pi)) % FIXED


def pose_at(place: Place) -> np.ndarray:
    """The canonical pose (5,) float64 of a place, its yaw in [-pi, pi)."""
    x, y, angle = place
    yaw = math.remainder(angle * 2 * math.pi / FIXED, 2 * math.pi)
    yaw = -math.pi if yaw >= math.pi else yaw
    return np.array([x / FIXED, y / FIXED, EYE_HEIGHT, yaw, 0.0])
