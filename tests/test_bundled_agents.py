"""Agents that come with worldloop are opened by their name wherever an agent is; agents find their worlds again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import gymnasium as gym
import pytest
import torch
from commands import worldloop
from small_agent import small_agent, small_world

from worldloop import load_world
from worldloop.agents import ActorCritic, ActorCriticConfig, Agent, agent_directory, bundled_agents, load_agent
from worldloop.agents import pretrained as agents_home
from worldloop.envs.explorers import digest_of
from worldloop.errors import WorldFormatError
from worldloop.rollouts.store import open_dataset
from worldloop.world_models.pretrained import bundled_worlds, world_directory


def world_of(agent: Path) -> str:
    found = json.loads((agent / "agent.json").read_text())["world"]
    assert isinstance(found, str)
    return found


def texts(data: Any) -> Iterator[str]:
    """Every text in JSON."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, list | dict):
        for item in data.values() if isinstance(data, dict) else data:
            yield from texts(item)


def test_there_is_one_to_show_and_it_is_listed() -> None:
    assert "find-near" in bundled_agents()
    with pytest.raises(WorldFormatError, match=r"no agent 'find-nothing'.*find-near.*directory"):
        load_agent("find-nothing")


@pytest.mark.parametrize("name", bundled_agents())
def test_a_bundled_agent_is_small_names_its_world_and_no_machine(name: str) -> None:
    directory = agent_directory(name)
    assert sorted(path.name for path in directory.iterdir()) == ["agent.json", "weights.safetensors"]
    assert sum(path.stat().st_size for path in directory.iterdir()) < 2_000_000
    assert world_of(directory) in bundled_worlds()
    for text in texts(json.loads((directory / "agent.json").read_text())):
        for word in text.replace("=", " ").split():
            assert not (PurePosixPath(word).is_absolute() or PureWindowsPath(word).is_absolute()), text


@pytest.mark.parametrize("name", bundled_agents())
def test_a_bundled_agent_acts_in_the_rooms_wherever_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sb3" in json.loads((agent_directory(name) / "agent.json").read_text())["format"]:
        pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(agent_directory(name), tmp_path / "copy")
    env = gym.make("worldloop/DoomRooms-v0", task="find", split="validation")
    acted = []
    for given in (name, copy):
        agent = load_agent(given)
        assert agent.world.directory == world_directory(world_of(copy))  # type: ignore[attr-defined]
        (frame, info), state = env.reset(seed=3), None
        for _ in range(6):
            action, state = agent.predict({"frame": frame, "pose": info["pose"]}, state, deterministic=False)
            assert env.action_space.contains(action)
            acted.append(action)
            frame, _, _, _, info = env.step(action)
    env.close()
    assert acted[:6] == acted[6:]


@pytest.mark.parametrize("name", bundled_agents())
@pytest.mark.parametrize("world", bundled_worlds())
def test_a_bundled_agent_perceives_through_every_bundled_world(name: str, world: str) -> None:
    if "sb3" in json.loads((agent_directory(name) / "agent.json").read_text())["format"]:
        pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")
    other, own = load_agent(name, load_world(world)), load_agent(name)
    assert other.world.directory == world_directory(world)  # type: ignore[attr-defined]
    env = gym.make("worldloop/DoomRooms-v0", task="find", split="validation")
    frame, info = env.reset(seed=3)
    env.close()
    seen = {"frame": frame, "pose": info["pose"]}
    # Of the first frame they know the same; what they remember later may be chosen in other ways.
    (_, through), (_, state) = other.predict(seen), own.predict(seen)
    assert torch.equal(other.world.encode_state(through.world), own.world.encode_state(state.world))


def test_a_directory_goes_before_a_bundled_agent_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_agent(Path("find-near"), small_world(Path("world")))
    agent = load_agent("find-near")
    assert agent.world.state_size == load_world("world").state_size
    weights = agent.heads.state_dict() if isinstance(agent.heads, ActorCritic) else {}
    own = small_agent(tmp_path / "same", tmp_path / "world")
    assert weights and all(torch.equal(weights[name], x) for name, x in load_agent(own).heads.state_dict().items())  # type: ignore[union-attr]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an agent that is bundled, for a while, as ``mine``."""
    home = tmp_path / "home"
    agent = small_agent(home / "mine", small_world(tmp_path / "worlds" / "small"))
    monkeypatch.setattr(agents_home, "_HERE", home)
    monkeypatch.chdir(tmp_path)
    assert bundled_agents() == ["mine"]
    return agent


def test_commands_take_the_name_of_a_bundled_agent(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worldloop("collect", "--out", "data", "--policy", "agent", "--agent", "mine", "--maps", 1, "--steps", 8,
              "--workers", 1)  # fmt: skip
    dataset = open_dataset("data")
    assert {episode.policy for episode in dataset.episodes()} == {"agent"}
    assert dataset.info.recipe["agent"] == digest_of(mine)
    worldloop("train-agent", "--method", "distilling", "--teacher", "mine", "--world", "worlds/small", "--data", "data",
              "--plans", 2, "--depth", 1, "--planning.horizon", 2, "--planning.candidates", 6, "--planning.elites", 2,
              "--planning.proposals", 2, "--starts", 2, "--context", 4, "--cloning.steps", 1,
              "--out", "run")  # fmt: skip
    learned, taught = load_agent("run/agent"), load_agent(mine)
    states = torch.rand(5, taught.world.state_size)
    assert torch.equal(learned.value(states), taught.value(states)), "the critic is the teacher's"
    capsys.readouterr()
    worldloop("evaluate", "transfer", "--agents", "mine", "distilled=run/agent", "--tasks", "find-near",
              "--episodes", 2, "--envs", 2, "--max-steps", 4, "--out", "transfer")  # fmt: skip
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("find-near")]
    assert rows == [["find-near", "mine"], ["find-near", "distilled"], ["find-near", "random"]]
    with pytest.raises(AssertionError, match="status 1"):
        worldloop("collect", "--out", "other", "--policy", "agent", "--agent", "yours")
    assert "no agent 'yours'" in capsys.readouterr().err and not Path("other").exists()


def test_an_agent_of_a_bundled_world_knows_it_by_name_wherever_either_was_named(tmp_path: Path) -> None:
    name = "doom-rooms-nano"
    for number, given in enumerate((name, world_directory(name), os.path.relpath(world_directory(name)))):
        world = load_world(given)
        Agent(world, ActorCritic(world.state_size, world.actions, ActorCriticConfig())).save(tmp_path / str(number))
        assert world_of(tmp_path / str(number)) == name
        assert load_agent(tmp_path / str(number)).world.directory == world_directory(name)  # type: ignore[attr-defined]
    # Another world is no bundled one, whatever it is called.
    other = small_agent(tmp_path / "other", small_world(tmp_path / "pretrained" / name))
    assert world_of(other) == f"../pretrained/{name}" and load_agent(other)


def test_a_run_is_moved_with_its_agents_and_worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = small_world(Path("run/round-0/world/world"))
    agent = small_agent(Path("run/round-0/agent/agent"), world)
    assert world_of(agent) == "../../world/world"
    before = load_agent(agent)
    shutil.move("run", "elsewhere")
    Path("further/away").mkdir(parents=True)
    monkeypatch.chdir("further/away")
    after = load_agent("../../elsewhere/round-0/agent/agent")
    states = torch.rand(5, before.world.state_size)
    assert torch.equal(before.probabilities(states), after.probabilities(states))
    alone = shutil.move(tmp_path / "elsewhere/round-0/agent/agent", tmp_path / "alone")
    with pytest.raises(WorldFormatError, match="Unknown world"):
        load_agent(alone)
    assert load_agent(alone, before.world)
