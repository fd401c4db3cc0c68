"""The state space of a world: `StateSpace` sums up what is seen and remembered, and steps on from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .memory.bank import Memory
from .memory.recall import Recalled, recall
from .memory.retrieval import Query, Strategy
from .perception.state_encoder import Sight, StateConfig, StateEncoder, Surroundings, around, state_grid
from .prediction.next_state import NextState, NextStateHead
from .state import WorldState

CARRIED = "state"
"""Name under which a `WorldState` carries the vectors, where the world imagines in state space."""
DEVIATION_SCALE, NOVELTY_SCALE = 10.0, 5.0
"""Weights in state vectors of what poses tell, beside what a step changes of what is seen: 14 of 768 numbers."""


class StateSpace(nn.Module):
    """Encoder and predictor.

    Args:
        config: sizes.
        channels: C of latents.
        grid: rows and columns of latents.
        fov: horizontal field of view in radians.
        scale: world units per unit of length inside.
    """

    def __init__(
        self, config: StateConfig, channels: int, grid: tuple[int, int], fov: float, scale: float
    ) -> None:
        super().__init__()
        rows, columns, _ = state_grid(grid)
        self.config, self.size = config, rows * columns * config.width
        self.sight = Sight(config, channels, grid, fov, scale)
        self.encoder = StateEncoder(config, rows * columns)
        self.head = NextStateHead(config, channels, grid)

    def encode(self, seen: Surroundings) -> Tensor:
        """States (B, D) of what is seen and remembered; differentiable in the latents."""
        state: Tensor = self.encoder(self.sight, seen)
        return state.flatten(1)

    def step(
        self, state: Tensor, left: Tensor, magnitudes: Tensor, deviation: Tensor, recalled: Surroundings
    ) -> NextState:
        """One step from states (B, D), see `NextStateHead.forward`; differentiable in all that is not whole."""
        after: NextState = self.head(self.sight, state, left, magnitudes, deviation, recalled)
        return after

    def look_around(self, state: WorldState, strategy: Strategy | None) -> Surroundings:
        """The recent frames of B worlds, and what their memories give of every direction around the walkers.

        Args:
            state: B worlds.
            strategy: how frames are chosen; None for the recent ones alone.
        """
        b, k = state.batch_size, state.latents.shape[1]
        age = torch.arange(k - 1, -1, -1, device=state.device).expand(b, k)
        recent = Surroundings(state.latents, state.poses, age, state.valid, state.pose)
        asked, each = self.config.headings, self.config.recalled
        if strategy is None or state.memory is None or not asked * each:
            return recent
        memory: Memory = state.memory.fork(asked)
        time, seeds = (x.repeat_interleave(asked) for x in (state.step, state.seeds))
        query = Query(around(state.pose, asked).flatten(0, 1), time, seeds, skip=k)
        found = recall(memory, strategy, query, each)

        def joined(own: Tensor, more: Tensor) -> Tensor:
            return torch.cat([own, more.unflatten(0, (b, asked)).flatten(1, 2).to(own.dtype)], 1)

        return Surroundings(
            joined(state.latents, found.latents),
            joined(state.poses, found.poses),
            joined(age, time.unsqueeze(1) - 1 - found.times),
            joined(state.valid, found.valid),
            state.pose,
        )

    def look_ahead(self, state: WorldState, strategy: Strategy | None, arrived: Tensor) -> Surroundings:
        """What the memories of B worlds give of the frame about to be seen at ``arrived`` (B, 5)."""
        query = Query(arrived.detach(), state.step, state.seeds, skip=state.latents.shape[1])
        found = Recalled.nothing(query, (state.latents.shape[2], state.latents.shape[3], state.latents.shape[4]))
        if strategy is not None and state.memory is not None and self.config.recalled:
            found = recall(state.memory, strategy, query, self.config.recalled)
        return Surroundings(found.latents, found.poses, state.step.unsqueeze(1) - found.times, found.valid, arrived)
