"""Worlds on disk: ``world.json`` and ``weights.safetensors``. Loading one never executes code.

A world's directory, or the one it lies in, may also hold ``contexts.safetensors`` (recorded starts, see
`worldloop.envs.contexts`). Worlds that lie beside each other may keep a part that they have in common only once.
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
    weights = _load(path, device)
    for part, name in description.get("shares", {}).items():
        weights |= _part(_load(_beside(directory, name) / "weights.safetensors", device), part)
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


def share_part(directory: Path, part: str, name: str) -> None:
    """Let a saved world take a part from the world ``name`` beside it, instead of keeping a copy.

    Args:
        directory: of the world.
        part: such as ``"autoencoder"``.
        name: directory of the other world, beside this one, which has the very same parameters there.

    Raises:
        WorldFormatError: they have not, or a file is missing or damaged.
    """
    description = read_description(directory)
    weights = _load(directory / "weights.safetensors")
    own, others = _part(weights, part), _part(_load(_beside(directory, name) / "weights.safetensors"), part)
    if not own or own.keys() != others.keys() or any(not torch.equal(own[k], others[k]) for k in own):
        raise WorldFormatError(f"{directory} and {name} do not have the same {part}: they cannot share it.")
    # In this order the world can be loaded at any moment.
    shares = description.get("shares", {}) | {part: name}
    write_json(directory / "world.json", description | {"shares": shares})
    with replacing(directory / "weights.safetensors") as path:
        save_file({k: v for k, v in weights.items() if k not in own}, path, metadata={"format": FORMAT})


def _load(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise WorldFormatError(f"{path} is missing; copy the whole directory of the world.") from error
    except (OSError, SafetensorError) as error:
        raise WorldFormatError(f"{path} is damaged or cut short ({error}); copy or train the world again.") from error
    return weights


def _part(weights: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in weights.items() if k.split(".", 1)[0] == part}


def _beside(directory: Path, name: str) -> Path:
    if Path(name).name != name:
        raise WorldFormatError(f"A world shares parts with one beside it, by its name; got {name!r}.")
    return directory.resolve().parent / name
