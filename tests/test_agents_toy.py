"""Agents in the exact toy world, where the best that can be done is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import KEYS, STEP, ToyArena, ToyWorld, walk

from worldloop.agents.actor_critic import ActorCriticConfig, Estimator
from worldloop.agents.agent import Agent
from worldloop.agents.heads import HeadsConfig
from worldloop.agents.imagined_batch import ObservedStarts, roll_out
from worldloop.agents.training import agent_training, train_in_imagination
from worldloop.envs.contexts import Contexts
from worldloop.world_models.actions import ActionSpec

DISCOUNT = 0.9
HORIZON = 10
PLANE = ActionSpec("box", ("forward", "left"), ((STEP, 0, 0, 0, 0), (0, STEP, 0, 0, 0)))
KEYS_ARENA = ToyArena(actions=KEYS, size=200.0, goal=(140.0, 140.0), goal_radius=30.0)
PLANE_ARENA = ToyArena(actions=PLANE, size=200.0, goal=(140.0, 140.0), goal_radius=30.0)
CONFIG = ActorCriticConfig(
    HeadsConfig(width=64, members=1, bins=41), horizon=HORIZON, first_horizon=HORIZON, discount=DISCOUNT
)


def starts_in(arena: ToyArena, n: int, seed: int) -> Contexts:
    """Places all over the arena but in the goal, looking anywhere, seen once."""
    rng = np.random.default_rng(seed)
    frames, poses = [], []
    while len(poses) < n:
        x, y = rng.uniform(0, arena.size, 2)
        if math.dist((x, y), arena.goal) > arena.goal_radius:
            seen, track = walk(arena, [x, y, 0, rng.uniform(-math.pi, math.pi), 0], [])
            frames.append(seen[0].numpy())
            poses.append(track[0].numpy())
    spec = arena.actions
    nothing = np.zeros((n, 1, *spec.shape), np.int64 if spec.kind == "discrete" else np.float32)
    return Contexts(np.stack(frames), nothing, np.stack(poses), np.arange(n), spec, "train")


def fewest_keys(arena: ToyArena, pose: np.ndarray) -> int:
    """Keys from ``pose`` into the goal: breadth first, over all that can be pressed."""
    frontier, seen = torch.from_numpy(pose).view(1, 5), set()
    for steps in range(1, 12):
        rows = frontier.repeat_interleave(arena.actions.n, 0)
        arrived = arena.arrive(rows, torch.arange(arena.actions.n).repeat(len(frontier)))
        if bool(arena.at_goal(arrived).any()):
            return steps
        new = []
        for i, key in enumerate((arrived * 1000).round().long().tolist()):
            if tuple(key) not in seen:
                seen.add(tuple(key))
                new.append(i)
        frontier = arrived[new]
    raise AssertionError("the goal is too far")


def fewest_vectors(arena: ToyArena, pose: np.ndarray) -> int:
    """Vectors from ``pose`` into the goal: n of them reach a square of half-side n steps, turned as one stands."""
    dx, dy = arena.goal[0] - pose[0], arena.goal[1] - pose[1]
    cos, sin = math.cos(pose[3]), math.sin(pose[3])
    ahead = np.array([cos * dx + sin * dy, cos * dy - sin * dx])
    steps = 1
    while np.linalg.norm(np.maximum(np.abs(ahead) - STEP * steps, 0)) > arena.goal_radius:
        steps += 1
    return steps


def mean_return(world: ToyWorld, agent: Agent, contexts: Contexts, steps: int = 20) -> float:
    """What the agent earns from each of the starts, discounted, acting as is likeliest."""

    class Likeliest:
        def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
            return agent.heads.policy.best(vectors)

    starts = ObservedStarts(world, contexts)
    with torch.no_grad():
        lived = roll_out(world, starts._states, Likeliest(), steps)
    alive = torch.cat([torch.ones(len(contexts), 1), lived.continues[:, :-1]], 1).cumprod(1)
    return float((lived.rewards * alive * DISCOUNT ** torch.arange(steps)).sum(1).mean())


@pytest.mark.parametrize("estimator", ["reinforce", "q"])
@pytest.mark.parametrize("kind", ["keys", "plane"])
def test_an_agent_trained_in_imagination_is_nearly_the_best_there_is(
    kind: str, estimator: Estimator, tmp_path: Path
) -> None:
    arena = KEYS_ARENA if kind == "keys" else PLANE_ARENA
    world, held_out = ToyWorld(arena), starts_in(arena, 48, seed=1)
    fewest = fewest_keys if kind == "keys" else fewest_vectors
    best = float(np.mean([DISCOUNT ** (fewest(arena, pose) - 1) for pose in held_out.poses[:, -1]]))
    training = replace(agent_training(500), learning_rate=2e-3)
    config = replace(CONFIG, estimator=estimator)
    agent = train_in_imagination(world, starts_in(arena, 400, seed=0), tmp_path, config, training)
    assert agent is not None
    earned = mean_return(world, agent, held_out)
    assert 0.95 * best <= earned <= best + 1e-6, (earned, best)
