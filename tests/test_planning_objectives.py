"""Objectives against the sums one would do by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from toy_world import KEYS, ToyWorld, picture_at, standing_at

from worldloop.errors import ConfigError
from worldloop.evaluation.perceptual import Unavailable, load_lpips
from worldloop.planning import (
    GoalFrame,
    GoalPicture,
    GoalPose,
    Novelty,
    PathLength,
    Reward,
    RolloutBatch,
    RolloutTree,
    Uncertainty,
)
from worldloop.planning.objectives import along_plan


def made_up(b: int = 2, n: int = 3, h: int = 4, seed: int = 0) -> RolloutBatch:
    g = torch.Generator().manual_seed(seed)
    poses = torch.rand(b, n, h, 5, generator=g, dtype=torch.float64) * 300
    poses[..., 3:] = torch.rand(b, n, h, 2, generator=g, dtype=torch.float64) * 2 - 1
    return RolloutBatch(
        actions=torch.zeros(b, n, h, dtype=torch.int64),
        poses=poses,
        reward=torch.rand(b, n, h, generator=g),
        continues=torch.rand(b, n, h, generator=g),
        uncertainty=torch.rand(b, n, h, generator=g),
        latents=torch.randn(b, n, h, 4, 2, 2, generator=g),
    )


def test_reward_counts_until_the_episode_ends_and_the_ending_step_too():
    rollouts = made_up()
    cost = Reward(discount=0.9).cost(rollouts)
    for b in range(2):
        for n in range(3):
            total, alive = 0.0, 1.0
            for t in range(4):
                total += 0.9**t * alive * float(rollouts.reward[b, n, t])
                alive *= float(rollouts.continues[b, n, t])
            assert float(cost[b, n]) == pytest.approx(-total, rel=1e-5)


def test_goal_pose_counts_steps_and_turns():
    rollouts = made_up()
    goal = np.array([100.0, 50, 20, 0.7, 0.1])
    cost = GoalPose(goal, length=10, angle=0.2, heading=0.5, along="final").cost(rollouts)
    for b in range(2):
        for n in range(3):
            x, y, z, yaw, pitch = rollouts.poses[b, n, -1].tolist()
            distance = math.dist((x, y, z), goal[:3])

            def ray(yaw, pitch):
                return np.array(
                    [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)]
                )

            angle = math.acos(ray(yaw, pitch) @ ray(0.7, 0.1))
            assert float(cost[b, n]) == pytest.approx(distance / 10 + 0.5 * angle / 0.2)


def test_goal_frame_is_the_mean_squared_difference_of_latents():
    rollouts = made_up()
    goal = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1))
    cost = GoalFrame(goal, along="final").cost(rollouts)
    expected = ((rollouts.latents[:, :, -1] - goal) ** 2).flatten(2).mean(-1)
    assert torch.allclose(cost, expected)
    assert GoalFrame(goal).needs_latents and not GoalPose([0] * 5).needs_latents


def test_goal_frame_of_a_picture_is_least_where_the_picture_was_taken():
    world = ToyWorld()
    there = [125.0, 100, 0, 0, 0]
    goal = GoalFrame.of(world, picture_at(world.arena, there), along="final")
    tree = RolloutTree(world, standing_at(world, [100, 100, 0, 0, 0]))
    cost = goal.cost(tree.roll_out(torch.arange(KEYS.n).view(1, -1, 1), latents=True))
    assert int(cost[0].argmin()) == KEYS.names.index("forward") and float(cost[0].min()) == 0


@pytest.mark.parametrize("make", [GoalPose, GoalFrame])
def test_a_goal_for_each_world_equals_separate_goals(make):
    rollouts = made_up()
    goals = torch.randn(2, 5) if make is GoalPose else torch.randn(2, 4, 2, 2)
    together = make(goals).cost(rollouts)
    for b in range(2):
        assert torch.equal(together[b], make(goals[b]).cost(rollouts)[b])


def test_along_reach_is_the_best_moment_plus_the_time_to_it():
    distance = torch.tensor([[[5.0, 1, 3], [1, 5, 5], [4, 4, 0.5]]])
    assert along_plan(distance, "reach", 0.25).tolist() == [[1.25, 1.0, 1.0]]
    assert along_plan(distance, "final").tolist() == [[3, 5, 0.5]]
    assert along_plan(distance, "mean").tolist() == [[3, pytest.approx(11 / 3), pytest.approx(8.5 / 3)]]


def test_objectives_add_and_scale():
    rollouts = made_up()
    a, b, c = Reward(), Uncertainty(), GoalFrame(torch.zeros(4, 2, 2))
    mixed = a + 0.5 * (b + c * 2)
    expected = a.cost(rollouts) + 0.5 * b.cost(rollouts) + c.cost(rollouts)
    assert torch.allclose(mixed.cost(rollouts), expected)
    assert mixed.needs_latents and not (a + b).needs_latents


def test_goals_that_fit_nothing_are_refused():
    rollouts = made_up()
    with pytest.raises(ValueError, match="pose"):
        GoalPose([1, 2, 3]).cost(rollouts)
    with pytest.raises(ValueError, match="latents"):
        GoalFrame(torch.zeros(4, 3, 2)).cost(rollouts)
    with pytest.raises(ValueError, match="goal frame"):
        GoalFrame.of(ToyWorld(), np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(ConfigError):
        GoalPose([0] * 5, along="sometimes")
    with pytest.raises(ConfigError):
        GoalPose([0] * 5, length=0)
    with pytest.raises(ConfigError):
        Reward(discount=0)


def test_cosine_likeness_does_not_care_for_size():
    rollouts = made_up()
    goal = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1))
    cost = GoalFrame(goal, along="final", likeness="cosine").cost(rollouts)
    for b in range(2):
        for n in range(3):
            x, y = rollouts.latents[b, n, -1].flatten().double(), goal.flatten().double()
            assert float(cost[b, n]) == pytest.approx(1 - float(x @ y / (x.norm() * y.norm())), abs=1e-5)
    assert torch.allclose(GoalFrame(7 * goal, along="final", likeness="cosine").cost(rollouts), cost, atol=1e-6)


def test_a_goal_that_is_faced_has_a_slope_of_finite_numbers():
    poses = made_up().poses
    poses[..., 3:] = 0
    poses.requires_grad_()
    rollouts = replace(made_up(), poses=poses)
    GoalPose([10, 20, 0, 0, 0]).cost(rollouts).sum().backward()
    assert bool(poses.grad.isfinite().all()) and bool(poses.grad.any())


def test_path_length_adds_up_the_way_from_the_start_and_the_turns():
    rollouts = replace(made_up(), start=torch.tensor([[0.0, 0, 0, 3.0, 0], [9, 9, 9, -1, 0]], dtype=torch.float64))
    cost = PathLength(length=10, angle=0.5, turning=2.0).cost(rollouts)
    for b in range(2):
        for n in range(3):
            way, total = [rollouts.start[b].tolist(), *rollouts.poses[b, n].tolist()], 0.0
            for before, after in pairwise(way):
                total += math.dist(before[:3], after[:3]) / 10
                yaw = (after[3] - before[3] + math.pi) % (2 * math.pi) - math.pi
                total += 2 * math.hypot(yaw, after[4] - before[4]) / 0.5
            assert float(cost[b, n]) == pytest.approx(total)
    with pytest.raises(ValueError, match="begins somewhere"):
        PathLength().cost(made_up())


def test_novelty_counts_steps_to_places_not_seen_before_nor_on_the_plan():
    rollouts = made_up()
    seen = np.array([[100.0, 100, 100, 0, 0], [200, 50, 0, 0, 0]])
    cost = Novelty(seen, radius=150.0).cost(rollouts)
    for b in range(2):
        for n in range(3):
            known, total = [tuple(p[:3]) for p in seen], 0.0
            for pose in rollouts.poses[b, n].tolist():
                total += min(1.0, min(math.dist(pose[:3], place) for place in known) / 150)
                known.append(tuple(pose[:3]))
            assert float(cost[b, n]) == pytest.approx(-total)
    assert torch.allclose(Novelty(np.stack([seen, seen]), radius=150.0).cost(rollouts), cost)
    first = Novelty(np.zeros((0, 5)), radius=150.0).cost(rollouts)
    assert bool((first <= cost).all())
    with pytest.raises(ValueError, match="What was seen"):
        Novelty(np.zeros((3, 3))).cost(rollouts)


def test_a_goal_picture_is_compared_as_drawn_with_the_goal_of_its_world():
    world = ToyWorld()
    state = standing_at(world, [100, 100, 0, 0, 0], [200, 200, 0, 0, 0])
    goals = np.stack([picture_at(world.arena, pose) for pose in ([125.0, 100, 0, 0, 0], [200, 225, 0, 0, 0])])
    asked = []

    def unlike(imagined, goal):
        asked.append(imagined.shape)
        return np.abs(imagined.astype(float) - goal).mean((1, 2, 3))

    rollouts = RolloutTree(world, state).roll_out(torch.arange(KEYS.n).view(1, -1, 1).repeat(2, 1, 2), latents=True)
    rollouts = replace(rollouts, latents=rollouts.latents[:, :, :1])
    cost = GoalPicture(world, goals, unlike, max_batch=5).cost(rollouts)
    assert [KEYS.names[int(i)] for i in cost.argmin(1)] == ["forward", "left"]
    assert cost.min(1).values.tolist() == [0, 0] and asked[0] == (5, 36, 48, 3)
    drawn = world.render(rollouts.latents[:, :, 0].flatten(0, 1)).numpy().astype(float)
    by_hand = np.abs(drawn - goals.repeat(KEYS.n, 0)).mean((1, 2, 3)).reshape(2, -1)
    assert np.allclose(cost.numpy(), by_hand)
    with pytest.raises(ConfigError, match="goal frame"):
        GoalPicture(world, np.zeros((40, 48, 3), np.uint8), unlike)


def test_lpips_judges_goal_pictures_where_its_weights_are():
    measure = load_lpips()
    if isinstance(measure, Unavailable):
        pytest.skip(f"LPIPS was NOT tried as a goal: {measure.reason}")
    world = ToyWorld()
    there = [125.0, 100, 0, 0, 0]
    tree = RolloutTree(world, standing_at(world, [100, 100, 0, 0, 0]))
    rollouts = tree.roll_out(torch.arange(KEYS.n).view(1, -1, 1), latents=True)
    cost = GoalPicture(world, picture_at(world.arena, there), measure.of).cost(rollouts)
    assert KEYS.names[int(cost[0].argmin())] == "forward"
