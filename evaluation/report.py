"""What every report carries: plain JSON numbers, and where they came from."""

from __future__ import annotations

import math
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..world_models.world import World


def jsonable(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays as lists, paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def provenance(world: World | None = None) -> dict[str, Any]:
    """Versions, device and time of a report; the directory a loaded world came from, by name."""
    directory = getattr(world, "directory", None)
    return {
        "worldloop": version("worldloop"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(world.device) if world is not None else "cpu",
        "threads": torch.get_num_threads(),
        "world": directory.name if isinstance(directory, Path) else type(world).__name__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
