"""Worlds as they are named on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class OneWorld:
    """What is done with one world."""

    world: str = "doom-rooms-tiny"
    """A bundled world, or the directory of a trained one."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class SeveralWorlds:
    """What is done with several worlds."""

    worlds: tuple[str, ...] = ("doom-rooms-tiny",)
    """Bundled worlds, or directories of trained ones; the others are compared with the first. Each may have a name
    before it and changes behind it: "forgetful=runs/mine/world@none" retrieves nothing,
    "whole=runs/mine/world@packing=raw" packs otherwise; "@positions=true" and "@retrieval=nearest" likewise."""
    device: Device = "auto"
    """Where to compute."""


def load_one(verb: OneWorld, **use: str) -> Any:
    """The world that a command names; ``use`` as for `load_world`."""
    from ..world_models.pretrained import load_world
    from ..world_models.training.train import pick_device

    return load_world(verb.world, pick_device(verb.device), **use)


def named_worlds(entries: tuple[str, ...], device: Device, **use: str) -> dict[str, Any]:
    """Worlds by name, with the changes that stand behind them.

    Raises:
        ConfigError: a change that does not exist, or two worlds of one name.
    """
    from ..world_models.pretrained import load_world
    from ..world_models.training.train import pick_device

    worlds = {}
    for entry in entries:
        rest, *changes = entry.split("@")
        name, named, world = rest.partition("=")
        # A change without a name is a retrieval strategy.
        named_changes = (c if "=" in c.partition(":")[0] else f"retrieval={c}" for c in changes)
        overrides = {key: value for key, _, value in (c.partition("=") for c in named_changes)}
        if unknown := sorted(set(overrides) - {"packing", "positions", "retrieval"}):
            raise ConfigError(f"Behind a world stand packing=, positions= or a retrieval strategy, not {unknown[0]!r}.")
        worlds[name if named else Path(rest).name] = load_world(
            world if named else rest, pick_device(device), **overrides, **use
        )
    if len(worlds) < len(entries):
        raise ConfigError(f"The worlds need different names, got {', '.join(entries)}.")
    return worlds
