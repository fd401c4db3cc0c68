"""Cells of the table of planning: what one way of acting achieved on goals of one place, episode by episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .execution import Trace
from .metrics import Interval, bootstrap, wilson
from .planning_methods import ImaginationName

_DIFFICULTY = ("known_way", "distance", "walk", "bearing", "unseen", "ago")


@dataclass(frozen=True)
class Row:
    """A way of acting.

    Attributes:
        agent: a baseline or a solver.
        world: name of the world that a solver plans in; None for a baseline.
        imagination: how it imagines there.
    """

    agent: str
    world: str | None = None
    imagination: ImaginationName | None = None

    def __str__(self) -> str:
        return self.agent if self.world is None else f"{self.agent}, {self.imagination}, {self.world}"


@dataclass(frozen=True)
class Episode:
    """What came of one goal, and how hard it was.

    Attributes:
        map_seed: the map.
        reached: within the budget.
        steps: real steps taken.
        known_way: steps of the known way.
        distance: world units from the start.
        walk: world units of the shortest way on the true map.
        bearing: degrees from the viewing direction at the start.
        unseen: frames since the goal's position was last in the picture; None for never.
        ago: steps since the walker was there; None for never.
    """

    map_seed: int
    reached: bool
    steps: int
    known_way: int
    distance: float
    walk: float
    bearing: float
    unseen: int | None
    ago: int | None

    @classmethod
    def of(cls, trace: Trace) -> Episode:
        """What came of an episode."""
        task = trace.task
        return cls(
            task.map_seed, trace.reached, trace.steps, task.steps, task.distance, task.walk, task.bearing, task.unseen,
            task.ago,
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What one row achieved on goals of one place.

    Attributes:
        episodes: in the order of the goals, which is the same for all rows.
        seconds: of planning, for one real step of one episode, episodes planned in batches; 0 for who does not plan.
        model_steps: worlds imagined one step, for one plan.
        draft_steps: worlds imagined one step in state space, to draft one plan.
        candidates: plans tried in each iteration; 0 for who does not plan.
    """

    episodes: tuple[Episode, ...]
    seconds: float = 0.0
    model_steps: float = 0.0
    draft_steps: float = 0.0
    candidates: int = 0

    def success(self) -> Interval:
        """Share of goals reached; Wilson interval."""
        return wilson(sum(e.reached for e in self.episodes), len(self.episodes))

    def steps(self, seed: int) -> Interval:
        """Real steps of the episodes that reached their goal; interval over maps."""
        return bootstrap([e.steps if e.reached else np.nan for e in self.episodes], self._maps, seed=seed)

    def gain(self, other: Cell, seed: int) -> Interval:
        """How much greater the share of goals reached is than that of ``other``, goal by goal; interval over maps."""
        pairs = zip(self.episodes, other.episodes, strict=True)
        return bootstrap([float(a.reached) - float(b.reached) for a, b in pairs], self._maps, seed=seed)

    def difficulty(self, seed: int) -> dict[str, Interval]:
        """How hard the goals were: means over those of which it is known, intervals over maps."""
        columns = {name: [getattr(e, name) for e in self.episodes] for name in _DIFFICULTY}
        known = {name: [np.nan if x is None else x for x in column] for name, column in columns.items()}
        return {name: bootstrap(column, self._maps, seed=seed) for name, column in known.items()}

    @property
    def _maps(self) -> list[int]:
        return [e.map_seed for e in self.episodes]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cell:
        """The inverse of ``asdict``."""
        return cls(**{**data, "episodes": tuple(Episode(**e) for e in data["episodes"])})
