"""Imagining what candidate plans lead to, through the `World` protocol alone."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from .beliefs import Draws
from .rollout_batch import RolloutBatch
from .values import Policy

_FUTURE = 40
"""Futures differ from this bit of the seed on: users' seeds are small numbers, and all of them are hashed."""


@dataclass
class _Level:
    """Distinct futures of one length: their last steps, row by row, and where to find each.

    ``state`` is None once nothing will be imagined from here any more.
    """

    state: WorldState | None
    step: ImaginedStep | None = None
    row_of: dict[int, int] = field(default_factory=dict)


class RolloutTree:
    """Futures of B worlds, imagined once each.

    The noise of a world is a function of its seed and step and not of the plan, so plans that begin alike
    lead to the same states: with discrete actions the tree imagines each distinct beginning once, and
    remembers it for later calls. That is exact, and what a batch of plans costs falls from N·H to the number
    of its new beginnings. Plans of continuous actions share nothing: they are imagined in full and forgotten.

    Where the world draws what it imagines, one future is one draw. With ``futures`` above 1 the plans of a world take
    turns: plan j is imagined in future j mod ``futures``. The first is the one that the state's own seeds give.

    Args:
        world: where to imagine.
        state: B worlds to begin from.
        max_batch: worlds to imagine at a time, which bounds the memory that the model's activations need.
        share: whether plans that begin alike are imagined once; default: where actions are discrete.
        max_bytes: of latents to remember. Past it, beginnings are shared within a call only.
        futures: that differ by chance, for each world.
    """

    def __init__(
        self,
        world: World,
        state: WorldState,
        max_batch: int = 256,
        share: bool | None = None,
        max_bytes: int = 1 << 29,
        futures: int = 1,
    ) -> None:
        self._world = world
        self._max_batch = max_batch
        self._share = world.actions.kind == "discrete" if share is None else share
        self._max_rows = max_bytes // (state.latents[0].numel() * state.latents.element_size())
        self._levels = [_Level(state if futures == 1 else _futures(state, futures))]
        self._batch, self._start, self._futures = state.batch_size, state.pose, futures
        self.model_steps = 0
        """Worlds imagined one step, so far."""
        self.model_calls = 0
        """Calls of `World.imagine`, so far."""

    @torch.no_grad()
    def roll_out(self, actions: Tensor, latents: bool = False, vectors: bool = False) -> RolloutBatch:
        """What plans ``actions`` (B, N, H, ...) lead to; with their latents and their last state vectors if asked for.

        Raises:
            ConfigError: state vectors of a world that has none.
        """
        b, n, horizon = actions.shape[:3]
        rows = self._roots(n)
        stored = sum(len(level.row_of) for level in self._levels)
        remember = self._share and stored + b * n * horizon <= self._max_rows
        if not remember or any(level.state is None for level in self._levels):
            del self._levels[1:]
        steps = []
        for depth in range(horizon):
            rows = self._advance(depth, rows, actions[:, :, depth].flatten(0, 1))
            if depth and not remember:
                self._levels[depth].state = None
            step = self._levels[depth + 1].step
            assert step is not None
            steps.append((step, rows))

        def along(name: str) -> Tensor:
            flat = torch.stack([getattr(step, name)[at] for step, at in steps], 1)
            return flat.view(b, n, *flat.shape[1:])

        return RolloutBatch(
            actions=actions,
            poses=along("pose"),
            reward=along("reward"),
            continues=along("continues"),
            uncertainty=along("uncertainty"),
            latents=along("latents") if latents else None,
            vectors=self._vectors(horizon, rows).unflatten(0, (b, n)) if vectors else None,
            start=self._start,
        )

    @torch.no_grad()
    def follow(self, policy: Policy, horizon: int, n: int, draws: Draws, alike: int = 1) -> Tensor:
        """Plans (B, n, horizon, ...) that a policy makes in its own imagination, each in its future.

        So many ``alike`` in a row begin with the same action; afterwards each draws its own.
        """
        rows = self._roots(n)
        actions: list[Tensor] = []
        spec = self._world.actions
        for depth in range(horizon):
            group = 1 if depth else alike
            uniform = draws.uniform(n // group, spec.n).repeat_interleave(group, 1)
            actions.append(policy.act(self._vectors(depth, rows), uniform.flatten(0, 1)))
            if depth + 1 < horizon:
                rows = self._advance(depth, rows, actions[-1])
        if not self._share:
            del self._levels[1:]
        plans: Tensor = torch.stack(actions, 1).unflatten(0, (self._batch, n))
        return plans

    def future(self, index: int) -> WorldState:
        """The B worlds as future ``index`` begins."""
        state = self._levels[0].state
        assert state is not None
        return state if self._futures == 1 else state[self._roots(self._futures)[index :: self._futures]]

    def _roots(self, n: int) -> Tensor:
        """Rows (B·n,) of depth 0 that n plans of each world begin from."""
        future = torch.arange(n, device=self._start.device) % self._futures
        return (torch.arange(self._batch, device=self._start.device).unsqueeze(1) * self._futures + future).flatten()

    def _vectors(self, depth: int, rows: Tensor) -> Tensor:
        """State vectors (M, D) of rows (M,) at ``depth``."""
        if not self._world.state_size:
            raise ConfigError("This world has no state vectors, which policies and values need; train its state space.")
        state = self._levels[depth].state
        assert state is not None
        return torch.cat([self._world.encode_state(state[part]) for part in rows.split(self._max_batch)])

    def _advance(self, depth: int, parents: Tensor, actions: Tensor) -> Tensor:
        """Rows (M,) at ``depth + 1`` that ``actions`` lead to from rows ``parents`` (M,) at ``depth``."""
        if not self._share:
            self._add(depth, parents, actions)
            return torch.arange(len(parents), device=parents.device)
        known = self._levels[depth + 1].row_of if depth + 1 < len(self._levels) else {}
        keys = (parents * self._world.actions.n + actions).tolist()
        new: list[int] = []
        for position, key in enumerate(keys):
            if key not in known:
                known[key] = len(known)
                new.append(position)
        if new:
            self._add(depth, parents[new], actions[new])
            self._levels[depth + 1].row_of = known
        return torch.tensor([known[key] for key in keys], device=parents.device)

    def _add(self, depth: int, parents: Tensor, actions: Tensor) -> None:
        """Imagine ``actions`` (M, ...) from rows ``parents`` (M,) at ``depth``, as rows one level deeper."""
        state = self._levels[depth].state
        assert state is not None
        for start in range(0, len(parents), self._max_batch):
            chunk = slice(start, start + self._max_batch)
            after, step = self._world.imagine(state[parents[chunk]], actions[chunk])
            self.model_steps += after.batch_size
            self.model_calls += 1
            if depth + 1 == len(self._levels):
                self._levels.append(_Level(after, step))
            else:
                _extend(self._levels[depth + 1], after, step)


def _futures(state: WorldState, n: int) -> WorldState:
    """n·B worlds: what world i may come to lies at ``i·n … i·n + n - 1``, of which the first has its own seed."""
    which = torch.arange(n, device=state.device) << _FUTURE
    return state.fork(n).with_seeds((state.seeds.unsqueeze(1) ^ which).flatten())


def _extend(level: _Level, state: WorldState, step: ImaginedStep) -> None:
    assert level.state is not None and level.step is not None
    level.state = WorldState.cat([level.state, state])
    level.step = ImaginedStep(
        **{f.name: torch.cat([getattr(level.step, f.name), getattr(step, f.name)]) for f in fields(step)}
    )
