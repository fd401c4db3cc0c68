"""`MPC`: plan in imagination, act in reality, look, plan again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.state import WorldState
from ..world_models.world import World
from .objectives import Objective
from .planner import OnIteration, Plan, Planner

_LOG = logging.getLogger(__name__)


class MPC:
    """A policy that plans at every step (receding horizon) and remembers what it has really seen.

    Example:
        >>> mpc = MPC(world, CEM(horizon=8), GoalPose(goal))
        >>> frame, info = env.reset()
        >>> for _ in range(50):
        ...     frame, _, terminated, truncated, info = env.step(mpc.act(frame, info["pose"]))

    It serves one real world, given single frames, or B at once, given batches (then all arrays below have a
    leading axis of length B): the worlds of a vector environment, with `predict`.

    What it costs is bounded by the solver (``budget=``), counted in `model_steps` and `draft_steps`, and logged for
    every plan (logger ``worldloop.planning.mpc``, level INFO).

    Args:
        world: where to imagine, in video or in state space; with a `DraftThenRefine` in both.
        solver: how to plan.
        objective: what to achieve. May be changed between steps.
        replan_interval: actions to carry out of each plan, at most its horizon.
        seeds: (B,) integers that the imagined noise comes from; default 0 … B-1.
        on_iteration: told after every iteration of every plan; True ends that plan's search.

    Raises:
        ConfigError: a replan interval below 1 or beyond the horizon.
    """

    def __init__(
        self,
        world: World,
        solver: Planner,
        objective: Objective,
        replan_interval: int = 1,
        seeds: Any = None,
        on_iteration: OnIteration | None = None,
    ) -> None:
        if not 1 <= replan_interval <= solver.horizon:
            raise ConfigError(
                f"replan_interval lies between 1 and the horizon of {solver.horizon}; got {replan_interval}."
            )
        self.world = world
        self.solver = solver
        self.objective = objective
        self.replan_interval = replan_interval
        self.seeds = seeds
        self.on_iteration = on_iteration
        self.reset()

    def reset(self) -> None:
        """Forget what was seen and planned: another episode begins."""
        self._state: WorldState | None = None
        self._begin_from = self.seeds
        self._plan: Plan | None = None
        self._executed = 0
        self._left = self.replan_interval
        self._acted: Tensor | None = None
        self._batched = False
        self.model_steps = 0
        """Worlds imagined one step since the reset."""
        self.draft_steps = 0
        """Those of them imagined elsewhere, see `Plan.draft_steps`, are counted here instead."""

    @property
    def state(self) -> WorldState | None:
        """What the policy remembers of the real worlds; None before the first frame."""
        return self._state

    @property
    def plan(self) -> Plan | None:
        """The plan that is being carried out."""
        return self._plan

    def observe(self, frames: Any, poses: Any, actions: Any) -> None:
        """Take in T frames of real experience, without acting.

        Args:
            frames: (T, H, W, 3) uint8.
            poses: (T, 5) canonical.
            actions: (T, ...), those that led to each frame; the very first means nothing.
        """
        seen, track, done = torch.as_tensor(frames), torch.as_tensor(poses), torch.as_tensor(actions)
        self._batched = seen.ndim == 5
        if not self._batched:
            seen, track, done = seen.unsqueeze(0), track.unsqueeze(0), done.unsqueeze(0)
        if self._state is None:
            self._begin_from = torch.arange(len(seen)) if self.seeds is None else torch.as_tensor(self.seeds)
            self._state = self.world.start(len(seen), self._begin_from)
        with torch.no_grad():
            self._state = self.world.observe(self._state, seen, done, track)

    def act(self, frame: Any, pose: Any, last_action: Any = None) -> Any:
        """Look, and choose the next action.

        Args:
            frame: (H, W, 3) uint8, what is seen now.
            pose: (5,) canonical, where from.
            last_action: what led here, where that is not the action this method returned last.

        Returns:
            An action for the real environment: an int or float32 array (n,); for a batch an array (B, ...).
        """
        picture = torch.as_tensor(frame)
        batched = picture.ndim == 4
        if last_action is not None:
            led_here = torch.as_tensor(last_action)
        elif self._acted is not None:
            led_here = self._acted if batched else self._acted[0]
        else:
            led_here = self._nothing(len(picture) if batched else None)
        time = 1 if batched else 0
        self.observe(picture.unsqueeze(time), torch.as_tensor(pose).unsqueeze(time), led_here.unsqueeze(time))
        return self.choose()

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, None]:
        """Look and act, as Stable-Baselines3's models do (`evaluate_policy` takes this one), in one world or in B.

        Args:
            observation: ``"frame"`` (H, W, 3) or (B, H, W, 3) uint8, and ``"pose"`` (5,) or (B, 5).
            state: nothing; what is remembered is kept here.
            episode_start: (B,) bool, worlds whose episode begins with this observation: they forget what was before,
                and all worlds plan anew.
            deterministic: plans have no other way.

        Returns:
            Actions, as `act` gives them, and None.

        Raises:
            ValueError: an observation without a frame or a pose, or another number of worlds than before.
        """
        if not {"frame", "pose"} <= set(observation):
            raise ValueError(f"Planning needs a frame and its pose; got an observation of {sorted(observation)}.")
        begun = np.atleast_1d(np.zeros(1, bool) if episode_start is None else np.asarray(episode_start, bool))
        if begun.all():
            self.reset()
        elif begun.any():
            self._begin(torch.as_tensor(begun))
        return self.act(observation["frame"], observation["pose"]), None

    def keep(self, state: None, rows: Any) -> None:
        """Go on with some of the B worlds, which live on as they would have among the others.

        Args:
            state: nothing, as with `predict`.
            rows: (M,) of those that stay; they are 0 … M-1 from now on, until the reset.

        Raises:
            ValueError: nothing has been seen yet.
        """
        if self._state is None:
            raise ValueError("Nothing has been seen yet, so there are no worlds to keep.")
        here = torch.as_tensor(rows, device=self._state.device)
        self._state, self._begin_from = self._state[here], self._begin_from[here.cpu()]
        self._plan = None if self._plan is None else self._plan[here]
        self._acted = None if self._acted is None else self._acted[here.cpu()]

    def _begin(self, begun: Tensor) -> None:
        """Worlds ``begun`` (B,) start another episode."""
        if self._state is None:
            return
        if len(begun) != self._state.batch_size:
            raise ValueError(f"episode_start is of {len(begun)} worlds; there are {self._state.batch_size}.")
        begun = begun.to(self._state.device)
        self._state = self.world.start(self._state.batch_size, self._begin_from).where(begun, self._state)
        self._left = 0
        if self._plan is not None:
            self._plan = replace(self._plan, cost=torch.where(begun, torch.inf, self._plan.cost))
        if self._acted is not None:
            nothing = self._nothing(len(begun))
            self._acted = torch.where(begun.cpu().view(-1, *[1] * (nothing.ndim - 1)), nothing, self._acted)

    def choose(self) -> Any:
        """The next action, from what has been seen so far; plans anew every ``replan_interval`` calls.

        Raises:
            ValueError: nothing has been seen yet.
        """
        if self._state is None:
            raise ValueError("Nothing has been seen yet: call act(frame, pose) or observe(...) first.")
        if self._plan is None or self._executed >= self._left:
            self._plan = self.solver.plan(
                self.world, self._state, self.objective, self._plan, self._executed, self.on_iteration
            )
            self.model_steps += self._plan.model_steps
            self.draft_steps += self._plan.draft_steps
            _LOG.info("%s", self._plan)
            self._executed, self._left = 0, self.replan_interval
        action = self._plan.actions[:, self._executed].cpu()
        self._executed += 1
        self._acted = action
        if self._batched:
            return action.numpy()
        return int(action[0]) if self.world.actions.kind == "discrete" else np.array(action[0].numpy())

    def _nothing(self, batch: int | None) -> Tensor:
        spec = self.world.actions
        dtype = torch.int64 if spec.kind == "discrete" else torch.float32
        return torch.zeros((*(() if batch is None else (batch,)), *spec.shape), dtype=dtype)
