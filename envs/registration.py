"""Gymnasium ids of worldloop's environments."""

from __future__ import annotations

import gymnasium as gym


def register_all() -> None:
    """Register every id; a second call changes nothing."""
    if "worldloop/DoomRooms-v0" in gym.registry:
        return
    gym.register(id="worldloop/DoomRooms-v0", entry_point="worldloop.envs.doom_rooms.env:DoomRoomsEnv")
    gym.register(id="worldloop/MiniWorld-v0", entry_point="worldloop.envs.miniworld:MiniWorldEnv")
    gym.register(id="worldloop/MineDojo-v0", entry_point="worldloop.envs.minedojo:MineDojoEnv")
    gym.register(
        id="worldloop/Imagined-v0",
        entry_point="worldloop.envs.imagined:ImaginedEnv",
        vector_entry_point="worldloop.envs.imagined_vector:ImaginedVectorEnv",
    )
