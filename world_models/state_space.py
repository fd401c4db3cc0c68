"""The state space of a world: `StateSpace` sums up what is seen and remembered, and steps on from there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .memory.bank import Memory
from .memory.recall import recall
from .memory.retrieval import Query, Strategy
from .perception.state_encoder import StateConfig, StateEncoder, around
from .prediction.next_state import NextState, NextStateHead
from .state import WorldState

CARRIED = "state"
"""Name under which a `WorldState` carries the vectors, where the world imagines in state space."""


@dataclass(frozen=True)
class Surroundings:
    """F frames of B worlds to make a state of.

    Attributes:
        latents: (B, F, C, h, w).
        poses: (B, F, 5) canonical.
        age: (B, F) int64, steps ago; 0 for the newest.
        valid: (B, F) bool.
        pose: (B, 5), of the walker.
    """

    latents: Tensor
    poses: Tensor
    age: Tensor
    valid: Tensor
    pose: Tensor


class StateSpace(nn.Module):
    """Encoder and predictor.

    Args:
        config: sizes.
        channels: C of latents.
        grid: rows and columns of latents.
        scale: world units per unit of length inside the encoder.
    """

    def __init__(self, config: StateConfig, channels: int, grid: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.config = config
        self.encoder = StateEncoder(config, channels, grid, scale)
        self.head = NextStateHead(config, channels, grid)

    def encode(self, seen: Surroundings) -> Tensor:
        """States (B, D) of what is seen and remembered; differentiable in the latents."""
        state: Tensor = self.encoder(seen.latents, seen.poses, seen.age, seen.valid, seen.pose)
        return state

    def step(self, state: Tensor, magnitudes: Tensor, deviation: Tensor) -> NextState:
        """One step from states (B, D), see `NextStateHead.forward`; differentiable in all three."""
        after: NextState = self.head(state, magnitudes, deviation)
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
