"""The example of docs/agents.md runs: trained in a learned world, at work in the real one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import worldloop
from worldloop.envs.collecting import CollectConfig, collect
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

PAGE = Path(__file__).parent.parent / "docs" / "agents.md"


def test_the_example_trains_and_acts_in_the_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    dataset = collect(CollectConfig(data, maps=2, steps=40, workers=1))
    torch.manual_seed(0)
    shape = preset("nano", dataset.action_spec)
    shape = replace(shape, cdit=replace(shape.cdit, depth=1, width=32, heads=2), state=StateConfig(width=8, rounds=1))
    save_world(WorldModel(shape), tmp_path / "small", {})
    (block,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    for text, other in {"n=512": "n=4", "length=32": "length=6", "horizon=15": "horizon=5", "3000": "2"}.items():
        assert text in block
        block = block.replace(text, other)
    env = gym.make("worldloop/DoomRooms-v0", task="find", split="validation", max_steps=6)
    names = {"worldloop": worldloop, "Path": Path, "name": str(tmp_path / "small"), "data": data, "env": env}
    exec(compile(block, "docs/agents.md", "exec"), names)
    assert env.action_space.contains(names["action"]) and names["over"]
    env.close()
