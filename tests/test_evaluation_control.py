"""Planning and acting on an exact world: what is imagined there is what happens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.envs.explorers import FunctionPolicy
from worldloop.errors import ConfigError
from worldloop.evaluation.baselines import OracleAgent, RandomAgent
from worldloop.evaluation.control import objective_for, run_control
from worldloop.evaluation.control_report import ControlReport, PlanConfig
from worldloop.evaluation.execution import Trace, execute
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.evaluation.goals import GoalTask, Reached, separation
from worldloop.evaluation.planning_agent import PlanningAgent

ARENA = ToyArena(goal=(-1e6, 0.0), size=800.0)
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
CONFIG = PlanConfig(
    episodes=6, horizon=6, candidates=40, iterations=3, context=3, nearest=4, farthest=8, budget=12,
    batch=4, pictures=1, random_repeats=3, goal="pose",
)  # fmt: skip


def run(world: ToyWorld, out: Path, config: PlanConfig = CONFIG) -> ControlReport:
    return run_control(world, config, out, make_env=lambda: ToyEnv(ARENA), explorer=WALKER)


@pytest.fixture(scope="module")
def tasks() -> list[GoalTask]:
    return sample_goals(ToyEnv(ARENA), WALKER, KEYS, range(100_000, 100_005), context=3, steps=(4, 8))


def planned(world: ToyWorld, tasks: list[GoalTask], n_envs: int, budget: int = 12) -> list[Trace]:
    objective = objective_for(world, CONFIG.form)
    agent = PlanningAgent("planning", world, CONFIG.search("cem").planner(), objective, 2, watch=True)
    return execute(agent, tasks, [ToyEnv(ARENA) for _ in range(n_envs)], reached=Reached(), budget=budget)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[ControlReport, Path]:
    out = tmp_path_factory.mktemp("control")
    return run(ToyWorld(ARENA), out), out


def test_planning_in_an_exact_world_beats_chance(report: tuple[ControlReport, Path]) -> None:
    found, _ = report
    assert found.planner.success.estimate == 1 and found.planner.success.n == 6
    assert found.chance.success.n == 18 and found.chance.success.high < found.planner.success.low
    assert found.planner.steps.estimate <= found.known_way.estimate + 1


def test_a_goal_can_be_given_as_a_picture(tmp_path: Path) -> None:
    found = run(ToyWorld(ARENA), tmp_path, replace(CONFIG, goal="frame", pictures=0))
    assert found.planner.success.estimate > found.chance.success.estimate
    assert found.planner.distance.estimate < found.chance.distance.estimate


def test_the_report_lies_beside_its_pictures(report: tuple[ControlReport, Path]) -> None:
    _, out = report
    data = json.loads((out / "plan.json").read_text(), parse_constant=pytest.fail)
    assert {p.name for p in out.iterdir()} == {*data["files"], "plan.json"}
    drawn = ("-map.png", "-plans.png", "-strip.png", ".gif", ".mp4")
    assert sorted(data["files"]) == [f"episode-0{end}" for end in drawn]
    assert sum(e["reached"] for e in data["episodes"]) == round(6 * data["planner"]["success"]["estimate"])
    assert len(iio.imread(out / "episode-0.mp4", plugin="pyav")) > 6


def test_episodes_do_not_depend_on_how_many_run_side_by_side(tasks: list[GoalTask]) -> None:
    world = ToyWorld(ARENA, noise=2.0)
    together, alone = planned(world, tasks, 5), planned(world, tasks, 1)
    for a, b in zip(together, alone, strict=True):
        assert [int(x) for x in a.actions] == [int(x) for x in b.actions]
        assert all((p.poses == q.poses).all() for p, q in zip(a.plans, b.plans, strict=True))


def test_a_trace_is_what_really_happened(tasks: list[GoalTask]) -> None:
    for trace in planned(ToyWorld(ARENA), tasks, 3):
        pose = torch.as_tensor(trace.poses[0])[None]
        for action, arrived in zip(trace.actions, trace.poses[1:], strict=True):
            pose = ARENA.arrive(pose, torch.as_tensor([int(action)]))
            assert np.allclose(pose[0], arrived)
        solved = [Reached()(p, trace.task.goal_pose) for p in trace.poses]
        assert trace.reached == solved[-1] and not any(solved[:-1])
        assert [plan.step for plan in trace.plans] == list(range(0, trace.steps, 2))


def test_an_exact_imagination_comes_true(tasks: list[GoalTask]) -> None:
    for trace in planned(ToyWorld(ARENA), tasks, 5):
        for plan in trace.plans:
            real = trace.poses[plan.step + 1 : plan.step + 3]
            assert np.allclose(plan.poses[: len(real)], np.stack(real))


def test_nobody_acts_beyond_the_budget(tasks: list[GoalTask]) -> None:
    short = planned(ToyWorld(ARENA), tasks, 5, budget=2)
    envs = [ToyEnv(ARENA) for _ in range(3)]
    lucky = execute(RandomAgent(KEYS), tasks, envs, reached=Reached(), budget=2, repeats=2)
    assert all(t.steps <= 2 for t in (*short, *lucky)) and len(lucky) == 2 * len(tasks)
    assert all(t.steps == 2 for t in short if not t.reached)


def test_chance_is_the_same_however_many_run_side_by_side(tasks: list[GoalTask]) -> None:
    runs = [
        execute(RandomAgent(KEYS), tasks, [ToyEnv(ARENA) for _ in range(n)], reached=Reached(), budget=5, repeats=2)
        for n in (1, 4)
    ]
    assert [[int(a) for a in t.actions] for t in runs[0]] == [[int(a) for a in t.actions] for t in runs[1]]
    first, again = runs[0][: len(tasks)], runs[0][len(tasks) :]
    assert any(list(a.actions) != list(b.actions) for a, b in zip(first, again, strict=True))


def test_on_free_ground_the_oracle_needs_no_more_than_the_known_way(tasks: list[GoalTask]) -> None:
    for trace in execute(OracleAgent(KEYS), tasks, [ToyEnv(ARENA)], reached=Reached(), budget=12):
        assert trace.reached and trace.steps <= trace.task.steps


def test_what_was_considered_is_kept_with_its_costs(tasks: list[GoalTask]) -> None:
    for trace in planned(ToyWorld(ARENA), tasks, 5):
        for plan in trace.plans:
            considered = plan.candidates
            assert considered is not None and considered.poses.shape == (120, 6, 5)
            best = int(considered.cost.argmin())
            assert considered.cost[best] == plan.cost and (considered.poses[best] == plan.poses).all()


def test_difficulty_and_outcome_are_reported_for_every_goal(report: tuple[ControlReport, Path]) -> None:
    found, _ = report
    seen = [e for e in found.episodes if e["in_view"]]
    assert len(seen) == found.planner.in_view.n
    assert len(found.episodes) - len(seen) == found.planner.out_of_view.n
    assert all(e["final_distance"] <= 30 and e["final_heading"] <= 23 for e in found.episodes if e["reached"])


def test_separation_is_in_units_and_degrees() -> None:
    distance, angle = separation(np.array([0.0, 0, 0, 3.0, 0]), np.array([3.0, 4, 0, -3.0, 0]))
    assert distance == pytest.approx(5) and angle == pytest.approx(np.degrees(2 * np.pi - 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"solver": "magic"}, "solver is one of cem, icem, mppi"),
        ({"goal": "smell"}, "form is one of frame, pose, index"),
        ({"goal": "ago"}, "place is 'behind', not 'straight'"),
        ({"place": "above"}, "place is one of straight, near"),
        ({"objective": "taste"}, "objective is one of mse, cosine"),
        ({"imagination": "dream"}, "imagination is one of video, state"),
        ({"split": "train"}, "not on 'train'"),
        ({"replan_interval": 7}, "at most the horizon of 6"),
    ],
)
def test_contradictory_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)
