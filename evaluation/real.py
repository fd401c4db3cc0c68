"""The real world a learned one is held against: DoomRooms at its frame size, and whether the two fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from ..envs.imagination import check_fits
from ..rollouts.splits import Split, seed_range
from ..world_models.world import World

MakeEnv = Callable[[], gym.Env[Any, Any]]
"""Makes the real environment."""

_ENDLESS = 1_000_000


@contextmanager
def held_out(
    worlds: Iterable[World], split: Split, maps: int, seed: int, make_env: MakeEnv | None = None
) -> Iterator[tuple[gym.Env[Any, Any], list[int]]]:
    """The real environment, closed afterwards, and the seeds of so many different maps of ``split``.

    Args:
        worlds: what will be compared with it, all of which it must fit.
        split: of the maps.
        maps: how many.
        seed: of their choice.
        make_env: makes the environment; default DoomRooms, task explore, at the first world's frame size.

    Raises:
        ConfigError: see `check_fits`.
    """
    worlds = list(worlds)
    chosen = np.random.default_rng(seed).choice(seed_range(split), maps, replace=False)
    with closing(make_env() if make_env else doom_rooms(worlds[0], split)) as env:
        for world in worlds:
            check_fits(world, env)
        yield env, chosen.tolist()


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
