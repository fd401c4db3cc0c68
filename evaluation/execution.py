"""Acting in the real world: many episodes side by side, each remembered whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .goals import GoalTask, Pose, Reached
from .progress import Progress, silent


@dataclass(frozen=True)
class Candidates:
    """Plans that a planner considered for one episode.

    Attributes:
        poses: (N, H, 5) float64 that they were imagined to lead to, in the order they were tried.
        cost: (N,) float64, infinite for those that have none.
    """

    poses: NDArray[np.float64]
    cost: NDArray[np.float64]


@dataclass(frozen=True)
class Imagined:
    """What a planner imagined before it acted.

    Attributes:
        step: real steps taken before.
        poses: (H, 5) float64 that its plan was imagined to lead to.
        latents: (H, C, h, w) of the frames; `World.render` shows them.
        cost: of the plan.
        candidates: what else was tried; None where nobody watched.
    """

    step: int
    poses: NDArray[np.float64]
    latents: Tensor
    cost: float
    candidates: Candidates | None = None


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
        draft_steps: those of them imagined elsewhere, to draft plans, are counted here instead.
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
    draft_steps: float = 0.0
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


class Session(Protocol):
    """An agent's part in episodes that run side by side."""

    def act(self, rows: Sequence[int]) -> Sequence[Any]:
        """The next actions of the traces at ``rows``, those that still go on; their newest frames are to be read."""


class Agent(Protocol):
    """Whoever acts: a planner, a policy, a baseline."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def begin(self, group: Sequence[Trace], seeds: Sequence[int]) -> Session:
        """Take part in ``group``, whose traces are at their starts; trace i draws from ``seeds[i]`` alone."""


def execute(
    agent: Agent,
    tasks: Sequence[GoalTask],
    envs: Sequence[gym.Env[Any, Any]],
    *,
    reached: Reached,
    budget: int,
    repeats: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Trace]:
    """Let ``agent`` try all ``tasks``, as many at once as there are real environments.

    An episode ends when the goal is reached or ``budget`` steps are spent. Episodes share the agent's calls and nothing
    else, so that what comes of one does not depend on how many run side by side.

    Args:
        agent: who acts.
        tasks: the problems.
        envs: real environments, alike.
        reached: when a goal counts as reached.
        budget: most real steps an episode.
        repeats: episodes on every task.
        seed: of everything the agent draws.
        progress: told after every real step.
    """
    traces: list[Trace] = []
    asked = list(tasks) * repeats
    for begin in range(0, len(asked), len(envs)):
        group = [_begin(task, env) for task, env in zip(asked[begin : begin + len(envs)], envs, strict=False)]
        session = agent.begin(group, [seed * 1_000_003 + begin + i for i in range(len(group))])
        while going := [i for i, trace in enumerate(group) if not trace.reached and trace.steps < budget]:
            for i, action in zip(going, session.act(going), strict=True):
                group[i].advance(envs[i], action, reached)
            spent = sum(budget if trace.reached else trace.steps for trace in group)
            progress(f"acting: {agent.name}", begin * budget + spent, len(asked) * budget)
        traces += group
    return traces


def _begin(task: GoalTask, env: gym.Env[Any, Any]) -> Trace:
    task.begin(env)
    return Trace(task, getattr(env.unwrapped, "layout", None), [task.frames[-1]], [task.poses[-1]])
