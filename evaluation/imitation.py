"""Two small policies learned from recorded walks: what led from one frame to the next, and what led on towards a later
one. Baselines that see as planners do, and imagine nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..world_models.actions import ActionSpec
from ..world_models.world import World
from .execution import Session, Trace

Kind = Literal["inverse-dynamics", "cloning"]
"""``inverse-dynamics``: the action between two frames that follow each other, asked of the frame now and the goal's.
``cloning``: the action that a walker took now, who stood at the goal some steps later (hindsight)."""


@dataclass(frozen=True)
class ImitationConfig:
    """How a policy is learned."""

    kind: Kind = "inverse-dynamics"
    """See `Kind`."""
    horizon: int = 16
    """H: goals of cloning lie 1 to H steps ahead."""
    frames: int = 20_000
    """Most recorded frames to learn from: those of the first episodes."""
    steps: int = 1500
    """Gradient steps."""
    batch_size: int = 256
    """Pairs a step."""
    width: int = 256
    """Of the two hidden layers."""
    rate: float = 1e-3
    """Of Adam, falling to zero along half a cosine."""
    seed: int = 0
    """Of parameters and pairs."""


class ActionHead(nn.Module):
    """(latents now, latents of the goal, how different they are) -> action.

    Args:
        spec: the actions.
        size: numbers of a frame's latents.
        width: of the hidden layers.
    """

    def __init__(self, spec: ActionSpec, size: int, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.Sequential(
            nn.Linear(2 * size + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, spec.n)
        )

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """Logits (B, K) of keys, or vectors (B, n) in [-1, 1], for latents (B, C, h, w)."""
        now, goal = now.flatten(1), goal.flatten(1)
        apart = (goal - now).square().mean(1, keepdim=True).sqrt()
        out: Tensor = self.layers(torch.cat([now, goal, apart], 1))
        return out if self.spec.kind == "discrete" else out.tanh()

    def loss(self, now: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy of keys, mean squared error of vectors."""
        out = self(now, goal)
        if self.spec.kind == "discrete":
            return nn.functional.cross_entropy(out, actions)
        return nn.functional.mse_loss(out, actions)


@dataclass(frozen=True)
class ImitatingAgent:
    """Does what the head says: keys drawn from its probabilities, vectors as they are.

    Attributes:
        world: encodes frames.
        head: trained.
        name: see `Agent`.
    """

    world: World
    head: ActionHead
    name: str

    def begin(self, group: Sequence[Trace], seeds: Sequence[int]) -> Session:
        """See `Agent.begin`."""
        return _Imitating(self, group, seeds)


class _Imitating:
    def __init__(self, agent: ImitatingAgent, group: Sequence[Trace], seeds: Sequence[int]) -> None:
        self._agent, self._group = agent, group
        self._rngs = [np.random.default_rng([seed, 9]) for seed in seeds]
        with torch.inference_mode():
            self._goals = agent.world.encode(np.stack([trace.task.goal_frame for trace in group]))

    @torch.inference_mode()
    def act(self, rows: Sequence[int]) -> Sequence[Any]:
        world, head = self._agent.world, self._agent.head
        now = world.encode(np.stack([self._group[i].frames[-1] for i in rows]))
        out = head(now, self._goals[list(rows)])
        if head.spec.kind == "box":
            vectors: Sequence[Any] = out.cpu().numpy()
            return vectors
        chances = out.to(torch.float64).softmax(1).cpu().numpy()
        drawn = [self._rngs[i].choice(head.spec.n, p=p / p.sum()) for i, p in zip(rows, chances, strict=True)]
        return [np.int64(action) for action in drawn]
