"""Calibrated thresholds beside a world: how unsure it may be, as measured on validation maps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WorldFormatError
from ..files import write_json
from ..world_models.world import World
from ..world_models.world_model import WorldModel

THRESHOLDS_FILE = "thresholds.json"
_FORMAT = "worldloop.thresholds/1"


def write_thresholds(world: World, found: dict[str, float], samples: int, measured: dict[str, Any]) -> None:
    """Keep the thresholds of a world in its directory.

    Args:
        world: one that was loaded from a directory.
        found: the threshold of every kind of uncertainty that has one.
        samples: noise seeds that disagreement compared.
        measured: how they were measured, for readers.

    Raises:
        ConfigError: the world came from no directory.
    """
    directory = _directory(world)
    if directory is None:
        raise ConfigError("Thresholds are kept beside a world that was loaded from a directory; this one was not.")
    about = {"format": _FORMAT, "world": _identity(world, directory), "samples": samples, "measured": measured}
    write_json(directory / THRESHOLDS_FILE, about | {"thresholds": found})


def calibrated_threshold(world: World, kind: str, samples: int) -> float:
    """The threshold of one kind of uncertainty of ``world``.

    Raises:
        ConfigError: nothing was calibrated, or of other parameters, another configuration or other samples, or no
            threshold was worth keeping.
        WorldFormatError: the file is damaged.
    """
    directory = _directory(world)
    path = None if directory is None else directory / THRESHOLDS_FILE
    if directory is None or path is None or not path.exists():
        raise ConfigError(
            "max_uncertainty='calibrated' needs thresholds beside the world; worldloop evaluate calibration --write "
            "measures them."
        )
    try:
        about = json.loads(path.read_text())
        found, whose, asked = dict(about["thresholds"]), about["world"], int(about["samples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorldFormatError(f"{path} is damaged ({error}); measure it again.") from error
    if about.get("format") != _FORMAT or whose != _identity(world, directory):
        raise ConfigError(
            f"{path} was measured of other parameters or another configuration than this world's; measure it again."
        )
    if kind == "disagreement" and samples != asked:
        raise ConfigError(f"Disagreement was calibrated with {asked} samples, not with {samples}.")
    if kind not in found:
        raise ConfigError(
            f"No threshold of {kind!r} was worth keeping; calibrated are "
            f"{', '.join(sorted(found)) or 'none'}."
        )
    return float(found[kind])


def _directory(world: World) -> Path | None:
    return world.directory if isinstance(world, WorldModel) else None


def _identity(world: World, directory: Path) -> str:
    """Digest of the stored parameters and of how this world uses them: a setting that a later version adds, and that is
    as if it were not there, changes nothing."""
    assert isinstance(world, WorldModel)
    as_if = {field.name: field.default for field in fields(world.config)}
    settings = {name: value for name, value in world.config.to_json().items() if value != as_if[name]}
    digest = hashlib.sha256((directory / "weights.safetensors").read_bytes())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]
