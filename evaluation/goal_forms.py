"""How planners are told what to reach: a picture, a pose, a frame they have seen, or nothing but the task's reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..planning import GoalFrame, GoalPicture, GoalPose, Objective, Reward
from ..world_models.world import World
from .goals import GoalTask

Likeness = Literal["mse", "cosine", "pixels"]
"""How pictures are compared: mean squared difference of latents, 1 minus the cosine of their angle, or mean squared
difference of drawn pixels (0 … 1)."""


class GoalForm(ABC):
    """A way to tell a planner its goal."""

    @abstractmethod
    def objective(self, world: World, tasks: Sequence[GoalTask]) -> Objective:
        """The objective of a batch of tasks: one goal for each.

        Raises:
            ConfigError: a task has no goal of this form.
        """


@dataclass(frozen=True)
class AsPicture(GoalForm):
    """Only the picture seen at the goal.

    Attributes:
        likeness: see `Likeness`.
    """

    likeness: Likeness = "mse"

    def objective(self, world: World, tasks: Sequence[GoalTask]) -> Objective:
        return see(world, np.stack([task.goal_frame for task in tasks]), self.likeness)


@dataclass(frozen=True)
class AsPose(GoalForm):
    """Only the pose of the goal: it asks little of a world, as one that knows what its actions mean can plan for it."""

    def objective(self, world: World, tasks: Sequence[GoalTask]) -> Objective:
        return go(world, np.stack([task.goal_pose for task in tasks]))


@dataclass(frozen=True)
class AsRecorded(GoalForm):
    """A frame of what was seen before the start: its latents and its pose.

    Attributes:
        likeness: see `Likeness`.
        ago: which one, in steps before the start; None for the one that each task names by its index.
        pose_weight: of a step of distance, against the difference of pictures.
    """

    likeness: Likeness = "mse"
    ago: int | None = None
    pose_weight: float = 0.1

    def objective(self, world: World, tasks: Sequence[GoalTask]) -> Objective:
        indices = [self._index(task) for task in tasks]
        frames = np.stack([task.frames[i] for task, i in zip(tasks, indices, strict=True)])
        poses = np.stack([task.poses[i] for task, i in zip(tasks, indices, strict=True)])
        return see(world, frames, self.likeness) + self.pose_weight * go(world, poses)

    def _index(self, task: GoalTask) -> int:
        index = task.index if self.ago is None else len(task.frames) - 1 - self.ago
        if index is None or index < 0 or index != task.index:
            raise ConfigError(
                f"A recorded goal is a frame of what was seen before the start; this task's goal is at {task.index}, "
                f"asked for was {'its own' if self.ago is None else index}: take goals that lie behind walls."
            )
        return index


@dataclass(frozen=True)
class AsReward(GoalForm):
    """Nothing: the reward that the world predicts is all there is.

    Attributes:
        discount: see `planning.Reward`.
    """

    discount: float = 0.99

    def objective(self, world: World, tasks: Sequence[GoalTask]) -> Objective:
        return Reward(self.discount)


def see(world: World, frames: NDArray[np.uint8], likeness: Likeness) -> Objective:
    """The objective of seeing ``frames`` (B, H, W, 3)."""
    if likeness == "pixels":
        return GoalPicture(world, frames, squared_difference, along="reach")
    with torch.inference_mode():
        return GoalFrame.of(world, frames, likeness=likeness)


def go(world: World, poses: NDArray[np.float64]) -> Objective:
    """The objective of being at ``poses`` (B, 5); costs count actions."""
    return GoalPose(poses, length=world.actions.step_length, angle=world.actions.step_angle)


def squared_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squared difference (M,) of frames (M, H, W, 3), whose full brightness is 1."""
    difference: NDArray[np.float64] = np.square((a.astype(np.float64) - b) / 255).mean((1, 2, 3))
    return difference
