"""Agents that do not plan: chance, which knows nothing, and the oracle, which knows the true map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..planning.solver import resting
from ..world_models.actions import ActionSpec
from .execution import Session, Trace
from .oracle import Guide


@dataclass(frozen=True)
class RandomAgent:
    """Uniformly random actions.

    Attributes:
        spec: the actions.
        name: see `Agent`.
    """

    spec: ActionSpec
    name: str = "random"

    def begin(self, group: Sequence[Trace], seeds: Sequence[int]) -> Session:
        """See `Agent.begin`."""
        return _Random(self.spec, [np.random.default_rng([seed, 7]) for seed in seeds])


class _Random:
    def __init__(self, spec: ActionSpec, rngs: Sequence[np.random.Generator]) -> None:
        self._spec, self._rngs = spec, rngs

    def act(self, rows: Sequence[int]) -> Sequence[Any]:
        if self._spec.kind == "discrete":
            return [np.int64(self._rngs[i].integers(self._spec.n)) for i in rows]
        return [self._rngs[i].uniform(-1, 1, self._spec.shape).astype(np.float32) for i in rows]


@dataclass(frozen=True)
class OracleAgent:
    """Walks straight to the goal, on the true map and from its true pose: about the best one could do.

    Attributes:
        spec: the actions.
        name: see `Agent`.
    """

    spec: ActionSpec
    name: str = "oracle"

    def begin(self, group: Sequence[Trace], seeds: Sequence[int]) -> Session:
        """See `Agent.begin`."""
        return _Guided(self.spec, group, seeds)


class _Guided:
    def __init__(self, spec: ActionSpec, group: Sequence[Trace], seeds: Sequence[int]) -> None:
        self._group = group
        self._guides = [
            Guide(trace.layout, spec, trace.task.goal_pose, np.random.default_rng([seed, 8]))
            for trace, seed in zip(group, seeds, strict=True)
        ]
        like = torch.zeros(1, dtype=torch.float32 if spec.kind == "box" else torch.int64)
        self._rest = resting(spec, like).numpy()

    def act(self, rows: Sequence[int]) -> Sequence[Any]:
        asked = [self._guides[i].act(self._group[i].poses[-1]) for i in rows]
        return [self._rest if action is None else action for action in asked]
