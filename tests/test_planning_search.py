"""Every solver finds known optima, keeps to its budget, and does the same for a world alone and among others."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_world import AXES, KEYS, STEP, TURN, ToyArena, ToyWorld, standing_at

from worldloop.errors import ConfigError, WorldloopError
from worldloop.planning import (
    CEM,
    ICEM,
    MPPI,
    CategoricalCEM,
    GoalPose,
    GradientPlanner,
    IterationReport,
    Objective,
    PredictiveSampling,
    RandomShooting,
    RolloutBatch,
    TreeSearch,
    minimise,
)
from worldloop.planning.beliefs import BoxBelief, Draws, KeyBelief
from worldloop.planning.colour import coloured

START = [150.0, 150, 0, 0, 0]
PLAN_FIELDS = ("actions", "cost", "costs_per_iteration", "elites", "elite_costs", "poses", "latents")
BOX = [
    CEM(horizon=3, iterations=12),
    ICEM(horizon=3, iterations=12, decay=1.0, exponent=0.5),
    MPPI(horizon=3, iterations=12),
    PredictiveSampling(horizon=3, iterations=30, width=0.1, persistence=0.0),
    GradientPlanner(horizon=3, iterations=40, rate=0.1),
    GradientPlanner(horizon=3, iterations=40, method="projected"),
]
KEYED = [
    CategoricalCEM(horizon=3, iterations=8),
    ICEM(horizon=3, iterations=8, exponent=0.5, candidates=192, elites=16, smoothing=0.4),
    MPPI(horizon=3, iterations=8),
    PredictiveSampling(horizon=3, iterations=8),
    RandomShooting(horizon=3, iterations=60, persistence=0.0),
]
SOFT = [GradientPlanner(horizon=3, method=method) for method in ("adam", "projected")]
TREES = [TreeSearch(horizon=3, expansions=60, choice=choice) for choice in ("puct", "best-first")]


def name(solver) -> str:
    kind = getattr(solver, "method", getattr(solver, "choice", ""))
    return f"{type(solver).__name__}{kind and '-'}{kind}"


@dataclass(frozen=True)
class Broken(Objective):
    """Go far in x, but ``value`` for every plan whose first action is below ``below``."""

    value: float
    below: float

    def cost(self, rollouts: RolloutBatch) -> torch.Tensor:
        first = rollouts.actions[:, :, 0].detach()
        first = first if first.ndim == 2 else first.amax(-1)
        return torch.where(first < self.below, self.value, -rollouts.poses[:, :, -1, 0])


class Watched(Objective):
    """Remembers every candidate it was shown."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.actions = objective, []

    def cost(self, rollouts: RolloutBatch) -> torch.Tensor:
        self.actions.append(rollouts.actions.detach())
        return self.objective.cost(rollouts)


@pytest.mark.parametrize("solver", BOX, ids=name)
def test_the_least_of_a_quadratic_is_found_inside_the_bounds_and_on_them(solver):
    low, high = np.array([-1, 0], np.float32), np.array([3, 5], np.float32)
    target = torch.tensor([0.5, 9.0])  # the second lies beyond the bounds, so 5 is the best there
    found = minimise(solver, lambda plans: (plans - target).square().sum((-1, -2)), gym.spaces.Box(low, high), batch=3)
    assert tuple(found.plans.shape) == (3, 3, 2)
    assert torch.allclose(found.plans[..., 0], torch.tensor(0.5), atol=0.2)
    assert torch.allclose(found.plans[..., 1], torch.tensor(5.0), atol=0.2)
    assert float(found.elites[..., 1].max()) <= 5 and float(found.elites.min()) >= -1
    by_hand = (found.plans - target).square().sum((-1, -2)).double()
    assert torch.allclose(found.cost, by_hand, rtol=1e-4)


@pytest.mark.parametrize("solver", KEYED, ids=name)
def test_the_one_right_sequence_of_keys_is_found(solver):
    right = torch.tensor([4, 6, 5])
    space = gym.spaces.Discrete(5, start=3)
    found = minimise(solver, lambda plans: (plans != right).sum(-1).double(), space, batch=3)
    assert found.plans.tolist() == [[4, 6, 5]] * 3 and found.cost.tolist() == [0.0] * 3


@pytest.mark.parametrize("solver", [*KEYED, *SOFT, *TREES], ids=name)
def test_the_best_of_all_key_sequences_in_an_exact_world_is_found(solver):
    world = ToyWorld()
    objective = GoalPose([150 + STEP, 150 + STEP, 0, TURN, 0], along="final")
    plans = torch.tensor(list(itertools.product(range(KEYS.n), repeat=3)))
    poses = torch.tensor([START], dtype=torch.float64).expand(len(plans), 5)
    for step in range(3):
        poses = world.arena.arrive(poses, plans[:, step])
    nothing = torch.zeros(1, len(plans), 1)
    best = objective.cost(RolloutBatch(plans[None], poses.view(1, -1, 1, 5), nothing, nothing, nothing)).min()
    found = solver.plan(world, standing_at(world, START, START, seeds=[1, 2]), objective)
    assert torch.allclose(found.cost, best.expand(2), atol=1e-6)


@pytest.mark.parametrize("solver", BOX, ids=name)
def test_the_best_vectors_in_an_exact_world_are_found(solver):
    world = ToyWorld(ToyArena(actions=AXES))
    goal = [150 + 1.8 * STEP, 150 + 1.2 * STEP, 0, 0, 0]
    plan = solver.plan(world, standing_at(world, START), GoalPose(goal, along="final", heading=0.0))
    assert plan.poses[0, -1, :2].tolist() == pytest.approx(goal[:2], abs=0.15 * STEP)


@pytest.mark.parametrize("solver", [ICEM(horizon=4), PredictiveSampling(horizon=4), *SOFT, *TREES], ids=name)
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_world_is_planned_for_alike_alone_and_among_others(solver, spec):
    if isinstance(solver, TreeSearch) and spec is AXES:
        pytest.skip("A tree search chooses among keys.")
    world = ToyWorld(ToyArena(actions=spec), noise=3.0)
    state = standing_at(world, START, [60, 300, 0, 2, 0], [200, 20, 0, -2, 0], seeds=[5, 6, 5])
    goals = torch.tensor([[300.0, 200, 0, 1, 0], [100, 250, 0, 2, 0], [210, 90, 0, 0, 0]])
    small = (
        replace(solver, expansions=6)
        if isinstance(solver, TreeSearch)
        else replace(solver, candidates=10, iterations=3)
    )
    together = small.plan(world, state, GoalPose(goals))
    # The second world begins anew, the others from their plans.
    left = replace(together, cost=torch.tensor([0.0, torch.inf, 0.0]))
    again = small.plan(world, state, GoalPose(goals), left)
    for i in range(3):
        alone = small.plan(world, state[i], GoalPose(goals[i]))
        alone_again = small.plan(world, state[i], GoalPose(goals[i]), None if i == 1 else alone)
        for field in PLAN_FIELDS:
            assert torch.equal(getattr(together, field)[i : i + 1], getattr(alone, field))
            assert torch.equal(getattr(again, field)[i : i + 1], getattr(alone_again, field))


@pytest.mark.parametrize("solver", [ICEM(horizon=3), PredictiveSampling(horizon=3), *SOFT, *TREES], ids=name)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_cost_that_is_no_number_is_the_worst(solver, value):
    keys = ToyWorld()
    plan = solver.plan(keys, standing_at(keys, START), Broken(value, 3))
    assert bool(plan.cost.isfinite().all()) and int(plan.actions[0, 0]) >= 3
    if not isinstance(solver, TreeSearch):
        axes = ToyWorld(ToyArena(actions=AXES))
        plan = solver.plan(axes, standing_at(axes, START), Broken(value, 0.1))
        assert bool(plan.cost.isfinite().all()) and float(plan.actions[0, 0].max()) >= 0.1


@pytest.mark.parametrize("solver", [*BOX, *TREES], ids=name)
def test_all_candidates_hopeless_is_an_error_that_names_the_worlds(solver):
    world = ToyWorld(ToyArena(actions=KEYS if isinstance(solver, TreeSearch) else AXES))
    goals = torch.tensor([[300.0, 200, 0, 1, 0], [torch.nan] * 5])
    with pytest.raises(WorldloopError, match=r"worlds \[1\]"):
        solver.plan(world, standing_at(world, START, START), GoalPose(goals))


@pytest.mark.parametrize("solver", BOX, ids=name)
def test_one_dead_candidate_changes_nothing_but_itself(solver):
    def alive(plans: torch.Tensor) -> torch.Tensor:
        return (plans - 0.3).square().sum((-1, -2))

    def poor(plans: torch.Tensor) -> torch.Tensor:
        cost = alive(plans)
        return cost.masked_fill(cost > 4, 1e9)

    def dead(plans: torch.Tensor) -> torch.Tensor:
        cost = alive(plans)
        return cost.masked_fill(cost > 4, torch.nan)

    with_poor, with_dead = (solver.minimise(function, AXES, batch=2) for function in (poor, dead))
    assert torch.equal(with_poor.plans, with_dead.plans) and torch.equal(with_poor.cost, with_dead.cost)


@pytest.mark.parametrize("solver", [ICEM, PredictiveSampling, GradientPlanner])
def test_candidates_never_leave_the_bounds_and_last_as_long_as_asked(solver):
    world = ToyWorld(ToyArena(actions=AXES))
    watched = Watched(GoalPose([400, 400, 0, 3, 0], along="final"))
    solver(horizon=6, action_repeat=2, iterations=4).plan(world, standing_at(world, START), watched)
    for tried in watched.actions:
        AXES.check(tried, tuple(tried.shape[:3]))
        assert torch.equal(tried[:, :, ::2], tried[:, :, 1::2])
    assert max(float(tried.abs().max()) for tried in watched.actions) == 1.0


@pytest.mark.parametrize("solver", [CEM, ICEM, MPPI, PredictiveSampling, RandomShooting, GradientPlanner])
def test_more_budget_never_finds_worse_plans(solver):
    means = []
    for iterations in (1, 4, 16):
        # The same schedule, cut off by the budget: more of it is an extension of less.
        full = solver(horizon=3, candidates=32, iterations=16)
        held = full.horizon * (full.overhead + full.passes * sum(full.populations()[:iterations]))
        if iterations < 16:
            with pytest.warns(UserWarning, match="left out"):
                full = replace(full, budget=held)
        found = full.minimise(lambda plans: (plans - 0.4).square().sum((-1, -2)), AXES, batch=8)
        assert bool((found.costs_per_iteration.diff(dim=1) <= 0).all())
        assert tuple(found.costs_per_iteration.shape) == (8, iterations)
        means.append(float(found.cost.mean()))
    assert means[0] > means[1] > means[2]


@pytest.mark.filterwarnings("ignore:A budget")
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("solver", [CEM, ICEM, MPPI, PredictiveSampling, GradientPlanner])
@pytest.mark.parametrize("budget", [90, 200, 500])
def test_a_budget_is_never_exceeded(solver, spec, budget):
    world = ToyWorld(ToyArena(actions=spec))
    planner = solver(horizon=4, candidates=24, iterations=5, budget=budget)
    plan = planner.plan(world, standing_at(world, START, START), GoalPose([300, 200, 0, 1, 0]))
    assert plan.model_steps == sum(world.imagined_batches) <= 2 * planner.max_model_steps <= 2 * budget
    assert plan.model_calls == len(world.imagined_batches)


def test_a_tree_keeps_to_its_budget_too():
    world = ToyWorld()
    plan = TreeSearch(horizon=4, budget=100).plan(world, standing_at(world, START), GoalPose([300, 200, 0, 1, 0]))
    assert plan.model_steps == sum(world.imagined_batches) <= 100
    assert plan.costs_per_iteration.shape[1] == (100 - 5 * 4) // 7


def test_a_budget_too_small_for_one_iteration_is_an_error_and_a_small_one_a_warning():
    with pytest.raises(ConfigError, match="too small for one iteration"):
        CEM(horizon=10, elites=8, budget=80)
    with pytest.warns(UserWarning, match="1 of 3 iterations, of 8 candidates"):
        assert CEM(horizon=10, elites=8, budget=90).populations() == [8]
    world = ToyWorld()
    with pytest.raises(ConfigError, match="one expansion"):
        TreeSearch(budget=20).plan(world, standing_at(world, START), GoalPose(START))


def test_a_search_stops_when_told_and_reports_every_iteration():
    reports: list[IterationReport] = []

    def listen(report: IterationReport) -> bool:
        reports.append(report)
        return report.iteration == 2

    world = ToyWorld(ToyArena(actions=AXES))
    plan = CEM(horizon=3, iterations=6).plan(
        world, standing_at(world, START), GoalPose([300, 200, 0, 1, 0]), on_iteration=listen
    )
    assert [r.iteration for r in reports] == [0, 1, 2] and plan.costs_per_iteration.shape == (1, 3)
    assert torch.equal(torch.stack([r.cost.amin(1) for r in reports]).cummin(0).values[-1], plan.cost)
    assert [r.model_steps for r in reports] == [192, 384, 576]


def test_patience_ends_a_search_that_finds_nothing_better_world_by_world():
    def function(plans: torch.Tensor) -> torch.Tensor:
        cost = (plans - 0.4).square().sum((-1, -2))
        flat = torch.tensor([True, False])[: len(plans)].view(-1, 1)
        return torch.where(flat, torch.ones_like(cost), cost)

    patient = CEM(horizon=3, iterations=10, patience=2)
    both = patient.minimise(function, AXES, batch=2)
    assert torch.equal(both.plans[0], patient.minimise(function, AXES).plans[0])
    assert patient.minimise(function, AXES).costs_per_iteration.shape[1] == 3
    assert float(both.cost[1]) < float(both.costs_per_iteration[1, 2])


@pytest.mark.parametrize("solver", [ICEM, PredictiveSampling, GradientPlanner, CEM])
def test_a_warm_start_helps(solver):
    world = ToyWorld(ToyArena(actions=AXES))
    state = standing_at(world, *[START] * 6, seeds=range(6))
    objective = GoalPose([210, 180, 0, 0.5, 0], along="final")
    good = CEM(horizon=4, iterations=10).plan(world, state, objective)
    quick = solver(horizon=4, candidates=16, iterations=1)
    warm = quick.plan(world, state, objective, good, executed=0).cost
    assert bool((warm <= good.cost + 1e-9).all())
    assert float(warm.mean()) < 0.5 * float(quick.plan(world, state, objective).cost.mean())


def test_icem_tries_the_shifted_elites_of_the_last_plan_and_fewer_candidates_each_time():
    world = ToyWorld(ToyArena(actions=AXES))
    planner = ICEM(horizon=4, candidates=40, elites=10, keep=0.3, decay=2.0)
    assert planner.populations() == [40, 20, 20]
    plan = planner.plan(world, standing_at(world, START), GoalPose([300, 200, 0, 1, 0]))
    watched = Watched(GoalPose([300, 200, 0, 1, 0]))
    planner.plan(world, standing_at(world, START), watched, plan, executed=1)
    assert torch.equal(watched.actions[0][0, 1:4, :3], plan.elites[0, :3, 1:])
    assert [a.shape[1] for a in watched.actions] == [40, 20, 20]


@pytest.mark.parametrize("scale", [1e-300, 1e300, 1e307])
def test_mppi_stays_finite_whatever_the_scale_of_costs(scale):
    found = MPPI(horizon=2, iterations=6).minimise(
        lambda plans: scale * (plans.double() - 0.4).square().sum((-1, -2)), AXES
    )
    assert bool(found.plans.isfinite().all()) and float((found.plans - 0.4).abs().max()) < 0.3


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_coloured_noise_has_the_spectrum_and_the_variance_it_should(exponent):
    white = torch.randn(20_000, 16, 1, generator=torch.Generator().manual_seed(0))
    noise = coloured(white, exponent)
    assert float(noise.var()) == pytest.approx(1, abs=0.05)
    power = torch.fft.rfft(noise[..., 0], dim=1).abs().square().mean(0)
    for low, high in ((1, 2), (2, 4), (1, 7)):
        assert float(power[low] / power[high]) == pytest.approx((high / low) ** exponent, rel=0.1)


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_colour_changes_how_keys_follow_each_other_and_not_how_often_each_is_pressed(exponent):
    chances = torch.tensor([0.1, 0.2, 0.7])
    belief = KeyBelief(chances.expand(1, 8, 3).contiguous())
    draws = Draws(torch.tensor([3]), torch.tensor([5]), 0, 0)
    plans = belief.sample_coloured(draws, 20_000, exponent)[0]
    often = torch.stack([(plans == key).float().mean() for key in range(3)])
    assert torch.allclose(often, chances, atol=0.01)
    repeated = float((plans[:, 1:] == plans[:, :-1]).float().mean())
    by_chance = float(chances.square().sum())
    assert repeated == pytest.approx(by_chance, abs=0.01) if exponent == 0 else repeated > by_chance + 0.1


def test_a_belief_around_a_plan_is_as_wide_as_asked():
    draws = Draws(torch.tensor([3]), torch.tensor([5]), 0, 0)
    wide = BoxBelief(torch.zeros(1, 2, 1), torch.ones(1, 2, 1)).around(torch.full((1, 2, 1), 0.2), 0.1)
    assert float(wide.sample(draws, 5_000, 0.0).std()) == pytest.approx(0.1, rel=0.05)
    keys = KeyBelief(torch.full((1, 2, 4), 0.25)).around(torch.tensor([[1, 3]]), 0.4)
    assert torch.allclose(keys.probabilities[0, 0], torch.tensor([0.1, 0.7, 0.1, 0.1]))


def test_seeds_decide_the_plan_and_nothing_else_does():
    function = lambda plans: (plans - 0.4).square().sum((-1, -2))  # noqa: E731
    for solver in (ICEM, PredictiveSampling, GradientPlanner):
        first, same, other = (solver(horizon=3, iterations=2, seed=s).minimise(function, AXES).plans for s in (1, 1, 2))
        assert torch.equal(first, same) and not torch.equal(first, other)


def test_bad_input_is_refused_in_one_sentence():
    def sum_of(plans: torch.Tensor) -> torch.Tensor:
        return plans.double().sum(list(range(2, plans.ndim)))

    with pytest.raises(ConfigError, match="finite"):
        minimise(CEM(), sum_of, gym.spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ConfigError, match="Discrete or Box"):
        minimise(CEM(), sum_of, gym.spaces.MultiBinary(3))
    with pytest.raises(WorldloopError, match="no gradient"):
        minimise(GradientPlanner(), sum_of, gym.spaces.Discrete(3))
    with pytest.raises(WorldloopError, match="no gradient"):
        minimise(GradientPlanner(), lambda plans: sum_of(plans.detach()), gym.spaces.Box(0, 1, (2,)))
    with pytest.raises(ConfigError, match="use CEM"):
        CategoricalCEM().minimise(sum_of, AXES)
    world = ToyWorld(ToyArena(actions=AXES))
    with pytest.raises(ConfigError, match="chooses among keys"):
        TreeSearch().plan(world, standing_at(world, START), GoalPose(START))
    for solver in (CEM, ICEM, MPPI, PredictiveSampling, GradientPlanner, TreeSearch):
        with pytest.raises(ConfigError, match="horizon"):
            solver(horizon=0)
    for make in (
        lambda: ICEM(decay=0.5),
        lambda: ICEM(exponent=-1),
        lambda: ICEM(keep=2),
        lambda: PredictiveSampling(width=0),
        lambda: GradientPlanner(rate=0),
        lambda: GradientPlanner(method="newton"),
        lambda: TreeSearch(choice="random"),
        lambda: TreeSearch(exploration=-1),
        lambda: CEM(patience=-1),
    ):
        with pytest.raises(ConfigError):
            make()
