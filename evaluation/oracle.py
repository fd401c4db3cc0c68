"""`Guide`: the shortest way on the true map, walked. A reference that knows what no planner is told."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from ..envs.doom_rooms.layout import Layout
from ..envs.steering import Layout as Walkable
from ..envs.steering import Steering, Walk
from ..world_models.actions import ActionSpec
from .goal_geometry import free_line
from .goals import Pose, greedy_action

_STOPPED = 0.25
"""Share of a step below which a walker that meant to move was stopped."""


class Guide:
    """Leads one walker to a pose: along the shortest way on the map, and greedily once nothing is in between.

    Args:
        layout: the true map; None where nothing is in the way.
        spec: the actions.
        goal: (5,) where to.
        rng: chooses ways round what stopped the walker.
    """

    def __init__(self, layout: Layout | None, spec: ActionSpec, goal: Pose, rng: np.random.Generator) -> None:
        self._layout, self._spec, self._goal, self._rng = layout, spec, goal, rng
        self._walk: Walk | None = None
        self._detour = False
        self._before: Pose | None = None
        self._asked = 0.0

    def act(self, pose: Pose) -> Any | None:
        """The next action from ``pose`` (5,); None where no action leads nearer."""
        stopped = self._before is not None and math.dist(pose[:2], self._before[:2]) < _STOPPED * self._asked
        # Greedy steps zigzag, and may hit what stands beside a free line: then the map's way is walked to its end.
        self._detour = self._detour or stopped
        if not self._detour and free_line(self._layout, pose, self._goal, body=True):
            self._walk = None
        elif self._layout is not None and self._walk is None:
            # A map is frozen, and the protocol says no more than that it has those attributes.
            walkable, target = cast(Walkable, self._layout), (float(self._goal[0]), float(self._goal[1]))
            self._walk = Walk(walkable, Steering(self._spec), pose, target)
        action = None if self._walk is None else self._walk.act(pose, stopped, self._rng)
        if action is None:
            self._walk, self._detour = None, False
            action = greedy_action(self._spec, pose, self._goal)
        self._before, self._asked = pose, 0.0 if action is None else self._length(action)
        return action

    def _length(self, action: Any) -> float:
        """World units that ``action`` moves on free ground."""
        table = np.asarray(self._spec.motion)
        motion = table[action] if self._spec.kind == "discrete" else np.asarray(action) @ table
        return float(np.linalg.norm(motion[:3]))
