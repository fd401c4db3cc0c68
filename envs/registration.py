"""Gymnasium ids of worldloop's environments."""

from __future__ import annotations

import gymnasium as gym


def register_all() -> None:
    """Register ``worldloop/DoomRooms-v0`` and ``worldloop/Imagined-v0``; a second call changes nothing."""
    if "worldloop/DoomRooms-v0" in gym.registry:
        return
    gym.register(id="worldloop/DoomRooms-v0", entry_point="worldloop.envs.doom_rooms.env:DoomRoomsEnv")
    gym.register(
        id="worldloop/Imagined-v0",
        entry_point="worldloop.envs.imagined:ImaginedEnv",
        vector_entry_point="worldloop.envs.imagined_vector:ImaginedVectorEnv",
    )
