"""Goals in the real world: a frame and a pose some steps away, reachable, of stated difficulty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..world_models.actions import ActionSpec
from ..world_models.pose import move, pose_distance

Pose = NDArray[np.float64]

Place = Literal["straight", "near", "out-of-view", "behind"]
"""Where goals lie. ``straight``: a free straight line away, ahead or to either side. ``near``: those of them that are
in the picture at the start. ``out-of-view``: those that are not. ``behind``: seen earlier, and now behind walls."""


@dataclass(frozen=True)
class Reached:
    """When a goal counts as reached: near enough, and facing the same way.

    Attributes:
        radius: world units between the two cameras.
        heading: degrees between their viewing directions.
    """

    radius: float = 30.0
    heading: float = 23.0

    def __call__(self, pose: Pose, goal: Pose) -> bool:
        """Whether ``pose`` (5,) counts as being at ``goal`` (5,)."""
        distance, angle = separation(pose, goal)
        return distance <= self.radius and angle <= self.heading


@dataclass(frozen=True)
class Sought:
    """Which goals are drawn.

    Attributes:
        place: where they lie.
        steps: fewest and most steps of the known way.
        reached: when one counts as reached; starts that satisfy it are rejected.
        ago: how many steps before the start they were seen; None for any number.
    """

    place: Place
    steps: tuple[int, int]
    reached: Reached
    ago: int | None = None


@dataclass(frozen=True)
class GoalTask:
    """One problem: what has been seen, where to go, and how hard that is.

    Attributes:
        seed: ``reset`` seed that repeats the start.
        map_seed: the map.
        frames: (K, H, W, 3) uint8 seen before acting; the last is the start.
        actions: (K, ...) the action that led to each.
        poses: (K, 5) float64 canonical.
        goal_frame: (H, W, 3) uint8 seen at the goal.
        goal_pose: (5,) float64.
        route: (n, ...) actions of the known way from start to goal.
        distance: world units between start and goal.
        heading: degrees between their viewing directions.
        bearing: degrees from the viewing direction at the start to the goal's position.
        in_view: whether the goal's position is inside the picture at the start, nothing solid before it.
        place: how it was drawn.
        walk: length of the shortest way on the true map, in world units; the distance, where there is no map.
        unseen: frames since the goal's position was last inside a picture; None where it never was.
        index: which of ``frames`` the goal is; None where it was not seen from there.
    """

    seed: int
    map_seed: int
    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    goal_frame: NDArray[np.uint8]
    goal_pose: Pose
    route: NDArray[Any]
    distance: float
    heading: float
    bearing: float
    in_view: bool
    place: Place = "straight"
    walk: float = math.nan
    unseen: int | None = None
    index: int | None = None

    @property
    def ago(self) -> int | None:
        """Steps since the walker was at the goal; None where it never was."""
        return None if self.index is None else len(self.frames) - 1 - self.index

    @property
    def steps(self) -> int:
        """n, the steps of the known way."""
        return len(self.route)

    def difficulty(self) -> dict[str, Any]:
        """What makes this goal hard, as plain data for a report."""
        return {
            "map_seed": self.map_seed,
            "steps": self.steps,
            "distance": self.distance,
            "heading": self.heading,
            "bearing": self.bearing,
            "in_view": self.in_view,
            "place": self.place,
            "walk": self.walk,
            "unseen": self.unseen,
            "ago": self.ago,
        }

    def begin(self, env: gym.Env[Any, Any]) -> None:
        """Put ``env`` into the state that ``frames`` ends with, by repeating what led there."""
        repeat(env, self.seed, self.map_seed, self.actions)


def repeat(env: gym.Env[Any, Any], seed: int, map_seed: int, actions: NDArray[Any]) -> NDArray[np.uint8]:
    """Reset, and take actions (K, ...) but the first, which led nowhere: the last frame (H, W, 3)."""
    frame, _ = env.reset(seed=seed, options={"map_seed": map_seed})
    for action in actions[1:]:
        frame = env.step(action)[0]
    last: NDArray[np.uint8] = frame
    return last


def separation(pose: Pose, goal: Pose) -> tuple[float, float]:
    """World units and degrees between two poses (5,)."""
    distance, angle = pose_distance(torch.as_tensor(pose), torch.as_tensor(goal))
    return float(distance), float(torch.rad2deg(angle))


def greedy_action(spec: ActionSpec, pose: Pose, goal: Pose) -> Any | None:
    """The action that, on free ground, brings ``pose`` nearest to ``goal``; None when none does.

    Nearness counts steps: distance in step lengths plus angle in step angles. This knows where it is and
    where to go: a reference for planners on free ground. It does not walk round things.
    """
    if spec.kind == "discrete":
        candidates: NDArray[Any] = np.arange(spec.n)
    else:
        axes = np.eye(spec.n, dtype=np.float32)
        candidates = np.concatenate([axes, -axes])
    here, there = torch.as_tensor(pose), torch.as_tensor(goal)
    motions = spec.nominal_motion(torch.as_tensor(candidates)).to(torch.float64)
    arrived = torch.cat([here[None], move(here.expand(len(candidates), -1), motions)])
    distance, angle = pose_distance(arrived, there.expand_as(arrived))
    cost = distance / spec.step_length + angle / spec.step_angle
    best = int(cost[1:].argmin())
    return candidates[best] if bool(cost[1 + best] < cost[0] - 1e-6) else None
