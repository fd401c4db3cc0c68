"""How agents lie on disk: ``agent.json`` and ``weights.safetensors``, and which world they perceive through."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ConfigError, WorldFormatError
from ..files import replacing, write_json
from ..world_models.actions import ActionSpec
from ..world_models.evidence import HEADINGS, STROLL
from ..world_models.pretrained import bundled_worlds, load_world, world_directory
from ..world_models.state_space import DEVIATION_SCALE, NOVELTY_SCALE
from ..world_models.world import World
from .frame_stack import FrameStack
from .pretrained import agent_directory

_DESCRIPTION, _WEIGHTS = "agent.json", "weights.safetensors"


@dataclass(frozen=True)
class StoredAgent:
    """What `read_agent` found.

    Attributes:
        path: the directory.
        description: its ``agent.json``; ``"format"`` says what kind of agent it is.
        weights: parameters by name.
    """

    path: Path
    description: dict[str, Any]
    weights: dict[str, Tensor]

    def damaged(self, error: Exception) -> WorldFormatError:
        """What to raise where the parts do not make an agent."""
        return WorldFormatError(f"The agent in {self.path} cannot be read: {' '.join(str(error).split())}")

    def world(self, spec: ActionSpec, world: World | None, device: str) -> World:
        """The world to perceive through: that in which the agent was trained, unless one is given.

        Args:
            spec: the agent's actions.
            world: given; an agent that perceives by a `FrameStack` heeds none.
            device: where to load one.

        Raises:
            WorldFormatError: it is gone.
            ConfigError: the given one perceives otherwise, or the agent's own had no directory.
        """
        name = self.description["world"]
        if not isinstance(name, str):
            return FrameStack.from_json(name, spec, device)
        if world is None:
            if not name:
                raise ConfigError(f"The agent in {self.path} was trained in a world without a directory: give world=.")
            world = load_world(name if name in bundled_worlds() else (self.path / name).resolve(), device)
        if perception(world) != self.description["perception"]:
            raise ConfigError(
                "This world perceives otherwise than the one this agent was trained in: give that one; or, if the "
                "agent is of an earlier worldloop, whose state vectors were others, train it again."
            )
        return world


def write_agent(directory: Path, description: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write an agent; one already there stays loadable until this is whole.

    Args:
        directory: where; made if missing.
        description: what `read_agent` will find, with a ``"format"``.
        weights: parameters by name.
    """
    with replacing(directory / _WEIGHTS) as path:
        tensors = {k: v.detach().contiguous().cpu() for k, v in weights.items()}
        save_file(tensors, path, metadata={"format": description["format"]})
    write_json(directory / _DESCRIPTION, description)


def read_agent(path: Path) -> StoredAgent:
    """The inverse of `write_agent`; ``path`` may also be the name of a bundled agent.

    Raises:
        WorldFormatError: no such agent, or files missing or damaged.
    """
    path = agent_directory(path)
    try:
        description = json.loads((path / _DESCRIPTION).read_text())
        return StoredAgent(path, {"format": "", **description}, load_file(path / _WEIGHTS))
    except FileNotFoundError as error:
        raise WorldFormatError(f"There is no agent in {path}: {error.filename} is missing.") from error
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise WorldFormatError(f"The agent in {path} cannot be read: {' '.join(str(error).split())}") from error


def perception(world: World) -> str:
    """Digest of what a world makes state vectors with; empty for one without parameters."""
    layout = f"{DEVIATION_SCALE} {NOVELTY_SCALE} {HEADINGS} {STROLL}"
    digest = hashlib.blake2b(layout.encode(), digest_size=16)
    found = False
    states = getattr(world, "state_space", None)
    parts = getattr(world, "autoencoder", None), getattr(states, "sight", None), getattr(states, "encoder", None)
    for module in parts:
        if isinstance(module, nn.Module):
            found = True
            for tensor in module.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest() if found else ""


def world_name(world: World, directory: Path) -> str:
    """How to find ``world`` again: by its bundled name, or by its path from ``directory``, to be moved with it."""
    at = getattr(world, "directory", None)
    if not isinstance(at, Path):
        return ""
    at = at.resolve()
    if at.name in bundled_worlds() and at == world_directory(at.name).resolve():
        return at.name
    return Path(os.path.relpath(at, directory.resolve())).as_posix()
