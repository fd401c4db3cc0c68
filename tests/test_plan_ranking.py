"""Imagined against real returns: the same quantity of the same plans, and what choosing by it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.envs.explorers import FunctionPolicy
from worldloop.errors import ConfigError
from worldloop.evaluation.goal_forms import AsPicture, AsPose, AsReward
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.evaluation.goals import GoalTask
from worldloop.evaluation.plan_ranking import carry_out, judge, plan_ranking, random_plans
from worldloop.evaluation.plan_ranking_report import PlanRankingConfig, Ranked, summarise
from worldloop.evaluation.planning_methods import Worlds

ARENA = ToyArena(goal=(-1e6, 0.0), size=800.0)
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
CONFIG = PlanRankingConfig(
    goal="pose", starts=4, plans=16, horizon=5, budgets=(2, 16), weights=(0.0, 1.0), context=3, nearest=3, farthest=6
)


@pytest.fixture(scope="module")
def tasks() -> list[GoalTask]:
    return sample_goals(ToyEnv(ARENA), WALKER, KEYS, range(100_000, 100_003), context=3, steps=(3, 6))


def made(rng: np.random.Generator, starts: int = 5, plans: int = 12) -> Ranked:
    imagined, real, doubt = rng.normal(size=(3, starts, plans))
    return Ranked(imagined, real, np.abs(doubt), np.arange(starts))


@pytest.mark.parametrize("form", [AsPose(), AsPicture(), AsPicture("cosine"), AsPicture("pixels"), AsReward()])
def test_an_exact_world_is_right_about_every_plan(form: Any, tasks: list[GoalTask]) -> None:
    world = ToyWorld(ARENA)
    plans = random_plans(world, len(tasks), CONFIG)
    came = [carry_out(ToyEnv(ARENA), task, plan) for task, plan in zip(tasks, plans, strict=True)]
    found = judge(world, tasks, plans, came, form)
    if isinstance(form, AsReward):
        # The toy pays nothing and the step cost of the rooms is known: five steps, none of which ends anything.
        assert found.imagined == pytest.approx(0) and found.real.min() > -1
    else:
        assert found.imagined == pytest.approx(found.real, abs=2e-4) and found.real.std() > 0


def test_plans_are_carried_out_from_the_start_of_the_task(tasks: list[GoalTask]) -> None:
    plans = random_plans(ToyWorld(ARENA), 3, CONFIG)
    assert all(plan.shape == (16, 5) for plan in plans) and (plans[0] != plans[1]).any()
    came = carry_out(ToyEnv(ARENA), tasks[0], plans[0])
    for plan, poses in zip(plans[0], came.poses, strict=True):
        pose = torch.as_tensor(tasks[0].poses[-1])[None]
        for action, arrived in zip(plan, poses, strict=True):
            pose = ARENA.arrive(pose, torch.tensor([int(action)]))
            assert np.allclose(pose[0], arrived)


def test_correlation_gap_and_regret_are_what_they_say() -> None:
    ranked = made(np.random.default_rng(0))
    config = replace(CONFIG, plans=12, budgets=(3, 12))
    report = summarise(config, {"w": ranked})
    rho = np.mean([spearmanr(a, b).statistic for a, b in zip(ranked.imagined, ranked.real, strict=True)])
    assert report.correlation["w"].estimate == pytest.approx(rho)
    for choice in report.choices:
        gaps, added, missed = [], [], []
        for imagined, real, doubt in zip(ranked.imagined, ranked.real, ranked.doubt, strict=True):
            best = min(range(choice.budget), key=lambda i: imagined[i] + choice.weight * doubt[i])
            all_gaps = [-imagined[i] - -real[i] for i in range(choice.budget)]
            gaps.append(all_gaps[best])
            added.append(all_gaps[best] - np.mean(all_gaps))
            missed.append(max(-real[i] for i in range(choice.budget)) - -real[best])
        assert choice.gap.estimate == pytest.approx(np.mean(gaps))
        assert choice.exploited.estimate == pytest.approx(np.mean(added))
        assert choice.regret.estimate == pytest.approx(np.mean(missed))
        assert choice.imagined.estimate - choice.real.estimate == pytest.approx(choice.gap.estimate)


def test_choosing_among_more_noise_exploits_it_more_and_a_price_on_doubt_helps() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(400, 64))
    doubt = rng.exponential(size=real.shape)
    ranked = Ranked(real + doubt * rng.normal(size=real.shape), real, doubt, np.arange(400))
    report = summarise(replace(CONFIG, plans=64, budgets=(2, 64)), {"w": ranked})
    gap = {(c.budget, c.weight): c.exploited for c in report.choices}
    assert gap[64, 0.0].low > gap[2, 0.0].high
    assert gap[64, 1.0].high < gap[64, 0.0].low


def test_the_report_compares_worlds_on_the_same_plans(tmp_path: Path) -> None:
    worlds = {"exact": Worlds(ToyWorld(ARENA)), "drifting": Worlds(ToyWorld(ARENA, noise=60.0))}
    report = plan_ranking(worlds, CONFIG, tmp_path, make_env=lambda: ToyEnv(ARENA), explorer=WALKER)
    assert report.correlation["exact"].estimate == pytest.approx(1)
    assert report.correlation["drifting"].high < 1
    exact = [c for c in report.choices if c.world == "exact"]
    assert all(abs(c.gap.estimate) < 1e-6 and abs(c.regret.estimate) < 1e-6 for c in exact)
    data = json.loads((tmp_path / "ranking.json").read_text(), parse_constant=pytest.fail)
    assert len(data["choices"]) == 2 * 2 * 2 and (tmp_path / "ranking.png").stat().st_size > 0
    assert "rank correlation of imagined and real return 1.00" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": (32,)}, "between 1 and the 16 plans"),
        ({"goal": "ago"}, "by their index; got 'ago'"),
        ({"goal": "index"}, "place is 'behind'"),
        ({"imaginations": ("draft",)}, "'video' or 'state'"),
        ({"plans": 1}, "two plans or more"),
    ],
)
def test_contradictory_rankings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)
