"""The examples of docs/agents.md run: trained in a learned world, at work in the real one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import worldloop
from worldloop.agents import load_agent
from worldloop.envs.collecting import CollectConfig, collect
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

PAGE = Path(__file__).parent.parent / "docs" / "agents.md"


def test_the_examples_train_and_act_in_the_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    dataset = collect(CollectConfig(data, maps=2, steps=40, workers=1))
    torch.manual_seed(0)
    shape = preset("nano", dataset.action_spec)
    shape = replace(shape, cdit=replace(shape.cdit, depth=1, width=32, heads=2), state=StateConfig(width=8, rounds=1))
    save_world(WorldModel(shape), tmp_path / "small", {})
    first, second = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    block = shortened(first, {"n=512": "n=4", "length=32": "length=6", "horizon=15": "horizon=5", "3000": "2"})
    env = gym.make("worldloop/DoomRooms-v0", task="find", split="validation", max_steps=6)
    names = {"worldloop": worldloop, "Path": Path, "name": str(tmp_path / "small"), "data": data, "env": env}
    exec(compile(block, "docs/agents.md", "exec"), names)
    assert env.action_space.contains(names["action"]) and names["over"]
    env.close()
    pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")
    block = shortened(second, {
        "starts, max_episode_steps=50": "starts, max_episode_steps=3", "n_steps=128": "n_steps=8", "100_000": "128",
        "10_000": "64", "episodes=20": "episodes=2", 'split="validation")': 'split="validation", max_steps=4)',
    })  # fmt: skip
    exec(compile(block, "docs/agents.md", "exec"), names | {"gym": gym})
    assert [trial["step"] for trial in json.loads(Path("runs/mine/trials.json").read_text())] == [64, 128]
    assert load_agent("runs/mine/agent", names["world"]) and load_agent("runs/mine/best", names["world"])


def shortened(block: str, instead: dict[str, str]) -> str:
    for text, other in instead.items():
        assert text in block
        block = block.replace(text, other)
    return block
