"""Plans in worlds of chance: what they cost is the mean over futures, each imagined as it would be alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toy_world import AXES, KEYS, ToyArena, ToyWorld, standing_at

from worldloop.errors import ConfigError
from worldloop.planning import (
    CEM,
    ICEM,
    MPPI,
    DraftThenRefine,
    GoalPose,
    GradientPlanner,
    Lagrangian,
    PolicySearch,
    PredictiveSampling,
    RandomShooting,
    Reward,
    RolloutTree,
    Within,
)
from worldloop.planning.beliefs import Draws
from worldloop.planning.problem import Imagined
from worldloop.world_models import noise

START = [150.0, 150, 0, 0, 0]
FORWARD, LEFT = KEYS.names.index("forward"), KEYS.names.index("left")
GOAL = GoalPose([230, 190, 0, 0, 0], along="final")


class Gamble(ToyWorld):
    """Forward pays 0.2 for sure; left pays 1 or −1.2, each with a probability of one half; else nothing is paid."""

    def imagine(self, state: Any, actions: Any, pose: Any = None) -> Any:
        after, step = super().imagine(state, actions, pose)
        lucky = noise.uniform(state.seeds, state.step, (1,), 77)[:, 0] < 0.5
        left = torch.where(lucky, 1.0, -1.2)
        reward = torch.where(actions == LEFT, left, torch.where(actions == FORWARD, 0.2, 0.0))
        return after, replace(step, reward=reward, continues=torch.ones_like(reward))


class Even:
    """Draws every key alike."""

    def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return (uniform[:, 0] * KEYS.n).long()


def drawn(spec: Any, b: int = 2, n: int = 6, horizon: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if spec.kind == "discrete":
        return torch.randint(spec.n, (b, n, horizon), generator=generator)
    return torch.rand(b, n, horizon, spec.n, generator=generator) * 2 - 1


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_plans_take_turns_in_futures_and_the_first_is_the_world_s_own(spec: Any) -> None:
    world = ToyWorld(ToyArena(actions=spec), noise=6.0)
    state = standing_at(world, START, [250, 200, 0, 1, 0], seeds=[3, 4])
    tree, plans = RolloutTree(world, state, futures=3), drawn(spec)
    rollouts = tree.roll_out(plans)
    assert torch.equal(tree.future(0).seeds, state.seeds)
    seeds = torch.stack([tree.future(f).seeds for f in range(3)])
    assert len(seeds.unique()) == 6
    for j in range(plans.shape[1]):
        alone = RolloutTree(world, state.with_seeds(seeds[j % 3])).roll_out(plans[:, j : j + 1])
        assert torch.equal(rollouts.poses[:, j : j + 1], alone.poses)
    again = RolloutTree(world, state[1], futures=3).roll_out(plans[1:])
    assert torch.equal(again.poses, rollouts.poses[1:])
    same = tree.roll_out(plans[:, :1].repeat_interleave(3, 1)).poses
    assert len(same[0, :, -1, 0].unique()) == 3


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_cost_is_the_mean_over_futures_and_so_is_its_slope(spec: Any) -> None:
    world = ToyWorld(ToyArena(actions=spec), noise=6.0)
    goals = GoalPose(torch.tensor([[230, 190, 0, 0, 0], [90.0, 220, 0, 0, 0]]), along="final")
    state, plans = standing_at(world, START, START, seeds=[3, 4]), drawn(spec)
    problem = Imagined(world, state, goals, 64, futures=5)
    each = [Imagined(world, problem.tree.future(f), goals, 64) for f in range(5)]
    apart = torch.stack([one.cost(plans) for one in each])
    assert bool((apart.std(0) > 0).all())
    torch.testing.assert_close(problem.cost(plans), apart.mean(0))
    if spec.kind == "box":
        cost, slope = problem.slope(plans)
        torch.testing.assert_close(cost.to(torch.float64), apart.mean(0))
        torch.testing.assert_close(slope, torch.stack([one.slope(plans)[1] for one in each]).mean(0))
        assert problem.model_steps == 2 * 5 * 2 * 6 * 4


def test_a_future_without_a_cost_spoils_the_plan() -> None:
    class Broken(Reward):
        def cost(self, rollouts: Any) -> torch.Tensor:
            return torch.where(torch.arange(rollouts.reward.shape[1]) == 4, torch.nan, super().cost(rollouts))

    world = ToyWorld()
    cost = Imagined(world, standing_at(world, START), Broken(), 64, futures=3).cost(drawn(KEYS, b=1))
    assert cost.isinf().tolist() == [[False, True, False, False, False, False]]


@pytest.mark.parametrize("solver", [RandomShooting, CEM, MPPI, ICEM, PredictiveSampling])
def test_one_future_gambles_and_many_do_not(solver: Any) -> None:
    world, b = Gamble(), 60
    state = standing_at(world, *[START] * b)
    options = {"horizon": 1, "candidates": 40, "iterations": 1, "elites": 4}
    one = solver(**options).plan(world, state, Reward()).actions[:, 0]
    many = solver(**options, futures=64).plan(world, state, Reward())
    # Where the one future is lucky, left looks like 1: half of the worlds, four deviations of 60 draws.
    assert 0.24 < float((one == LEFT).float().mean()) < 0.76
    # The mean of 64 is above 0.2 where 41 of them are lucky: with a probability of 0.017.
    assert float((many.actions[:, 0] == LEFT).float().mean()) < 0.1
    sure = many.actions[:, 0] == FORWARD
    assert bool(((many.actions[:, 0] == LEFT) | sure).all())
    torch.testing.assert_close(many.cost[sure], torch.full_like(many.cost[sure], -0.2), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:A budget")
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("solver", [CEM, ICEM, GradientPlanner])
def test_futures_count_in_budgets_and_worlds_stay_by_themselves(solver: Any, spec: Any) -> None:
    world = ToyWorld(ToyArena(actions=spec), noise=3.0)
    planner = solver(horizon=4, candidates=12, iterations=3, elites=3, futures=3, budget=400)
    state = standing_at(world, START, [250, 200, 0, 1, 0], seeds=[3, 4])
    plan = planner.plan(world, state, GOAL)
    assert plan.model_steps == sum(world.imagined_batches) <= 2 * planner.max_model_steps <= 2 * 400
    assert planner.max_model_steps > 3 * 4 * 12
    alone = planner.plan(world, state[1], GOAL)
    torch.testing.assert_close(alone.actions, plan.actions[1:])
    with pytest.raises(ConfigError, match="too small for one iteration"):
        solver(horizon=4, elites=8, candidates=12, futures=3, budget=100)
    with pytest.raises(ConfigError, match="futures >= 1"):
        solver(futures=0)


def test_a_policy_search_follows_each_first_action_up_in_every_future() -> None:
    world = Gamble(noise=2.0)
    state = standing_at(world, START, [250, 200, 0, 1, 0], seeds=[3, 4])
    told: list[Any] = []
    search = PolicySearch(Even(), horizon=3, candidates=8, futures=4, temperature=0, elites=2)
    plan = search.plan(world, state, Reward(), on_iteration=told.append)
    (report,) = told
    assert report.plans.shape == (2, 8, 3) and report.cost.shape == (2, 8)
    # The same, one world, plan and future after another, with the numbers that the search draws.
    draws = Draws(state.seeds, state.step, search.seed, 0)
    first, *later = draws.uniform(8, KEYS.n), draws.uniform(32, KEYS.n), draws.uniform(32, KEYS.n)
    futures = RolloutTree(world, state, futures=4)
    for b in range(2):
        for n in range(8):
            paid = []
            for f in range(4):
                at, total = futures.future(f)[b], 0.0
                numbers = [first[b, n], *(uniform[b, 4 * n + f] for uniform in later)]
                for t, uniform in enumerate(numbers):
                    key = Even().act(world.encode_state(at), uniform.unsqueeze(0))
                    at, step = world.imagine(at, key)
                    total += Reward().discount ** t * float(step.reward)
                    assert f or int(key) == int(report.plans[b, n, t])
                paid.append(total)
            assert float(report.cost[b, n]) == pytest.approx(-sum(paid) / 4, abs=1e-5)
    assert plan.model_steps <= 2 * search.max_model_steps
    with pytest.raises(ConfigError, match="futures"):
        PolicySearch(Even(), futures=0)


def test_a_policy_search_values_an_action_by_all_plans_that_begin_with_it() -> None:
    world, told, misled = Gamble(), [], 0
    state = standing_at(world, *[START] * 40)
    search = PolicySearch(Even(), horizon=3, candidates=16, temperature=0)
    plan = search.plan(world, state, Reward(), on_iteration=told.append)
    (report,) = told
    for b in range(40):
        costs: dict[int, list[float]] = {}
        for tried, cost in zip(report.plans[b].tolist(), report.cost[b].tolist(), strict=True):
            costs.setdefault(tried[0], []).append(cost)
        best = min(costs, key=lambda first: sum(costs[first]) / len(costs[first]))
        assert int(plan.actions[b, 0]) == best
        assert float(plan.cost[b]) == pytest.approx(min(costs[best]))
        misled += min(costs, key=lambda first: min(costs[first])) != best
    assert misled > 4


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_policy_search_never_takes_a_plan_without_a_cost(spec: Any) -> None:
    class Broken(Reward):
        def cost(self, rollouts: Any) -> torch.Tensor:
            even = torch.arange(rollouts.reward.shape[1]) % 2 == 0
            return torch.where(even, torch.nan, super().cost(rollouts) + torch.arange(len(even)))

    class Same(Even):
        def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(uniform[:, 0]).long() if spec is KEYS else torch.zeros_like(uniform)

    world = ToyWorld(ToyArena(actions=spec))
    state = standing_at(world, *[START] * 50, seeds=range(50))
    for temperature in (0.0, 1e6):
        plan = PolicySearch(Same(), horizon=2, candidates=6, temperature=temperature).plan(world, state, Broken())
        assert bool(plan.cost.isfinite().all()) and plan.elite_costs[0].isfinite().sum() == 3
        assert len(plan.cost.unique()) == (3 if temperature else 1)


def test_planners_around_planners_judge_in_as_many_futures() -> None:
    world = Gamble()
    state = standing_at(world, *[START] * 20)
    inner = RandomShooting(horizon=1, candidates=40, elites=7, futures=64)
    expected = inner.plan(world, state, Reward())
    for planner in (DraftThenRefine(world, inner), Lagrangian(inner, (Within([0] * 3, [400, 400, 400]),))):
        assert planner.futures == 64
        plan = planner.plan(world, state, Reward())
        torch.testing.assert_close(plan.cost, expected.cost)
        assert torch.equal(plan.actions, expected.actions)
    noisy = ToyWorld(noise=10.0)
    strict = Lagrangian(replace(inner, futures=16), (Within([0, 0, -1], [155, 400, 400]),), rounds=4, stiffness=30)
    at = standing_at(noisy, START, seeds=[2])
    left = torch.full((1, 16, 1), LEFT)
    pushed = RolloutTree(noisy, at, futures=16).roll_out(left).poses[0, :, 0, 0]
    assert pushed[0] < 155 < pushed.max()
    # Who does not go back is pushed over the line in some futures, if not in the first.
    assert KEYS.names[int(strict.plan(noisy, at, GOAL).actions[0, 0])] == "back"
    one = replace(strict, planner=replace(inner, futures=1)).plan(noisy, at, GOAL)
    assert KEYS.names[int(one.actions[0, 0])] != "back"
