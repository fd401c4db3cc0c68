"""Our worlds as the cost that stable-worldmodel's solvers minimise: the real package where it is, its protocol here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_world import AXES, KEYS, STEP, ToyArena, ToyWorld, standing_at

from worldloop.planning import GoalPose, KeepAway, Objective, RolloutTree, StableCost

START = [150.0, 150, 0, 0, 0]
GOAL = [150 + 2 * STEP, 150 + STEP, 0, 0, 0]


def stable_solvers() -> Any:
    try:
        from stable_worldmodel import solver
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"stable-worldmodel cannot be imported here, so its solvers were NOT run: {error}")
    return solver


def cost_of(spec: Any, objective: Objective | None = None, **options: Any) -> StableCost:
    world = ToyWorld(ToyArena(actions=spec))
    state = standing_at(world, START, [60, 300, 0, 2, 0], seeds=[1, 2])
    return StableCost(world, state, objective or GoalPose(GOAL, along="final", heading=0.0), **options)


def as_passed_on(cost: StableCost, rows: slice, samples: int) -> dict[str, Any]:
    """The dictionary as those solvers slice it and repeat it for every candidate."""
    return {k: v[rows].unsqueeze(1).expand(-1, samples, *v.shape[1:]) for k, v in cost.info.items()}


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_costs_are_those_of_our_roll_outs_row_by_row(spec):
    cost = cost_of(spec)
    generator = torch.Generator().manual_seed(0)
    if spec is KEYS:
        plans = torch.randint(7, (2, 9, 4), generator=generator)
        handed = torch.nn.functional.one_hot(plans, 7).float()
    else:
        handed = torch.randn(2, 9, 4, 3, generator=generator)  # beyond the bounds too
        plans = handed.clamp(-1, 1)
    world = ToyWorld(ToyArena(actions=spec))
    tree = RolloutTree(world, standing_at(world, START, [60, 300, 0, 2, 0], seeds=[1, 2]))
    expected = GoalPose(GOAL, along="final", heading=0.0).cost(tree.roll_out(plans))
    assert torch.allclose(cost.get_cost(as_passed_on(cost, slice(0, 2), 9), handed), expected.float())
    second = cost.get_cost(as_passed_on(cost, slice(1, 2), 9), handed[1:])
    assert torch.allclose(second, expected[1:].float())
    assert torch.equal(second, cost.criterion(as_passed_on(cost, slice(1, 2), 9), handed[1:]))
    # Blocks of two actions stand side by side.
    blocks = handed.reshape(2, 9, 2, -1)
    assert torch.allclose(cost.get_cost(as_passed_on(cost, slice(0, 2), 9), blocks), expected.float())


def test_gradients_flow_and_constraints_are_there_only_if_asked_for():
    cost = cost_of(AXES, constraints=(KeepAway([175, 150, 0], 5),))
    plans = torch.zeros(2, 3, 4, 3, requires_grad=True)
    cost.get_cost(as_passed_on(cost, slice(0, 2), 3), plans).sum().backward()
    assert plans.grad is not None and bool((plans.grad[0].abs().sum((-1, -2)) > 0).all())
    broken = cost.get_constraints(as_passed_on(cost, slice(0, 2), 3), plans.detach())
    assert broken.shape == (2, 3, 1) and torch.allclose(broken[0], torch.tensor(5.0 - 25))
    assert not hasattr(cost_of(AXES), "get_constraints")
    with pytest.raises(ValueError, match="this cost's info"):
        cost.get_cost({"pixels": torch.zeros(2, 3)}, plans)


@pytest.mark.parametrize(
    ("name", "spec", "options"),
    [
        ("CEMSolver", AXES, {"num_samples": 64, "n_steps": 8, "topk": 8}),
        ("ICEMSolver", AXES, {"num_samples": 64, "n_steps": 8, "topk": 8}),
        ("MPPISolver", AXES, {"num_samples": 64, "n_steps": 8, "topk": 8}),
        ("PredictiveSamplingSolver", AXES, {"num_samples": 256}),
        # At its own rate of 1 it jumps to and fro over a distance.
        ("GradientSolver", AXES, {"n_steps": 30, "optimizer_kwargs": {"lr": 0.1}}),
        ("LagrangianSolver", AXES, {"n_steps": 30}),
        ("CategoricalCEMSolver", KEYS, {"num_samples": 96, "n_steps": 8, "topk": 8}),
    ],
)
def test_their_solvers_find_plans_in_our_world(name, spec, options):
    solver = getattr(stable_solvers(), name)(cost := cost_of(spec), **options)
    config = SimpleNamespace(horizon=4, receding_horizon=1, history_len=1, action_block=1, warm_start=True)
    solver.configure(action_space=cost.action_space, n_envs=2, config=config)
    torch.manual_seed(0)
    plans = torch.as_tensor(solver.solve(cost.info)["actions"])
    if spec is KEYS and plans.ndim == 3 and plans.shape[-1] != spec.n:
        plans = torch.nn.functional.one_hot(plans.flatten(1).long(), spec.n)
    found = cost.get_cost(as_passed_on(cost, slice(0, 2), 1), plans.float().unsqueeze(1))[:, 0]
    idle = torch.zeros(2, 1, 4, 3) if spec is AXES else torch.eye(7)[0].expand(2, 1, 4, 7)
    nothing_done = cost.get_cost(as_passed_on(cost, slice(0, 2), 1), idle)[:, 0]
    assert bool((found < nothing_done - 1).all())
