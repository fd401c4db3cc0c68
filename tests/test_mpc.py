"""`MPC` in closed loop with the real toy world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_world import AXES, KEYS, STEP, TURN, ToyArena, ToyEnv, ToyWorld, picture_at, toy_contexts, walk

from worldloop.envs.sb3 import ImaginedVecEnv
from worldloop.errors import ConfigError
from worldloop.planning import CEM, MPC, DraftThenRefine, GoalFrame, GoalPose, Objective, Reward

EPISODES = 12
STEPS = 16


def start_and_goal(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A start and a pose four to eight steps away, facing elsewhere."""
    rng = np.random.default_rng(seed)
    start = np.array([*rng.uniform(150, 250, 2), 0, TURN * rng.integers(16) - math.pi, 0])
    angle, distance = rng.uniform(-math.pi, math.pi), STEP * rng.uniform(4, 6)
    offset = distance * np.array([math.cos(angle), math.sin(angle)])
    goal = np.array([*(start[:2] + offset), 0, start[3] + TURN * rng.integers(-2, 3), 0])
    return start, goal


def reached(pose: np.ndarray, goal: np.ndarray) -> bool:
    turn = (pose[3] - goal[3] + math.pi) % (2 * math.pi) - math.pi
    return math.dist(pose[:2], goal[:2]) < 20 and abs(turn) < TURN + 0.01


def successes(arena: ToyArena, policy_for) -> int:
    """Episodes that reach their goal; ``policy_for(goal, seed)`` gives ``(frame, pose) -> action``."""
    env, total = ToyEnv(arena), 0
    for seed in range(EPISODES):
        start, goal = start_and_goal(seed)
        policy = policy_for(goal, seed)
        frame, info = env.reset(options={"pose": start})
        for _ in range(STEPS):
            frame, _, _, _, info = env.step(policy(frame, info["pose"]))
            if reached(info["pose"], goal):
                total += 1
                break
    return total


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("kind", ["pose", "frame"])
def test_reaches_goals_far_more_often_than_random_actions(spec, kind):
    arena = ToyArena(actions=spec, goal=(-500.0, -500.0))
    world = ToyWorld(arena)

    def objective(goal: np.ndarray) -> Objective:
        return GoalPose(goal) if kind == "pose" else GoalFrame.of(world, picture_at(arena, goal))

    def planning(goal: np.ndarray, seed: int):
        return MPC(world, CEM(horizon=8, candidates=48, iterations=2), objective(goal)).act

    def random(goal: np.ndarray, seed: int):
        rng = np.random.default_rng(seed)
        if spec is KEYS:
            return lambda frame, pose: rng.integers(KEYS.n)
        return lambda frame, pose: rng.uniform(-1, 1, AXES.n).astype(np.float32)

    assert successes(arena, planning) >= 10
    assert successes(arena, random) <= 2


def test_finds_the_reward_and_the_episode_ends():
    arena = ToyArena(goal=(200.0, 160.0), goal_radius=20.0)
    env = ToyEnv(arena)
    mpc = MPC(ToyWorld(arena), CEM(horizon=8, candidates=96), Reward(discount=0.95))
    frame, info = env.reset(options={"pose": [100, 100, 0, 0, 0]})
    for _ in range(10):
        frame, reward, terminated, _, info = env.step(mpc.act(frame, info["pose"]))
        if terminated:
            break
    assert terminated and reward == 1.0


def test_remembers_what_was_really_seen_and_done():
    arena = ToyArena()
    world, env = ToyWorld(arena), ToyEnv(arena)
    mpc = MPC(world, CEM(horizon=3, candidates=8, iterations=1), GoalPose([300, 200, 0, 0, 0]), seeds=[11])
    frame, info = env.reset(options={"pose": [100, 100, 0, 0, 0]})
    frames, poses, actions = [frame], [info["pose"]], [0]
    for _ in range(3):
        actions.append(mpc.act(frames[-1], poses[-1]))
        frame, _, _, _, info = env.step(actions[-1])
        frames.append(frame)
        poses.append(info["pose"])
    expected = world.observe(
        world.start(1, [11]),
        np.stack(frames)[None, :3],
        np.array(actions)[None, :3],
        np.stack(poses)[None, :3],
    )
    assert mpc.state.snapshot() == expected.snapshot()


def test_experience_may_be_observed_before_acting():
    world = ToyWorld()
    frames, poses = walk(world.arena, [100, 100, 0, 0, 0], [1, 1, 5])
    mpc = MPC(world, CEM(horizon=3, candidates=8, iterations=1), GoalPose([300, 200, 0, 0, 0]))
    mpc.observe(frames[0], poses[0], np.array([0, 1, 1, 5]))
    assert int(mpc.state.step) == 4
    assert 0 <= mpc.choose() < KEYS.n
    mpc.act(frames[0, -1].numpy(), poses[0, -1].numpy(), last_action=0)
    assert int(mpc.state.step) == 5


@pytest.mark.parametrize("interval", [1, 3])
def test_plans_every_replan_interval_and_carries_the_plan_out_between(interval):
    arena = ToyArena()
    world, env = ToyWorld(arena), ToyEnv(arena)
    planner = CEM(horizon=5, candidates=16, iterations=2)
    mpc = MPC(world, planner, GoalPose([300, 300, 0, 0, 0]), replan_interval=interval)
    frame, info = env.reset(options={"pose": [100, 100, 0, 0, 0]})
    plans, total = [], 0
    for step in range(6):
        action = mpc.act(frame, info["pose"])
        if not plans or mpc.plan is not plans[-1]:
            assert step % interval == 0
            plans.append(mpc.plan)
            total += mpc.plan.model_steps
        assert action == int(mpc.plan.actions[0, step % interval])
        frame, _, _, _, info = env.step(action)
    assert len(plans) == 6 // interval
    assert mpc.model_steps == total == sum(world.imagined_batches)


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_batch_of_worlds_is_served_as_each_alone(spec):
    arena = ToyArena(actions=spec)
    world = ToyWorld(arena, noise=2.0)
    planner = CEM(horizon=4, candidates=16, iterations=2)
    goals = torch.tensor([[300.0, 200, 0, 1, 0], [100, 250, 0, 2, 0]])
    together = MPC(world, planner, GoalPose(goals), seeds=[4, 5])
    alone = [MPC(world, planner, GoalPose(goals[i]), seeds=[4 + i]) for i in range(2)]
    envs = [ToyEnv(arena) for _ in range(2)]
    seen = [env.reset(seed=i) for i, env in enumerate(envs)]
    for _ in range(4):
        actions = together.act(np.stack([f for f, _ in seen]), np.stack([info["pose"] for _, info in seen]))
        for i, (frame, info) in enumerate(seen):
            assert np.array_equal(alone[i].act(frame, info["pose"]), actions[i])
            assert envs[i].action_space.contains(actions[i])
        steps = [env.step(a) for env, a in zip(envs, actions, strict=True)]
        seen = [(s[0], s[4]) for s in steps]


def test_a_reset_forgets():
    world = ToyWorld()
    mpc = MPC(world, CEM(horizon=3, candidates=8, iterations=1), GoalPose([300, 200, 0, 0, 0]))
    pose = np.array([100.0, 100, 0, 0, 0])
    first = mpc.act(picture_at(world.arena, pose), pose)
    mpc.act(picture_at(world.arena, pose), pose)
    mpc.reset()
    assert mpc.state is None and mpc.plan is None
    assert mpc.act(picture_at(world.arena, pose), pose) == first


def test_bad_input_is_refused():
    world, planner, goal = ToyWorld(), CEM(horizon=3), GoalPose([300, 200, 0, 0, 0])
    for interval in (0, 4):
        with pytest.raises(ConfigError, match="replan_interval"):
            MPC(world, planner, goal, replan_interval=interval)
    with pytest.raises(ValueError, match="Nothing has been seen"):
        MPC(world, planner, goal).choose()


def test_predict_acts_as_act_does_and_an_episode_start_forgets_that_world_alone():
    world = ToyWorld(noise=2.0)
    planner = CEM(horizon=4, candidates=16, iterations=2)
    goals = torch.tensor([[300.0, 200, 0, 1, 0], [100, 250, 0, 2, 0]])
    together = MPC(world, planner, GoalPose(goals), seeds=[4, 5])
    alone = [MPC(world, planner, GoalPose(goals[i]), seeds=[4 + i]) for i in range(2)]
    track = np.array([[[100.0, 100, 0, 0, 0], [300, 300, 0, 1, 0]]] * 4)
    track[:, :, 0] += 10 * np.arange(4)[:, None]
    for t, poses in enumerate(track):
        frames = np.stack([picture_at(world.arena, pose) for pose in poses])
        begun = np.array([t == 0, t in (0, 2)])
        actions, carried = together.predict({"frame": frames, "pose": poses}, None, begun)
        assert carried is None
        for i in range(2):
            if begun[i]:
                alone[i].reset()
            assert alone[i].act(frames[i], poses[i]) == actions[i]
    assert together.state.step.tolist() == [4, 2]


def test_stable_baselines3_evaluates_a_planner_in_a_vector_of_imagined_worlds():
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    arena = ToyArena(goal=(200.0, 160.0), goal_radius=60.0)
    envs = ImaginedVecEnv(
        ToyWorld(arena), 2, contexts=toy_contexts(arena), observation=("frame", "pose"), max_episode_steps=12
    )
    mpc = MPC(ToyWorld(arena), CEM(horizon=8, candidates=48, iterations=2), Reward(discount=0.95))
    returns, lengths = evaluation.evaluate_policy(mpc, envs, n_eval_episodes=4, return_episode_rewards=True, warn=False)
    assert sum(total == 1.0 for total in returns) >= 3 and max(lengths) <= 12


def test_a_plan_in_two_worlds_is_counted_in_both_logged_and_stopped_when_asked(caplog):
    exact, draft = ToyWorld(), ToyWorld(noise=5.0)
    iterations = []
    mpc = MPC(
        exact,
        DraftThenRefine(draft, CEM(horizon=4, candidates=16, iterations=3)),
        GoalPose([300, 200, 0, 0, 0]),
        on_iteration=lambda report: iterations.append(report.iteration) or report.iteration == 1,
    )
    pose = np.array([100.0, 100, 0, 0, 0])
    with caplog.at_level("INFO", logger="worldloop.planning.mpc"):
        mpc.act(picture_at(exact.arena, pose), pose)
    assert iterations == [0, 1]
    assert mpc.model_steps == sum(exact.imagined_batches) and mpc.draft_steps == sum(draft.imagined_batches) > 0
    assert f"{mpc.model_steps} model steps" in caplog.text


def test_predict_refuses_what_it_cannot_plan_from():
    mpc = MPC(ToyWorld(), CEM(horizon=3), GoalPose([300, 200, 0, 0, 0]))
    with pytest.raises(ValueError, match="a frame and its pose"):
        mpc.predict({"frame": np.zeros((36, 48, 3), np.uint8)})
    poses = np.zeros((2, 5))
    frames = np.stack([picture_at(ToyArena(), pose) for pose in poses])
    mpc.predict({"frame": frames, "pose": poses})
    with pytest.raises(ValueError, match="of 3 worlds"):
        mpc.predict({"frame": frames, "pose": poses}, episode_start=[True, False, False])
