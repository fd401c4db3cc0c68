"""A small world of the rooms and an untrained agent with a will of its own, on disk in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from worldloop.agents.actor_critic import ActorCritic, ActorCriticConfig
from worldloop.agents.agent import Agent
from worldloop.agents.heads import HeadsConfig
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import read_world, save_world
from worldloop.world_models.world_model import WorldModel


def small_world(path: Path) -> Path:
    """Write a world of a few thousand parameters, as they were drawn."""
    torch.manual_seed(0)
    shape = preset("nano", DoomRoomsEnv().action_spec)
    shape = replace(shape, cdit=replace(shape.cdit, depth=1, width=32, heads=2), state=StateConfig(width=8, rounds=1))
    save_world(WorldModel(shape), path, {})
    return path


def small_agent(path: Path, world: Path, seed: int = 0) -> Path:
    """Write an agent of that world whose choices depend on what it sees."""
    known = read_world(world)
    torch.manual_seed(seed)
    heads = ActorCritic(known.state_size, known.actions, ActorCriticConfig(HeadsConfig(width=16, members=1, bins=21)))
    for parameter in heads.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    Agent(known, heads).save(path)
    return path
