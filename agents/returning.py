"""Going out and coming back: a wanderer leaves a place, and finds back to it by planning in imagination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ..envs.doom_rooms.tasks import RETURN_LEAVE
from ..envs.steering import FORWARD, YAW, Steering
from ..errors import ConfigError
from ..planning import GoalFrame, Plan, Planner
from ..world_models.noise import hash64, uniform
from ..world_models.state import WorldState
from ..world_models.world import World

_BLOCKED = 0.5
"""Share of a step forward; who gets less far stands before something."""
_ANYWAY = 0.05
"""Probability of turning where nothing is in the way."""
_FEWEST, _MOST = 2, 6
"""Turns made at once, all of them one way."""
_WALKING = 1 << 60
"""Keeps the random numbers of walking apart from those of imagination and of planning, which use the same seeds."""


@dataclass(frozen=True)
class Outing:
    """What is known of B real worlds in which a `ReturningAgent` walks.

    Attributes:
        world: all that was seen, as its learned world keeps it.
        acted: (B, ...) the last action.
        start: (B, 5) float64 canonical pose of the first frame.
        goal: (B, C, h, w) latents of the first frame.
        turns: (B,) int64, turns still to make before the next step forward, those to the right negative.
        turned_back: (B,) int64, steps after which the way back began; -1 on the way out.
        plan: the latest plans; their cost is infinite in worlds that none was made for yet. None before the first.
    """

    world: WorldState
    acted: Tensor
    start: Tensor
    goal: Tensor
    turns: Tensor
    turned_back: Tensor
    plan: Plan | None = None


class ReturningAgent:
    """Does DoomRooms' task ``return``: wanders off, and plans its way back to what it saw first.

    On the way out it walks forward by its poses alone, turns where it is blocked, and now and then anyway. Chance is a
    function of seed, first pose and step: agents with different worlds walk out alike. Once it has walked far enough it
    plans towards its first frame, told by the picture and not by the pose. Its world has observed every frame on the
    way, so one with a memory knows the place, and one without has nothing to imagine it from.

    Each world of a batch goes out, turns back and plans anew on its own clock, and lives as it would alone.

    Args:
        world: what sees, remembers and imagines.
        solver: how to plan.
        replan_interval: actions carried out of each plan, at most its horizon.
        leave: world units from the first pose at which it may turn back.
        least_steps: walked before it may turn back.
        seed: of the wandering, and of the noise of what is imagined.

    Raises:
        ConfigError: numbers outside their range, or actions that do not go forward and turn both ways.
    """

    def __init__(
        self,
        world: World,
        solver: Planner,
        replan_interval: int = 2,
        leave: float = RETURN_LEAVE,
        least_steps: int = 30,
        seed: int = 0,
    ) -> None:
        if not 1 <= replan_interval <= solver.horizon:
            raise ConfigError(
                f"replan_interval lies between 1 and the horizon of {solver.horizon}; got {replan_interval}."
            )
        if not leave > 0 or least_steps < 0:
            raise ConfigError(f"leave is above 0 and least_steps 0 or more; got {leave} and {least_steps}.")
        self.world, self.solver, self.replan_interval = world, solver, replan_interval
        self.leave, self.least_steps, self.seed = leave, least_steps, seed
        steering, spec = Steering(world.actions), world.actions
        ways = (FORWARD, steering.step), (YAW, steering.turn), (YAW, -steering.turn)
        self._ahead, self._left, self._right = (torch.as_tensor(steering.action(*way)).unsqueeze(0) for way in ways)
        ahead, left, right = spec.nominal_motion(torch.cat([self._ahead, self._left, self._right]))
        self._step = float(ahead[FORWARD])
        if not (self._step > 0 and float(left[YAW]) > 0 > float(right[YAW])):
            raise ConfigError(f"Wandering takes a way forward and turns both ways; got {', '.join(spec.names)}.")

    @torch.no_grad()
    def predict(
        self,
        observation: Mapping[str, Any],
        state: Outing | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Outing]:
        """Look, remember and act, as Stable-Baselines3's models do, in one world or in B.

        Args:
            observation: ``"frame"`` (H, W, 3) or (B, H, W, 3) uint8, and ``"pose"`` (5,) or (B, 5) canonical.
            state: what the last call returned; None before the first frame.
            episode_start: (B,) bool, worlds whose episode begins with this observation: what was before is forgotten.
            deterministic: it has no other way.

        Returns:
            The action, or actions (B, ...), and what is known now.

        Raises:
            ValueError: an observation without a frame or a pose, of another size, or of another number of worlds.
        """
        if not {"frame", "pose"} <= set(observation):
            raise ValueError(f"Coming back needs a frame and its pose; got an observation of {sorted(observation)}.")
        frames, poses = torch.as_tensor(observation["frame"]), torch.as_tensor(observation["pose"])
        single = frames.ndim == 3
        if single:
            frames, poses = frames.unsqueeze(0), poses.unsqueeze(0)
        before = self._begun(frames, poses, state, episode_start)
        seen = self.world.observe(before.world, frames.unsqueeze(1), before.acted.unsqueeze(1), poses.unsqueeze(1))
        steps, last = seen.step.cpu() - 1, before.world.pose.cpu()
        far = (poses - before.start)[:, :2].norm(dim=-1) >= self.leave
        turns_back = (before.turned_back < 0) & far & (steps >= self.least_steps)
        after = replace(before, world=seen, turned_back=torch.where(turns_back, steps, before.turned_back))
        actions, turns = self._wander(after, steps, (poses - last)[:, :2].norm(dim=-1))
        since = steps - after.turned_back
        back = after.turned_back >= 0
        plan = self._think(after, back & (since % self.replan_interval == 0))
        if plan is not None and bool(back.any()):
            rows = back.nonzero().squeeze(1)
            actions[rows] = plan.actions.cpu()[rows, (since % self.replan_interval)[rows]]
        after = replace(after, acted=actions, turns=turns, plan=plan)
        chosen = actions.numpy()
        if not single:
            return chosen, after
        return int(chosen[0]) if self.world.actions.kind == "discrete" else chosen[0], after

    def keep(self, state: Outing, rows: Any) -> Outing:
        """What is known of worlds ``rows`` (M,) alone, which live on as they would have among the others."""
        here = torch.as_tensor(rows)
        there = here.to(self.world.device)
        return Outing(
            world=state.world[there],
            acted=state.acted[here],
            start=state.start[here],
            goal=state.goal[there],
            turns=state.turns[here],
            turned_back=state.turned_back[here],
            plan=None if state.plan is None else state.plan[there],
        )

    def _begun(self, frames: Tensor, poses: Tensor, state: Outing | None, episode_start: Any) -> Outing:
        """``state``, but of worlds whose episode begins with ``frames`` (B, H, W, 3) nothing but that."""
        b = len(frames)
        begun = torch.ones(b, dtype=torch.bool)
        if state is not None:
            told = np.zeros(b, bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
            begun = torch.as_tensor(told)
            if not len(begun) == b == state.world.batch_size:
                raise ValueError(f"Remembered are {state.world.batch_size} worlds; seen are {b}, begun {len(begun)}.")
            if not bool(begun.any()):
                return state
        places = torch.tensor([crc32(pose.tobytes()) for pose in poses.to(torch.float64).numpy()])
        fresh = Outing(
            world=self.world.start(b, hash64(hash64(places) ^ self.seed)),
            acted=torch.zeros_like(self._ahead).repeat_interleave(b, 0),
            start=poses.to(torch.float64),
            goal=GoalFrame.of(self.world, frames).latents,
            turns=torch.zeros(b, dtype=torch.int64),
            turned_back=torch.full((b,), -1),
        )
        if state is None:
            return fresh
        there, plan = begun.to(self.world.device), state.plan
        # The last action stays: what led to a first frame means nothing to a world.
        return replace(
            state,
            world=fresh.world.where(there, state.world),
            start=_where(begun, fresh.start, state.start),
            goal=_where(there, fresh.goal, state.goal),
            turns=_where(begun, fresh.turns, state.turns),
            turned_back=_where(begun, fresh.turned_back, state.turned_back),
            plan=None if plan is None else replace(plan, cost=plan.cost.masked_fill(there, torch.inf)),
        )

    def _wander(self, outing: Outing, steps: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, ...) of the way out, and turns (B,) left after them, where the last step was ``moved`` (B,)."""
        ahead = (outing.acted == self._ahead).reshape(len(steps), -1).all(1)
        blocked = (steps > 0) & ahead & (moved < _BLOCKED * self._step)
        anyway, number, side = uniform(outing.world.seeds.cpu(), steps, (3,), _WALKING).unbind(1)
        drawn = _FEWEST + (number * (_MOST + 1 - _FEWEST)).long()
        begins = (outing.turns == 0) & (blocked | (anyway < _ANYWAY))
        turns = torch.where(begins, torch.where(side < 0.5, drawn, -drawn), outing.turns)
        turning = _where(turns > 0, self._left, self._right)
        return _where(turns == 0, self._ahead, turning), turns - turns.sign()

    def _think(self, outing: Outing, due: Tensor) -> Plan | None:
        """The latest plans, once worlds ``due`` (B,) have been planned for anew."""
        if not bool(due.any()):
            return outing.plan
        rows = due.nonzero().squeeze(1).to(self.world.device)
        known = outing.plan
        previous = None if known is None else known[rows]
        goal = GoalFrame(outing.goal[rows])
        plan = self.solver.plan(self.world, outing.world[rows], goal, previous, self.replan_interval)
        # A search that ends early has a shorter history; it would not fit to that of the others.
        plan = replace(plan, costs_per_iteration=plan.cost.unsqueeze(1))
        if known is None:
            nobody = torch.zeros(len(due), dtype=torch.int64, device=rows.device)
            known = plan[nobody]
            known = replace(known, cost=torch.full_like(known.cost, torch.inf))
        return _each(plan, lambda name, x: getattr(known, name).index_copy(0, rows, x))


def _where(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """World by world, ``chosen`` where ``mask`` (B,) holds and ``other`` elsewhere, each (B, ...) or (1, ...)."""
    return torch.where(mask.view(-1, *[1] * (chosen.ndim - 1)), chosen, other)


def _each(plan: Plan, change: Callable[[str, Tensor], Tensor]) -> Plan:
    """A plan with ``change`` made of every tensor of it, which is told its name."""
    changed: dict[str, Any] = {name: change(name, x) if isinstance(x, Tensor) else x for name, x in vars(plan).items()}
    return Plan(**changed)
