"""`collect` with a trained agent: what it does, what it hears of, and who it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollout_data import same
from small_agent import small_agent, small_world

from worldloop.agents.agent import load_agent
from worldloop.agents.imagined_batch import draws
from worldloop.envs.collecting import CollectConfig, collect, record_map
from worldloop.envs.explorers import action_spec
from worldloop.envs.steering import Steering
from worldloop.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("agent")
    return small_agent(root / "agent", small_world(root / "world"))


def config(out: Path, agent: Path | None, **changes: Any) -> CollectConfig:
    fields: dict[str, Any] = {"policy": "agent", "agent": agent, "maps": 2, "steps": 24, "workers": 1, "seed": 3}
    return CollectConfig(out, **fields | changes)


@pytest.fixture
def rooms() -> Any:
    env = gym.make("worldloop/DoomRooms-v0", disable_env_checker=True, task="find", level="far")
    yield env
    env.close()


def test_it_acts_by_what_it_has_really_seen_and_done_disturbed_or_not(agent: Path, rooms: gym.Env[Any, Any]) -> None:
    recipe = config(Path("x"), agent, epsilon=0.4)
    (episode,) = record_map(rooms, recipe, 7)
    assert episode.policy == "agent"
    # All over again, from the recording alone: everything up to a frame is observed at once.
    rng = np.random.default_rng([recipe.seed, 7])
    rng.integers(2**31)
    knows = load_agent(agent, seed=int(rng.integers(2**31)))
    steering, own = Steering(action_spec(rooms)), 0
    for t in range(len(episode) - 1):
        seen = slice(0, t + 1)
        state = knows.world.observe(
            knows.begin(1).world, episode.frames[None, seen], episode.actions[None, seen], episode.poses[None, seen]
        )
        chosen = int(knows.act(knows.world.encode_state(state), draws(state, knows.world.actions.n)))
        disturbed = rng.random() < recipe.epsilon
        assert episode.actions[t + 1] == (steering.random(rng) if disturbed else chosen)
        own += not disturbed
    assert 5 < own < 20 and len(set(episode.actions.tolist())) > 2


def test_the_same_is_recorded_again_in_other_processes(
    agent: Path, rooms: gym.Env[Any, Any], tmp_path: Path
) -> None:
    mixed = config(tmp_path / "data", agent, policy="mix", maps=4, workers=2)
    dataset = collect(mixed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = [episode for seed in mixed.map_seeds for episode in record_map(rooms, mixed, seed)]
    finally:
        torch.set_num_threads(threads)
    assert all(same(a, b) for a, b in zip(dataset.episodes(), here, strict=True))


def test_the_mix_holds_it_by_its_share(agent: Path, rooms: gym.Env[Any, Any]) -> None:
    recipe = config(Path("x"), agent, policy="mix", steps=2, acting=1.0)
    names = [record_map(rooms, recipe, seed)[0].policy for seed in range(100)]
    assert abs(names.count("agent") / 100 - 0.5) < 0.15
    assert {"agent", "waypoint", "loop", "random"} <= set(names)


def test_a_data_set_goes_on_with_the_agent_it_was_begun_with_alone(agent: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    collect(config(out, agent, maps=1))
    recipe = json.loads((out / "dataset.json").read_text())["recipe"]
    # The world is found again by its path from the agent.
    moved = shutil.copytree(agent.parent, tmp_path / "elsewhere") / "agent"
    assert len(collect(config(out, moved, maps=2)).map_seeds) == 2
    other = small_agent(tmp_path / "other", agent.parent / "world", seed=1)
    with pytest.raises(DataError, match=f"recipe.agent is '{recipe['agent']}' there and"):
        collect(config(out, other, maps=2))


def test_who_acts_must_be_said_and_must_fit(agent: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take an agent's directory"):
        config(tmp_path, None)
    with pytest.raises(ConfigError, match="take an agent's directory"):
        config(tmp_path, agent, policy="loop")
    with pytest.raises(ConfigError, match="There is no agent in"):
        collect(config(tmp_path / "data", tmp_path / "nobody"))
    with pytest.raises(ConfigError, match="frames"):
        collect(config(tmp_path / "data", agent, maps=1, env_kwargs={"frame_size": [96, 128]}))
    assert not (tmp_path / "data").exists()


def test_a_recording_without_an_agent_keeps_the_recipe_it_always_had(tmp_path: Path) -> None:
    """Data sets recorded before there were agents go on."""
    recipe = CollectConfig(tmp_path, policy="waypoint").recipe
    assert set(recipe) == {"first_map", "steps", "policy", "epsilon", "seed", "goal_fraction"}
    assert not {"agent", "acting"} & set(CollectConfig(tmp_path).recipe)
