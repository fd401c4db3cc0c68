"""Policies, values, constraints and drafts: what planners may be given besides a world and an objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from toy_world import AXES, KEYS, STEP, ToyArena, ToyWorld, standing_at

from worldloop.errors import ConfigError
from worldloop.planning import (
    CEM,
    ICEM,
    MPPI,
    DraftThenRefine,
    GoalFrame,
    GoalPose,
    GradientPlanner,
    KeepAway,
    Lagrangian,
    PathLength,
    Penalty,
    PolicySearch,
    Reward,
    RolloutBatch,
    Sure,
    TerminalValue,
    TreeSearch,
    Uncertainty,
    Within,
)
from worldloop.planning.problem import Imagined
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.world_model import WorldModel

START = [150.0, 150, 0, 0, 0]
FORWARD = KEYS.names.index("forward")


@dataclass(frozen=True)
class Straight:
    """A policy that always goes forward, and a prior that would."""

    spec: ActionSpec

    def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        assert uniform.shape == (len(vectors), self.spec.n) and bool(((uniform > 0) & (uniform < 1)).all())
        if self.spec.kind == "discrete":
            return torch.full((len(vectors),), FORWARD)
        return torch.eye(self.spec.n)[0].expand(len(vectors), -1)

    def probabilities(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.eye(self.spec.n)[FORWARD].expand(len(vectors), -1) * 0.9 + 0.1 / self.spec.n


class FarInX:
    """Worth 10 at x = 0 and 0 at x = 400; the toy world's vectors begin with x / 400."""

    def value(self, vectors: torch.Tensor) -> torch.Tensor:
        return 10 * (1 - vectors[:, 0])


def made_up(b: int = 2, n: int = 3, h: int = 4) -> RolloutBatch:
    g = torch.Generator().manual_seed(0)
    return RolloutBatch(
        actions=torch.zeros(b, n, h, dtype=torch.int64),
        poses=torch.rand(b, n, h, 5, generator=g, dtype=torch.float64) * 100,
        reward=torch.rand(b, n, h, generator=g),
        continues=torch.rand(b, n, h, generator=g),
        uncertainty=torch.rand(b, n, h, generator=g),
        vectors=torch.rand(b, n, 4, generator=g),
        start=torch.zeros(b, 5, dtype=torch.float64),
    )


def test_a_terminal_value_is_discounted_and_counts_only_if_the_episode_goes_on():
    rollouts = made_up()
    rollouts.continues[0, 1, 2] = 0
    cost = TerminalValue(FarInX(), discount=0.9).cost(rollouts)
    for b in range(2):
        for n in range(3):
            alive = 1.0
            for t in range(4):
                alive *= float(rollouts.continues[b, n, t])
            worth = 10 * (1 - float(rollouts.vectors[b, n, 0]))
            assert float(cost[b, n]) == pytest.approx(-alive * 0.9**4 * worth, rel=1e-5)
    assert float(cost[0, 1]) == 0
    shorter = TerminalValue(FarInX(), discount=0.9).cost(replace(rollouts, lengths=torch.full((2, 3), 2)))
    assert torch.allclose(shorter * 0.9**2, cost)


def test_even_a_value_that_is_no_number_is_not_counted_past_an_end():
    class Wild:
        def value(self, vectors: torch.Tensor) -> torch.Tensor:
            return torch.full((len(vectors),), torch.nan)

    rollouts = made_up()
    rollouts.continues[:, 0, -1] = 0
    assert TerminalValue(Wild()).cost(rollouts)[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("solver", [CEM, MPPI, TreeSearch])
def test_a_value_makes_planners_see_past_the_horizon(solver):
    world = ToyWorld(ToyArena(goal=(-900.0, -900.0)))
    objective = Reward(0.9) + TerminalValue(FarInX(), 0.9)
    plan = solver(horizon=3).plan(world, standing_at(world, START), objective)
    # No reward within reach; the value says back.
    assert plan.actions[0].tolist() == [KEYS.names.index("back")] * 3
    assert float(plan.cost) == pytest.approx(-(0.9**3) * 10 * (1 - 75 / 400), rel=1e-3)


def test_the_vectors_of_plans_are_those_of_their_last_states():
    world = ToyWorld(ToyArena(actions=AXES))
    seen = []

    class Watching(FarInX):
        def value(self, vectors: torch.Tensor) -> torch.Tensor:
            seen.append(vectors)
            return super().value(vectors)

    plan = CEM(horizon=3, candidates=8, iterations=1, elites=1).plan(
        world, standing_at(world, START), TerminalValue(Watching(), 1.0)
    )
    best = int((10 * (1 - seen[0][:, 0])).argmax())
    expected = world.arena.latents(plan.poses[0, -1:])[:, :, 0, 0]
    assert torch.equal(seen[0][best : best + 1], expected)


@pytest.mark.parametrize("solver", [CEM, ICEM, MPPI])
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_policy_that_knows_the_way_is_followed_at_once(solver, spec):
    world = ToyWorld(ToyArena(actions=spec))
    state = standing_at(world, START, [60, 300, 0, 0, 0])
    goals = torch.tensor([[150 + 6 * STEP, 150, 0, 0, 0], [60 + 6 * STEP, 300, 0, 0, 0]])
    objective = GoalPose(goals, along="final")
    blind = solver(horizon=6, candidates=16, iterations=2, persistence=0.0)
    seeded = replace(blind, policy=Straight(spec), proposals=2)
    plan = seeded.plan(world, state, objective)
    assert plan.cost.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert bool((blind.plan(world, state, objective).cost > 0.2).all())
    world.imagined_batches.clear()
    assert seeded.plan(world, state, objective).model_steps == sum(world.imagined_batches)
    assert sum(world.imagined_batches) <= 2 * seeded.max_model_steps


def test_a_policys_plans_compete_in_every_iteration_and_are_imagined_once():
    tried = []
    world = ToyWorld(ToyArena(actions=AXES))
    seeded = CEM(horizon=4, candidates=10, iterations=3, policy=Straight(AXES), proposals=2)
    seeded.plan(
        world,
        standing_at(world, START),
        GoalPose([150 + 4 * STEP, 150, 0, 0, 0]),
        on_iteration=lambda report: tried.append(report.plans),
    )
    straight = torch.eye(3)[0].expand(4, 3)
    assert [t.shape[1] for t in tried] == [12] * 3
    assert all(torch.equal(t[0, -2:], straight.expand(2, 4, 3)) for t in tried)
    # Proposing takes three steps of each plan, judging four.
    assert sum(world.imagined_batches) == 2 * 3 + 2 * 4 + 3 * 10 * 4 + 4


class Biased:
    """Draws forward with probability 0.4 and every other key alike."""

    shares = torch.where(torch.arange(KEYS.n) == FORWARD, 0.4, 0.6 / (KEYS.n - 1))

    def act(self, vectors: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return (self.shares.cumsum(0)[:-1] < uniform[:, :1]).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 1e6])
def test_a_policy_search_draws_from_the_policy_times_what_plans_come_to(temperature):
    world, b = ToyWorld(), 3000
    state = standing_at(world, *[START] * b, seeds=torch.arange(b))
    objective = GoalPose([150 + STEP, 150, 0, 0, 0], along="final")
    search = PolicySearch(Biased(), horizon=1, candidates=48, temperature=temperature)
    plan = search.plan(world, state, objective)
    drawn = torch.bincount(plan.actions[:, 0], minlength=KEYS.n) / b
    cost = Imagined(world, standing_at(world, START), objective, 64).cost(torch.arange(KEYS.n).view(1, -1, 1))[0]
    expected = Biased.shares * torch.exp(-cost / temperature)
    expected = expected / expected.sum()
    # Four deviations of 3000 draws, and the bias of choosing among 48.
    assert bool((drawn - expected).abs().le(4 * (expected * (1 - expected) / b).sqrt() + 0.02).all())
    assert torch.equal(plan.cost, cost[plan.actions[:, 0]])
    assert 0.3 < float(expected[FORWARD]) < 0.9
    few = search.plan(world, state[torch.arange(7, 9)], objective)
    assert torch.equal(few.actions, plan.actions[7:9])


def test_a_cold_policy_search_takes_the_cheapest_plan_of_the_policy():
    world, told = ToyWorld(), []
    state = standing_at(world, START, [60, 300, 0, 0, 0])
    objective = GoalPose(torch.tensor([[150 + 2 * STEP, 150, 0, 0, 0], [60 + 2 * STEP, 300, 0, 0, 0]]), along="final")
    search = PolicySearch(Biased(), horizon=2, candidates=40, temperature=0, elites=3)
    plan = search.plan(world, state, objective, on_iteration=told.append)
    (report,) = told
    assert report.plans.shape == (2, 40, 2) and torch.equal(plan.cost, report.cost.min(1).values)
    assert plan.actions.tolist() == [[FORWARD, FORWARD]] * 2
    assert torch.equal(plan.elite_costs, report.cost.sort(1).values[:, :3])
    assert torch.equal(plan.poses[:, -1, 0], torch.tensor([150.0, 60], dtype=torch.float64) + 2 * STEP)
    assert plan.model_steps == sum(world.imagined_batches) <= 2 * search.max_model_steps


def test_a_policy_search_serves_vectors_too():
    world = ToyWorld(ToyArena(actions=AXES))
    search = PolicySearch(Straight(AXES), horizon=4, candidates=2, elites=1)
    plan = search.plan(world, standing_at(world, START), GoalPose([150 + 4 * STEP, 150, 0, 0, 0], along="final"))
    assert float(plan.cost) == pytest.approx(0, abs=1e-6)
    assert plan.model_steps == sum(world.imagined_batches) <= search.max_model_steps


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"candidates": 1}, {"elites": 9}, {"temperature": -0.1}, {"temperature": float("nan")}]
)
def test_numbers_that_a_policy_search_refuses(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PolicySearch(Straight(KEYS), **wrong)


def test_a_prior_makes_a_tree_reach_further():
    world = ToyWorld()
    objective = GoalPose([150 + 8 * STEP, 150, 0, 0, 0], along="final")
    state = standing_at(world, START)
    even = TreeSearch(horizon=8, expansions=8, exploration=2.0)
    guided = replace(even, prior=Straight(KEYS))
    assert guided.plan(world, state, objective).cost < even.plan(world, state, objective).cost


def test_a_world_without_state_vectors_has_no_use_for_policies_and_values():
    class Blind(ToyWorld):
        state_size = 0

    world = Blind()
    state = standing_at(world, START)
    for planner, objective in (
        (CEM(horizon=3), TerminalValue(FarInX())),
        (CEM(horizon=3, policy=Straight(KEYS)), Reward()),
        (PolicySearch(Straight(KEYS), horizon=3), Reward()),
        (TreeSearch(horizon=3), TerminalValue(FarInX())),
        (TreeSearch(horizon=3, prior=Straight(KEYS)), Reward()),
    ):
        with pytest.raises(ConfigError, match="no state vectors"):
            planner.plan(world, state, objective)
    with pytest.raises(ConfigError, match="proposals"):
        CEM(candidates=8, policy=Straight(KEYS), proposals=7)
    with pytest.raises(ConfigError, match="a plain function has none"):
        CEM(policy=Straight(KEYS)).minimise(lambda plans: plans.double().sum(-1), KEYS)


def test_constraints_say_how_far_off_a_plan_is():
    rollouts = made_up()
    places = rollouts.poses[..., :3]
    within = Within([10, -torch.inf, -torch.inf], [90, torch.inf, 50]).violation(rollouts)
    away = KeepAway([50, 50, 50], 60).violation(rollouts)
    sure = Sure(0.5).violation(rollouts)
    for b in range(2):
        for n in range(3):
            x, z = places[b, n, :, 0], places[b, n, :, 2]
            assert float(within[b, n]) == pytest.approx(max(float(v) for v in (*(10 - x), *(x - 90), *(z - 50))))
            nearest = min(float((p - 50).square().sum()) ** 0.5 for p in places[b, n])
            assert float(away[b, n]) == pytest.approx(60 - nearest)
            assert float(sure[b, n]) == pytest.approx(float(rollouts.uncertainty[b, n].max()) - 0.5)
    penalty = Penalty(KeepAway([50, 50, 50], 60), 3.0).cost(rollouts)
    assert torch.allclose(penalty, torch.where(away > 0, 3 * away, torch.zeros_like(away)))


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_lagrangian_goes_around_what_a_plain_planner_goes_through(spec):
    world = ToyWorld(ToyArena(actions=spec))
    state = standing_at(world, START, START, seeds=[1, 2])
    goal = GoalPose([150 + 4 * STEP, 150, 0, 0, 0], along="final", heading=0.0)
    objective = goal + 0.1 * PathLength()
    column = KeepAway([150 + 2 * STEP, 150, 0], 20)
    plain = CEM(horizon=6, candidates=96, iterations=5)
    through = plain.plan(world, state, objective)
    around = Lagrangian(plain, (column,), rounds=4, stiffness=0.05).plan(world, state, objective)
    middle = torch.tensor(column.place, dtype=torch.float64)
    nearest = [(p.poses[..., :3] - middle).norm(dim=-1).amin(-1) for p in (through, around)]
    assert bool((nearest[0] < 19).all()) and bool((nearest[1] >= 20 - 1e-5).all())
    # Its cost is the objective's own, without the price.
    reached = (around.poses[:, -1, :3] - torch.tensor([150 + 4 * STEP, 150, 0])).norm(dim=-1) / STEP
    assert bool((around.cost > through.cost).all()) and bool((around.cost < reached + 1).all())


def test_a_lagrangian_that_cannot_keep_its_constraint_violates_it_least_and_counts_its_steps():
    world = ToyWorld()
    state = standing_at(world, START)
    far = Within([350, -torch.inf, -torch.inf], [torch.inf] * 3)
    planner = Lagrangian(CEM(horizon=3, iterations=4), (far,), rounds=3, stiffness=1.0)
    plan = planner.plan(world, state, GoalPose(START))
    assert float(plan.poses[0, :, 0].min()) == pytest.approx(150 + STEP)
    assert plan.model_steps == sum(world.imagined_batches) and plan.model_calls == len(world.imagined_batches)
    with pytest.raises(ConfigError, match="needs a constraint"):
        Lagrangian(CEM(), ())


def test_a_draft_is_refined_in_the_world_asked_about():
    exact, draft = ToyWorld(), ToyWorld(noise=30.0)
    state = standing_at(exact, START, START, seeds=[1, 2])
    objective = GoalPose([150 + 3 * STEP, 150 + STEP, 0, 0, 0], along="final")
    drafted = CEM(horizon=4, elites=12).plan(draft, state, objective)
    plan = DraftThenRefine(draft, CEM(horizon=4, elites=12)).plan(exact, state, objective)
    for b in range(2):
        ends = torch.tensor([START], dtype=torch.float64).expand(12, 5)
        for t in range(4):
            ends = exact.arena.arrive(ends, drafted.elites[b, :, t])
        nothing = torch.zeros(1, 12, 1)
        judged = objective.cost(
            RolloutBatch(drafted.elites[b : b + 1], ends.view(1, 12, 1, 5), nothing, nothing, nothing)
        )
        assert float(plan.cost[b]) == pytest.approx(float(judged.min()))
        assert torch.equal(plan.poses[b, -1], ends[int(judged.argmin())])
    draft.imagined_batches.clear()
    exact.imagined_batches.clear()
    few = DraftThenRefine(draft, CEM(horizon=4, elites=12), keep=3).plan(exact, state, objective)
    assert few.draft_steps == sum(draft.imagined_batches) and few.model_steps == sum(exact.imagined_batches)
    assert few.elites.shape[1] == 3 and few.model_steps <= 2 * 3 * 4 < few.draft_steps
    assert "drafted" in str(few)
    with pytest.raises(ConfigError, match="keep"):
        DraftThenRefine(draft, CEM(), keep=0)


def tiny(imagination: str, spec: ActionSpec = KEYS) -> WorldModel:
    torch.manual_seed(0)
    config = preset("tiny", spec, (24, 32))
    cdit = replace(config.cdit, depth=1, width=32, heads=2, context=(2, 1), retrieved=(1, 2))
    small = StateConfig(width=16, rounds=1, heads=2, hidden=24)
    config = replace(config, cdit=cdit, state=small, imagination=imagination)
    world = WorldModel(config).eval().requires_grad_(False)
    # Conditions begin at zero, where motions hardly matter.
    for name, parameter in world.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return world


def seen_by(world: WorldModel, worlds: int = 2):
    rng = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (worlds, 6, 24, 32, 3), generator=rng).to(torch.uint8)
    poses = torch.zeros(worlds, 6, 5, dtype=torch.float64)
    poses[..., 0] = STEP * torch.arange(6)
    actions = torch.ones(worlds, 6, *world.actions.shape, dtype=torch.int64 if world.actions is KEYS else torch.float32)
    return world.observe(world.start(worlds), frames, actions, poses)


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_gradients_flow_through_a_learned_state_space_even_under_inference_mode(spec):
    world = tiny("state", spec)

    class Linear:
        def value(self, vectors: torch.Tensor) -> torch.Tensor:
            # The last 21 numbers are told by poses, and of these the last 16 have no slope.
            learned = vectors[:, :-21]
            return learned @ torch.linspace(-1, 1, learned.shape[1])

    with torch.inference_mode():
        state = seen_by(world)
        goal = GoalFrame(torch.zeros(state.latents.shape[2:]) + 1)
        for objective in (TerminalValue(Linear(), 1.0), goal, GoalPose([200, 40, 0, 1, 0]) + 0.1 * Uncertainty()):
            plan = GradientPlanner(horizon=3, candidates=4, iterations=6, elites=1).plan(world, state, objective)
            assert bool(plan.cost.isfinite().all())
            if spec is AXES:
                assert bool((plan.cost < plan.costs_per_iteration[:, 0]).all())


def test_a_slope_is_the_difference_that_a_small_change_makes():
    world = tiny("state", AXES)
    problem = Imagined(world, seen_by(world), GoalPose([200, 40, 0, 1, 0], along="final"), 64)
    plans = torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    cost, slope = problem.slope(plans)
    assert torch.allclose(cost, problem.raw_cost(plans), atol=1e-5)
    for t, i in ((0, 0), (1, 1), (0, 2)):
        step = torch.zeros_like(plans)
        step[:, :, t, i] = 1e-2
        difference = (problem.raw_cost(plans + step) - problem.raw_cost(plans - step)) / 2e-2
        assert torch.allclose(difference.float(), slope[:, :, t, i], rtol=0.05, atol=2e-3)


def test_a_video_world_with_memory_refines_what_its_state_space_drafts():
    video, fast = tiny("video"), tiny("state")
    state = seen_by(video)
    goal = GoalFrame(torch.zeros(state.latents.shape[2:]))
    draft = ICEM(horizon=3, candidates=12, iterations=2, elites=4)
    plan = DraftThenRefine(fast, draft).plan(video, state, goal)
    drafted = draft.plan(fast, fast.adopt(state), goal)
    at = state
    costs = []
    for t in range(3):
        at, step = video.imagine(at, plan.actions[:, t])
        costs.append(step.latents.square().mean((1, 2, 3)) + 0.005 * t)
        assert torch.allclose(step.latents, plan.latents[:, t], atol=1e-4)
    assert torch.allclose(torch.stack(costs, 1).amin(1).double(), plan.cost, atol=1e-4)
    assert plan.draft_steps == drafted.model_steps and 0 < plan.model_steps <= 2 * 4 * 3
