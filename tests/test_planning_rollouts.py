"""Roll-outs of candidate plans: exact, shared where they begin alike, bounded in memory."""

from __future__ import annotations

import pytest
import torch
from toy_world import AXES, KEYS, ToyArena, ToyWorld, standing_at

from worldloop.planning import RolloutTree

POSES = [[150, 120, 0, 0.5, 0], [200, 260, 0, -1, 0], [280, 270, 0, 1, 0]]


def one_by_one(world: ToyWorld, state, actions) -> list[list[list]]:
    """Every plan of every world imagined alone: steps [world][plan][step]."""
    futures = []
    for b in range(actions.shape[0]):
        futures.append([])
        for n in range(actions.shape[1]):
            at, steps = state[b], []
            for action in actions[b, n]:
                at, step = world.imagine(at, action.unsqueeze(0))
                steps.append(step)
            futures[b].append(steps)
    return futures


def some_plans(spec, n: int = 20, horizon: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "discrete":
        return torch.randint(spec.n, (len(POSES), n, horizon), generator=generator)
    return torch.rand(len(POSES), n, horizon, spec.n, generator=generator) * 2 - 1


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("options", [{}, {"share": False}, {"max_bytes": 0}, {"max_batch": 7}])
def test_every_way_of_rolling_out_equals_each_plan_alone(spec, options):
    world = ToyWorld(ToyArena(actions=spec), noise=4.0)
    state = standing_at(world, *POSES, seeds=[3, 4, 5])
    tree = RolloutTree(world, state, **options)
    for seed in (0, 1):
        plans = some_plans(spec, seed=seed)
        rollouts = tree.roll_out(plans, latents=True)
        futures = one_by_one(world, state, plans)
        for name, field in [("poses", "pose"), ("latents",) * 2, ("reward",) * 2, ("continues",) * 2]:
            expected = torch.stack(
                [torch.stack([torch.cat([getattr(s, field) for s in steps]) for steps in b]) for b in futures]
            )
            assert torch.equal(getattr(rollouts, name), expected)


def test_latents_come_only_when_asked_for():
    world = ToyWorld()
    tree = RolloutTree(world, standing_at(world, *POSES))
    assert tree.roll_out(some_plans(KEYS)).latents is None


def test_each_distinct_beginning_is_imagined_once_and_remembered():
    world = ToyWorld()
    tree = RolloutTree(world, standing_at(world, *POSES))
    seen: set[tuple] = set()
    for seed in (0, 1):
        plans = some_plans(KEYS, seed=seed)
        tree.roll_out(plans)
        seen |= {
            (b, *plan[: t + 1]) for b in range(3) for plan in plans[b].tolist() for t in range(len(plan))
        }
        assert tree.model_steps == sum(world.imagined_batches) == len(seen)
        assert tree.model_calls == len(world.imagined_batches)
    tree.roll_out(plans)
    assert tree.model_steps == len(seen)


def test_without_room_beginnings_are_shared_within_a_call_only():
    world = ToyWorld()
    tree = RolloutTree(world, standing_at(world, *POSES), max_bytes=0)
    plans = some_plans(KEYS)
    distinct = {(b, *p[: t + 1]) for b in range(3) for p in plans[b].tolist() for t in range(len(p))}
    for call in (1, 2):
        tree.roll_out(plans)
        assert tree.model_steps == call * len(distinct)


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_no_more_worlds_at_a_time_than_allowed(spec):
    world = ToyWorld(ToyArena(actions=spec))
    RolloutTree(world, standing_at(world, *POSES), max_batch=40).roll_out(some_plans(spec))
    assert max(world.imagined_batches) == 40
