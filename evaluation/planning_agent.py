"""`PlanningAgent`: model-predictive control as an agent of `execution.execute`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..planning import Objective, Plan, Planner, RolloutBatch
from ..world_models.state import WorldState
from ..world_models.world import World
from .execution import Candidates, Imagined, Session, Trace
from .goals import GoalTask


@dataclass(frozen=True)
class PlanningAgent:
    """Plans in imagination, carries out the first actions, looks, and plans again.

    The world observes what each task has seen so far, and every real frame.

    Attributes:
        name: see `Agent`.
        world: where to imagine.
        planner: how to plan.
        objective: makes the objective of a batch of tasks, with one goal for each.
        replan_interval: actions carried out of each plan.
        watch: keep what was considered and not only what was chosen, for pictures.
    """

    name: str
    world: World
    planner: Planner
    objective: Callable[[Sequence[GoalTask]], Objective]
    replan_interval: int = 1
    watch: bool = False

    def begin(self, group: Sequence[Trace], seeds: Sequence[int]) -> Session:
        """See `Agent.begin`."""
        return _Planning(self, group, seeds)


class _Planning:
    def __init__(self, agent: PlanningAgent, group: Sequence[Trace], seeds: Sequence[int]) -> None:
        self._agent, self._group = agent, group
        self._rows = list(range(len(group)))
        self._plan: Plan | None = None
        self._executed = 0
        tasks = [trace.task for trace in group]
        self._state = explored(agent.world, tasks, seeds)

    def act(self, rows: Sequence[int]) -> Sequence[Any]:
        """See `Session.act`."""
        self._look(rows)
        if self._plan is None or self._executed == self._agent.replan_interval:
            self._think([self._group[i] for i in rows])
        assert self._plan is not None
        self._actions = self._plan.actions[:, self._executed].cpu().numpy()
        self._executed += 1
        return list(self._actions)

    def _look(self, rows: Sequence[int]) -> None:
        """Let go of episodes that are over, and observe what came of the last actions in the others."""
        if self._plan is None:
            return
        left = [self._rows.index(row) for row in rows]
        self._rows, actions = list(rows), self._actions[left]
        self._plan = _part(self._plan, left)
        with torch.inference_mode():
            self._state = self._agent.world.observe(
                self._state[left],
                np.stack([self._group[i].frames[-1] for i in rows])[:, None],
                actions[:, None],
                np.stack([self._group[i].poses[-1] for i in rows])[:, None],
            )

    def _think(self, going: list[Trace]) -> None:
        agent, clock = self._agent, time.perf_counter()
        with torch.inference_mode():
            objective = agent.objective([trace.task for trace in going])
            watched = Watched(objective) if agent.watch else objective
            plan = agent.planner.plan(agent.world, self._state, watched, self._plan, self._executed)
        seconds = time.perf_counter() - clock
        self._plan, self._executed = plan, 0
        for row, trace in enumerate(going):
            considered = watched.candidates(row) if isinstance(watched, Watched) else None
            poses, latents = plan.poses[row].cpu().numpy(), plan.latents[row].cpu()
            trace.plans.append(Imagined(trace.steps, poses, latents, float(plan.cost[row]), considered))
            trace.model_steps += plan.model_steps / len(going)
            trace.draft_steps += plan.draft_steps / len(going)
            trace.seconds += seconds / len(going)


@torch.inference_mode()
def explored(world: World, tasks: Sequence[GoalTask], seeds: Sequence[int]) -> WorldState:
    """``world`` as it is once it has seen what led to the start of each task: at once where that is equally much."""
    alike = len({len(task.frames) for task in tasks}) == 1
    states = []
    for part in [slice(None)] if alike else [slice(i, i + 1) for i in range(len(tasks))]:
        chosen = tasks[part]
        states.append(
            world.observe(
                world.start(len(chosen), list(seeds[part])),
                np.stack([task.frames for task in chosen]),
                np.stack([task.actions for task in chosen]),
                np.stack([task.poses for task in chosen]),
            )
        )
    return states[0] if alike else WorldState.cat(states)


class Watched(Objective):
    """An objective that remembers what it was shown.

    Args:
        objective: what judges.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._shown: list[tuple[Tensor, Tensor]] = []

    @property
    def needs_latents(self) -> bool:
        return self._objective.needs_latents

    @property
    def needs_vectors(self) -> bool:
        return self._objective.needs_vectors

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        cost = self._objective.cost(rollouts)
        self._shown.append((rollouts.poses.detach().cpu(), cost.detach().cpu()))
        return cost

    def candidates(self, row: int) -> Candidates:
        """All plans that were judged for world ``row``."""
        cost = torch.cat([cost[row] for _, cost in self._shown]).to(torch.float64)
        poses = torch.cat([poses[row] for poses, _ in self._shown]).to(torch.float64)
        return Candidates(poses.numpy(), torch.where(cost.isfinite(), cost, torch.inf).numpy())


def _part(plan: Plan, rows: list[int]) -> Plan:
    """The plans of some of the worlds."""
    values: dict[str, Any] = {f.name: getattr(plan, f.name) for f in fields(plan)}
    chosen: dict[str, Any] = {k: v[rows] if isinstance(v, Tensor) else v for k, v in values.items()}
    return Plan(**chosen)
