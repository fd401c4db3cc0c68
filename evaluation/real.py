"""The real world a learned one is held against: DoomRooms at its frame size, and whether the two fit."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from ..errors import ConfigError
from ..rollouts.splits import Split
from ..world_models.world import World

_ENDLESS = 1_000_000


def doom_rooms(world: World, split: Split) -> gym.Env[Any, Any]:
    """DoomRooms on maps of ``split``, without a reward or an end, as ``world`` sees and acts in it."""
    return gym.make(
        "worldloop/DoomRooms-v0",
        task="explore",
        split=split,
        frame_size=tuple(world.frame_size),
        actions="discrete" if world.actions.kind == "discrete" else "continuous",
        max_steps=_ENDLESS,
    )


def check_fits(world: World, env: gym.Env[Any, Any]) -> None:
    """Refuse a real environment that ``world`` cannot be compared with.

    Raises:
        ConfigError: another frame size, or another action space.
    """
    shape = env.observation_space.shape
    if shape != (*world.frame_size, 3):
        raise ConfigError(f"This world draws frames {(*world.frame_size, 3)}, the real environment {shape}.")
    space, spec = env.action_space, world.actions
    fits = (
        isinstance(space, gym.spaces.Discrete) and int(space.n) == spec.n
        if spec.kind == "discrete"
        else isinstance(space, gym.spaces.Box) and space.shape == spec.shape
    )
    if not fits:
        raise ConfigError(
            f"This world knows {spec.n} {spec.kind} actions ({', '.join(spec.names)}), "
            f"the environment has {space}."
        )
