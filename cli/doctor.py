"""`worldloop doctor`: what this machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .console import OUT


@dataclass(frozen=True)
class Doctor:
    """Check what this machine has: versions, arithmetic, the game engine, bundled worlds."""


def do_doctor(verb: Doctor) -> None:
    """Look, and say what there is."""
    from importlib.metadata import version

    import torch

    from ..envs.doom_rooms.env import DoomRoomsEnv
    from ..world_models.pretrained import bundled_worlds
    from ..world_models.training.fit import native_bfloat16

    for name in ("worldloop", "torch", "gymnasium", "vizdoom", "numpy"):
        OUT.print(f"{name} {version(name)}")
    OUT.print(f"processor cores: {os.cpu_count()}, torch threads: {torch.get_num_threads()}")
    OUT.print(f"native bfloat16 on the processor: {native_bfloat16(torch.device('cpu'))}")
    OUT.print(f"CUDA: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    OUT.print(f"bundled worlds: {', '.join(bundled_worlds()) or 'none'}")
    env = DoomRoomsEnv(split="train")
    try:
        observation, _ = env.reset(seed=0)
        OUT.print(f"DoomRooms: the engine runs, frames {observation.shape}")
    finally:
        env.close()
