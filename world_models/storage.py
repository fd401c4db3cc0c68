"""Worlds on disk: ``world.json`` and ``weights.safetensors``. Loading one never executes code.

A world's directory, or the one it lies in, may also hold ``contexts.safetensors`` (recorded starts, see
`worldloop.envs.contexts`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import ConfigError, WorldFormatError
from ..files import replacing, write_json
from .config import WorldConfig
from .world_model import WorldModel

FORMAT = "worldloop.world/1"


def save_world(world: WorldModel, directory: Path, about: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Write a world to ``directory``; a world already there stays loadable until the new one is whole.

    Args:
        world: what to save.
        directory: where; made if missing.
        about: where the world comes from (command, seed, data, results), kept as JSON for readers.
        dtype: type of the stored parameters; loading gives float32 again.
    """
    weights = {k: v.detach().to(dtype).contiguous().cpu() for k, v in world.state_dict().items()}
    with replacing(directory / "weights.safetensors") as path:
        save_file(weights, path, metadata={"format": FORMAT})
    write_json(directory / "world.json", {"format": FORMAT, "config": world.config.to_json(), "about": about})


def read_description(directory: Path) -> dict[str, Any]:
    """``world.json`` of a saved world: its format, configuration and where it comes from.

    Raises:
        WorldFormatError: there is none, or it is damaged or of another version.
    """
    path = directory / "world.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise WorldFormatError(f"There is no world in {directory}: it has no world.json.") from error
    except (OSError, ValueError) as error:
        raise WorldFormatError(f"{path} cannot be read ({error}); train or download the world again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise WorldFormatError(f"{path} has format {found!r}; this version of worldloop reads {FORMAT!r}.")
    return description


def read_world(directory: Path, device: torch.device | str = "cpu", **overrides: Any) -> WorldModel:
    """A saved world, ready to imagine: float32, no gradients.

    Args:
        directory: where `save_world` wrote it.
        device: where it shall compute.
        **overrides: see `WorldConfig.with_overrides`.

    Raises:
        WorldFormatError: a file is missing, damaged, or does not belong to the other.
        ConfigError: an override is unknown.
    """
    description = read_description(directory)
    try:
        config = WorldConfig.from_json(description["config"])
    except (ConfigError, KeyError) as error:
        raise WorldFormatError(f"{directory / 'world.json'} is damaged: {error}") from error
    path = directory / "weights.safetensors"
    try:
        weights = load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise WorldFormatError(f"{path} is missing; copy the whole directory of the world.") from error
    except (OSError, SafetensorError) as error:
        raise WorldFormatError(f"{path} is damaged or cut short ({error}); copy or train the world again.") from error
    with torch.device("meta"):
        world = WorldModel(config)
    expected = {k: v.shape for k, v in world.state_dict().items()}
    if {k: v.shape for k, v in weights.items()} != expected:
        raise WorldFormatError(f"{path} does not belong to the world.json beside it: parameters differ.")
    world = WorldModel(config)
    world.load_state_dict({k: v.to(torch.float32) for k, v in weights.items()})
    world.directory = directory
    if overrides:
        world.use(config.with_overrides(**overrides))
    return world.to(device).eval().requires_grad_(False)
