"""Plans carried out in the real world: many episodes side by side, each remembered whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..planning import Objective, Plan, Planner
from ..world_models.actions import ActionSpec
from ..world_models.world import World
from .goals import GoalTask, Pose, Reached
from .progress import Progress, silent


@dataclass(frozen=True)
class Imagined:
    """What a planner imagined before it acted.

    Attributes:
        step: real steps taken before.
        poses: (H, 5) float64 that its plan was imagined to lead to.
        latents: (H, C, h, w) of the frames; `World.render` shows them.
        cost: of the plan.
    """

    step: int
    poses: NDArray[np.float64]
    latents: Tensor
    cost: float


@dataclass
class Trace:
    """One episode as it really went, from the start of a task.

    Attributes:
        task: the problem.
        layout: the map, where the real environment has one.
        frames: T + 1 frames (H, W, 3) uint8, the first at the start.
        poses: their poses (5,).
        actions: the T actions between them.
        plans: what was imagined before each replanning; empty for those who do not plan.
        reached: whether the last pose counts as the goal.
        model_steps: worlds imagined one step.
        seconds: spent planning, shared evenly among the episodes planned together.
    """

    task: GoalTask
    layout: Any
    frames: list[NDArray[np.uint8]]
    poses: list[Pose]
    actions: list[Any] = field(default_factory=list)
    plans: list[Imagined] = field(default_factory=list)
    reached: bool = False
    model_steps: float = 0.0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """T, the real steps taken."""
        return len(self.actions)

    def advance(self, env: gym.Env[Any, Any], action: Any, reached: Reached) -> None:
        """Take ``action`` in ``env`` and remember what came of it."""
        frame, _, _, _, info = env.step(action)
        self.frames.append(frame)
        self.poses.append(np.asarray(info["pose"], np.float64))
        self.actions.append(action)
        self.reached = reached(self.poses[-1], self.task.goal_pose)


def execute_plans(
    world: World,
    solver: Planner,
    objective: Callable[[Sequence[GoalTask]], Objective],
    tasks: Sequence[GoalTask],
    envs: Sequence[gym.Env[Any, Any]],
    *,
    reached: Reached,
    budget: int,
    replan_interval: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Trace]:
    """Model-predictive control of all ``tasks``, as many at once as there are real environments.

    The world observes what each task has seen so far; then plan, act for ``replan_interval`` steps while
    observing what really comes, and plan again, until the goal is reached or ``budget`` steps are spent.
    Episodes in one batch share the model's calls and nothing else.

    Args:
        world: where to imagine.
        solver: how to plan.
        objective: makes the objective of a batch of tasks, with one goal for each.
        tasks: the problems.
        envs: real environments, alike.
        reached: when a goal counts as reached.
        budget: most real steps an episode.
        replan_interval: actions carried out of each plan.
        seed: of the imagined noise.
        progress: told after every real step.
    """
    traces: list[Trace] = []
    for begin in range(0, len(tasks), len(envs)):
        batch = tasks[begin : begin + len(envs)]
        group = [_begin(task, env) for task, env in zip(batch, envs, strict=False)]
        seeds = [seed * 1_000_003 + begin + i for i in range(len(batch))]

        def tell(group: list[Trace] = group, begin: int = begin) -> None:
            spent = sum(budget if trace.reached else trace.steps for trace in group)
            progress("planning and acting", begin * budget + spent, len(tasks) * budget)

        _execute_batch(world, solver, objective, group, envs, reached, budget, replan_interval, seeds, tell)
        traces += group
    return traces


def _execute_batch(
    world: World,
    solver: Planner,
    objective: Callable[[Sequence[GoalTask]], Objective],
    group: list[Trace],
    envs: Sequence[gym.Env[Any, Any]],
    reached: Reached,
    budget: int,
    replan_interval: int,
    seeds: list[int],
    tell: Callable[[], None],
) -> None:
    tasks = [trace.task for trace in group]
    with torch.inference_mode():
        state = world.observe(
            world.start(len(group), seeds),
            np.stack([task.frames for task in tasks]),
            np.stack([task.actions for task in tasks]),
            np.stack([task.poses for task in tasks]),
        )
    going, plan, executed = list(range(len(group))), None, 0
    for step in range(budget):
        if plan is None or executed == replan_interval:
            clock = time.perf_counter()
            with torch.inference_mode():
                plan = solver.plan(world, state, objective([tasks[i] for i in going]), plan, executed)
            executed = 0
            _remember(plan, [group[i] for i in going], step, time.perf_counter() - clock)
        actions = plan.actions[:, executed].cpu().numpy()
        executed += 1
        for i, action in zip(going, actions, strict=True):
            group[i].advance(envs[i], action, reached)
        tell()
        with torch.inference_mode():
            state = world.observe(
                state,
                np.stack([group[i].frames[-1] for i in going])[:, None],
                actions[:, None],
                np.stack([group[i].poses[-1] for i in going])[:, None],
            )
        left = [row for row, i in enumerate(going) if not group[i].reached]
        if not left:
            return
        state, plan, going = state[left], _rows(plan, left), [going[row] for row in left]


def execute_random(
    spec: ActionSpec,
    tasks: Sequence[GoalTask],
    env: gym.Env[Any, Any],
    *,
    reached: Reached,
    budget: int,
    repeats: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Trace]:
    """Uniformly random actions on the same tasks with the same budget, ``repeats`` episodes a task."""
    rng = np.random.default_rng([seed, 7])
    traces = []
    for n in range(repeats):
        for i, task in enumerate(tasks):
            trace = _begin(task, env)
            while not trace.reached and trace.steps < budget:
                uniform = rng.uniform(-1, 1, spec.shape).astype(np.float32)
                action = np.int64(rng.integers(spec.n)) if spec.kind == "discrete" else uniform
                trace.advance(env, action, reached)
            traces.append(trace)
            progress("acting at random", n * len(tasks) + i + 1, repeats * len(tasks))
    return traces


def _begin(task: GoalTask, env: gym.Env[Any, Any]) -> Trace:
    task.begin(env)
    return Trace(task, getattr(env.unwrapped, "layout", None), [task.frames[-1]], [task.poses[-1]])


def _remember(plan: Plan, going: list[Trace], step: int, seconds: float) -> None:
    for row, trace in enumerate(going):
        poses = plan.poses[row].cpu().numpy()
        trace.plans.append(Imagined(step, poses, plan.latents[row].cpu(), float(plan.cost[row])))
        trace.model_steps += plan.model_steps / len(going)
        trace.seconds += seconds / len(going)


def _rows(plan: Plan, rows: list[int]) -> Plan:
    """The plans of some of the worlds."""
    values: dict[str, Any] = {f.name: getattr(plan, f.name) for f in fields(plan)}
    chosen: dict[str, Any] = {k: v[rows] if isinstance(v, Tensor) else v for k, v in values.items()}
    return Plan(**chosen)
