"""How long it takes to decide: what an actor's choices cost in wall time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..agents.trials import Actor, Narrows


class Timed:
    """Another actor, watched with a clock.

    Args:
        actor: who acts.

    Attributes:
        seconds: of every call, for one action: what the call took, divided by the worlds it served.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.seconds: list[float] = []
        if isinstance(actor, Narrows):
            self.keep = actor.keep

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """See `Actor.predict`."""
        began = time.perf_counter()
        result = self._actor.predict(observation, state, episode_start, deterministic)
        self.seconds.append((time.perf_counter() - began) / len(observation["frame"]))
        return result


@dataclass(frozen=True)
class Spread:
    """Median of measurements, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """That of ``numbers``; NaN of none."""
        if not numbers:
            return cls(np.nan, np.nan, np.nan)
        low, median, high = np.quantile(numbers, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2g} ({self.low:.2g} to {self.high:.2g})"
