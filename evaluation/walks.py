"""Recorded walks on training maps, for the baselines that learn."""

from __future__ import annotations

from pathlib import Path

from ..envs.collecting import CollectConfig, collect
from ..rollouts.cache import TrainingCache
from ..rollouts.store import open_dataset
from ..world_models.world import World
from .progress import Progress, silent

_MAPS = 100


def recorded_walks(world: World, data: Path | None, out: Path, progress: Progress = silent) -> TrainingCache:
    """The walks in ``data``, or, where none are given, those that the waypoint explorer makes in DoomRooms.

    Args:
        world: whose frames and actions they shall have.
        data: a data set of training maps.
        out: directory of the new one; what is recorded there already is not recorded again.
        progress: told after every map.

    Raises:
        DataError: a data set that is damaged, or of held-out maps.
    """
    if data is None:
        data = out
        kwargs = {
            "task": "explore",
            "frame_size": list(world.frame_size),
            "actions": "discrete" if world.actions.kind == "discrete" else "continuous",
        }
        collect(
            CollectConfig(data, env_kwargs=kwargs, maps=_MAPS, policy="waypoint"),
            lambda p: progress("recording walks", p.maps_done, p.maps),
        )
    return TrainingCache.of(open_dataset(data, purpose="training"))
