"""Distilling: a policy does at once what planning finds, on starts that it has not seen; interrupted, the same one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import worldloop
from small_agent import small_agent, small_world
from test_agents_toy import CONFIG, DISCOUNT, KEYS_ARENA, PLANE_ARENA, fewest_keys, mean_return, starts_in
from toy_world import ToyWorld

from worldloop.agents.actor_critic import ActorCritic
from worldloop.agents.agent import Agent, load_agent
from worldloop.agents.distilling import distil_plans
from worldloop.agents.imagined_batch import ObservedStarts
from worldloop.agents.planning import PlanSearch, planning_agent
from worldloop.agents.training import agent_training
from worldloop.envs.collecting import CollectConfig, collect
from worldloop.errors import ConfigError
from worldloop.planning import Reward

SEARCH = PlanSearch("cem", horizon=10, candidates=64, iterations=3)
FEW = PlanSearch("cem", horizon=3, candidates=8, iterations=1, elites=2)


def fresh(world: ToyWorld, seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    return ActorCritic(world.state_size, world.actions, CONFIG)


def planned_return(world: ToyWorld, contexts: Any, search: PlanSearch, steps: int = 20) -> float:
    """What planning anew at every step earns from each of the starts, discounted."""
    planner = search.planner(0)
    state = ObservedStarts(world, contexts)._states
    alive, earned, previous = torch.ones(len(contexts)), torch.zeros(len(contexts)), None
    for t in range(steps):
        previous = planner.plan(world, state, Reward(DISCOUNT), previous)
        state, step = world.imagine(state, previous.actions[:, 0])
        earned += DISCOUNT**t * alive * step.reward
        alive *= step.continues
    return float(earned.mean())


def test_a_fresh_policy_learns_to_act_as_planning_does_on_starts_it_has_not_seen(tmp_path: Path) -> None:
    world, held_out = ToyWorld(KEYS_ARENA), starts_in(KEYS_ARENA, 48, seed=1)
    training = replace(agent_training(600), learning_rate=2e-3)
    heads = fresh(world)
    before = mean_return(world, Agent(world, deepcopy(heads)), held_out)
    agent = distil_plans(
        world, starts_in(KEYS_ARENA, 400, seed=0), tmp_path, heads, training, SEARCH, samples=192, depth=4
    )
    assert agent is not None
    teacher, student = planned_return(world, held_out, SEARCH), mean_return(world, agent, held_out)
    best = float(np.mean([DISCOUNT ** (fewest_keys(KEYS_ARENA, pose) - 1) for pose in held_out.poses[:, -1]]))
    assert 0.8 * best < teacher <= best + 1e-6, "there is something to learn from it"
    assert before < 0.5 * teacher and student >= 0.9 * teacher, (before, student, teacher)


def test_vectors_are_distilled_too_and_the_critic_is_left_alone(tmp_path: Path) -> None:
    world, held_out = ToyWorld(PLANE_ARENA), starts_in(PLANE_ARENA, 32, seed=1)
    heads = fresh(world)
    critic = {name: tensor.clone() for name, tensor in heads.critic.state_dict().items()}
    search = PlanSearch("mppi", horizon=8, candidates=64, iterations=3)
    training = replace(agent_training(400), learning_rate=2e-3)
    agent = distil_plans(world, starts_in(PLANE_ARENA, 200, seed=0), tmp_path, heads, training, search, samples=160)
    assert agent is not None and isinstance(agent.heads, ActorCritic)
    assert mean_return(world, agent, held_out) >= 0.8 * planned_return(world, held_out, search)
    assert all(torch.equal(tensor, agent.heads.critic.state_dict()[name]) for name, tensor in critic.items())


def test_a_teachers_policy_proposes_and_its_critic_counts(tmp_path: Path) -> None:
    world, contexts = ToyWorld(KEYS_ARENA), starts_in(KEYS_ARENA, 20, seed=0)
    asked: list[str] = []

    class Teacher(Agent):
        def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
            asked.append("policy")
            return super().act(vectors, uniform)

        def value(self, vectors: torch.Tensor) -> torch.Tensor:
            asked.append("critic")
            return super().value(vectors)

    search = replace(FEW, proposals=2)
    teacher = Teacher(world, fresh(world, 1))
    distil_plans(
        world, contexts, tmp_path, deepcopy(teacher.heads), agent_training(2), search, teacher=teacher, samples=4
    )
    assert {"policy", "critic"} <= set(asked)


def test_an_interrupted_run_plans_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    contexts, training = starts_in(KEYS_ARENA, 60, seed=0), agent_training(6)

    def distilled(out: Path, world: ToyWorld, **how: Any) -> Agent | None:
        return distil_plans(world, contexts, out, fresh(world), training, FEW, samples=40, depth=2, **how)

    class Enough(Exception):
        pass

    def enough(progress: Any, watched: Any) -> None:
        if progress.stage == "plans" and progress.step == 2:
            raise Enough

    worlds = [ToyWorld(KEYS_ARENA) for _ in range(4)]
    whole = distilled(tmp_path / "whole", worlds[0])
    with pytest.raises(Enough):
        distilled(tmp_path / "parts", worlds[1], watch=enough)
    assert len(list((tmp_path / "parts" / "plans").glob("*.safetensors"))) == 2
    assert distilled(tmp_path / "parts", worlds[2], stop_after=3) is None
    parts = distilled(tmp_path / "parts", worlds[3])
    assert whole is not None and parts is not None
    imagined = [sum(world.imagined_batches) for world in worlds]
    assert imagined[1] + imagined[2] == imagined[0] and imagined[3] == 0
    for (name, a), b in zip(whole.heads.state_dict().items(), parts.heads.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    again = load_agent(tmp_path / "parts" / "agent", worlds[0])
    vectors = torch.rand(9, 4)
    assert torch.equal(again.probabilities(vectors), parts.probabilities(vectors))
    # A damaged file is planned again.
    (tmp_path / "parts" / "plans" / "000000.safetensors").write_bytes(b"cut")
    world = ToyWorld(KEYS_ARENA)
    assert distilled(tmp_path / "parts", world) is not None and sum(world.imagined_batches) > 0


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    world, contexts = ToyWorld(KEYS_ARENA), starts_in(KEYS_ARENA, 6, seed=0)
    with pytest.raises(ConfigError, match="at least 1; got 0 and 4"):
        distil_plans(world, contexts, tmp_path, fresh(world), agent_training(2), FEW, samples=0)
    assert distil_plans(world, contexts, tmp_path, fresh(world), agent_training(2), FEW, samples=4, depth=1)
    with pytest.raises(ConfigError, match="another configuration"):
        distil_plans(world, contexts, tmp_path, fresh(world), agent_training(2), FEW, samples=5, depth=1)
    with pytest.raises(ConfigError, match="A solver is one of mppi, cem"):
        planning_agent(world, 0.9, replace(FEW, solver="luck"))  # type: ignore[arg-type]


def test_train_agent_distils_a_teacher_of_the_rooms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = small_world(tmp_path / "world")
    collect(CollectConfig(tmp_path / "data", maps=2, steps=30, workers=1, seed=1))
    teacher = small_agent(tmp_path / "teacher", world)
    few = ("--plans", 4, "--depth", 2, "--planning.horizon", 2, "--planning.candidates", 6, "--planning.elites", 2,
           "--planning.proposals", 2, "--starts", 3, "--context", 5, "--cloning.steps", 3)  # fmt: skip
    command = ("train-agent", "--method", "distilling", "--world", world, "--data", tmp_path / "data", *few)
    worldloop(*command, "--teacher", teacher, "--out", tmp_path / "out")
    before, after = load_agent(teacher), load_agent(tmp_path / "out" / "agent")
    states = torch.rand(5, before.world.state_size)
    assert torch.equal(before.value(states), after.value(states))
    assert not torch.equal(before.probabilities(states), after.probabilities(states))
    capsys.readouterr()
    with pytest.raises(AssertionError, match="status 1"):
        worldloop(*command, "--out", tmp_path / "other")
    assert "give --teacher" in capsys.readouterr().err
