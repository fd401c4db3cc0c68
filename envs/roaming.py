"""`RoamingExplorer`: walks where it cannot, so that a learned world comes to know what stops a walker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from .explorers import action_spec
from .steering import OTHER_GAITS, WALKING, YAW, Gait, Steering

_HARDLY = 0.5
"""Share of a step: who got no further than that bumped into something."""


class RoamingExplorer:
    """Walks on one way or another, into walls and along them, then turns and walks on; it knows no map.

    Who walks by a map hardly ever touches a wall, and a world that learned from such walks lets its agents walk through
    them.

    Args:
        longest: steps of a walk at most.
        pushes: steps that it goes on against what stopped it, at most.
        other_gaits: share of the walks that go backwards or sideways.
        standing: share of the walks on which it stands still, where an action does nothing.
    """

    name = "roam"

    def __init__(
        self, longest: int = 14, pushes: int = 4, other_gaits: float = 0.35, standing: float = 0.08
    ) -> None:
        self._longest, self._pushes = longest, pushes
        self._other_gaits, self._standing = other_gaits, standing

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        spec = action_spec(env)
        self._steering, self._rng = Steering(spec), rng
        self._gaits = [gait for gait in OTHER_GAITS if self._steering.can(gait)]
        self._still = spec.still
        self._plan = self._live()

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        self._place = np.asarray(info["pose"], dtype=np.float64)[:3]
        return next(self._plan)

    def _live(self) -> Iterator[Any]:
        rng = self._rng
        while True:
            steps = int(rng.integers(1, self._longest + 1))
            if rng.random() < self._standing:
                yield from [self._still] * steps
            else:
                yield from self._walk(self._gait(), steps)
            side = 1 if rng.random() < 0.5 else -1
            half = round(np.pi / self._steering.turn)
            yield from [self._steering.action(YAW, side * self._steering.turn)] * int(rng.integers(0, half + 1))

    def _gait(self) -> Gait:
        if not self._gaits or self._rng.random() >= self._other_gaits:
            return WALKING
        return self._gaits[int(self._rng.integers(len(self._gaits)))]

    def _walk(self, gait: Gait, steps: int) -> Iterator[Any]:
        patience = int(self._rng.integers(1, self._pushes + 1))
        for _ in range(steps):
            before = self._place
            yield self._steering.action(gait.axis, gait.sign * self._steering.step)
            if np.linalg.norm(self._place - before) < _HARDLY * self._steering.step:
                patience -= 1
            if not patience:
                return
