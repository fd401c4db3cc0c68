"""What a plan should achieve: costs of imagined roll-outs, to be added and weighted.

    >>> objective = GoalPose(pose) + 0.5 * Uncertainty()

Every objective gives a cost (B, N) for N candidate plans in each of B worlds; less is better. A goal is given
once for all worlds, or once for each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.pose import POSE_DIM, forward_vector
from ..world_models.world import World
from .rollout_batch import RolloutBatch

Along = Literal["reach", "final", "mean"]
"""How the distance to a goal after each step becomes the cost of a plan.

``reach``: the best moment counts, and every step before it costs a little. A plan may pass through the goal,
as only its first actions are carried out before the next one is made; the little cost makes the agent go
there instead of planning to go there later, for ever. ``final``: only the last step counts. ``mean``: all
steps count alike, so that being near soon is worth something even if the goal is beyond the horizon.
"""


class Objective(ABC):
    """A cost of imagined roll-outs. Objectives add (``a + b``) and scale (``0.5 * a``)."""

    @property
    def needs_latents(self) -> bool:
        """Whether `cost` reads ``rollouts.latents``."""
        return False

    @property
    def needs_vectors(self) -> bool:
        """Whether `cost` reads ``rollouts.vectors``."""
        return False

    @abstractmethod
    def cost(self, rollouts: RolloutBatch) -> Tensor:
        """Cost (B, N) of N plans in each of B worlds. NaN counts as worst."""

    def __add__(self, other: Objective) -> Objective:
        return WeightedSum((*_terms(self), *_terms(other)))

    def __mul__(self, weight: float) -> Objective:
        return WeightedSum(tuple((weight * w, term) for w, term in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class WeightedSum(Objective):
    """Several objectives at once: the sum of weight times cost over ``terms``."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def needs_latents(self) -> bool:
        return any(term.needs_latents for _, term in self.terms)

    @property
    def needs_vectors(self) -> bool:
        return any(term.needs_vectors for _, term in self.terms)

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        return torch.stack([weight * term.cost(rollouts) for weight, term in self.terms]).sum(0)


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)


Likeness = Literal["mse", "cosine"]
"""How latents are compared: mean squared difference, or 1 minus the cosine of the angle between them, which does not
care for their size."""


@dataclass(frozen=True)
class GoalPose(Objective):
    """Be at a pose: distance / ``length`` + ``heading`` · angle / ``angle``.

    With ``length`` and ``angle`` of one action (the defaults are DoomRooms'), the cost is about the number of
    actions still to go.

    Attributes:
        pose: (5,) or (B, 5) canonical.
        length: world units that cost 1.
        angle: radians between the viewing directions that cost 1.
        heading: weight of the angle; 0 where only the place matters.
        along: see `Along`.
        time_cost: cost of each step before the best one, for ``along="reach"``. Below 1, or going there does
            not pay.
    """

    pose: Any
    length: float = 25.0
    angle: float = math.pi / 8
    heading: float = 1.0
    along: Along = "reach"
    time_cost: float = 0.5

    def __post_init__(self) -> None:
        check_along(self.along)
        if self.length <= 0 or self.angle <= 0:
            raise ConfigError(f"length and angle are above 0; got {self.length} and {self.angle}.")

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        poses = rollouts.poses
        goal = per_world(self.pose, (POSE_DIM,), poses, "a pose")
        goal = goal.view(-1, 1, 1, POSE_DIM)
        distance = (poses[..., :3] - goal[..., :3]).norm(dim=-1)
        # From sine and cosine: the slope of the cosine alone is infinite where the goal is faced.
        ahead, aim = torch.broadcast_tensors(forward_vector(poses), forward_vector(goal))
        angle = torch.atan2(torch.linalg.cross(ahead, aim).norm(dim=-1), (ahead * aim).sum(-1))
        return along_plan(
            distance / self.length + self.heading * angle / self.angle, self.along, self.time_cost
        )


@dataclass(frozen=True)
class GoalFrame(Objective):
    """See a picture: difference of latents.

    `GoalFrame.of` makes one from a frame.

    Attributes:
        latents: (C, h, w) or (B, C, h, w).
        along: see `Along`.
        time_cost: cost of each step before the best one, for ``along="reach"``.
        likeness: see `Likeness`.
    """

    latents: Tensor
    along: Along = "reach"
    time_cost: float = 0.005
    likeness: Likeness = "mse"

    def __post_init__(self) -> None:
        check_along(self.along)
        if self.likeness not in get_args(Likeness):
            raise ConfigError(f"likeness is one of {', '.join(get_args(Likeness))}; got {self.likeness!r}.")

    @classmethod
    def of(
        cls, world: World, frame: Any, along: Along = "reach", time_cost: float = 0.005, likeness: Likeness = "mse"
    ) -> GoalFrame:
        """The goal of seeing ``frame``: (H, W, 3) uint8 for all worlds, or (B, H, W, 3), one for each.

        Raises:
            ValueError: a frame of another size than the world's.
        """
        tensor = torch.as_tensor(frame)
        if tensor.ndim not in (3, 4) or tuple(tensor.shape[-3:]) != (*world.frame_size, 3):
            raise ValueError(
                f"A goal frame of this world has shape {(*world.frame_size, 3)}, got {tuple(tensor.shape)}."
            )
        with torch.no_grad():
            latents = world.encode(tensor if tensor.ndim == 4 else tensor.unsqueeze(0))
        return cls(latents if tensor.ndim == 4 else latents[0], along, time_cost, likeness)

    @property
    def needs_latents(self) -> bool:
        return True

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        latents = _latents(rollouts)
        goal = per_world(self.latents, tuple(latents.shape[3:]), latents, "latents")
        goal = goal[:, None, None]
        if self.likeness == "mse":
            return along_plan((latents - goal).square().mean((-3, -2, -1)), self.along, self.time_cost)
        cosine = torch.cosine_similarity(latents.flatten(3), goal.flatten(3), dim=-1)
        return along_plan(1 - cosine, self.along, self.time_cost)


@dataclass(frozen=True)
class Reward(Objective):
    """Collect reward: minus the discounted sum of rewards, each weighted by the probability of getting that
    far.

    The reward of a step that ends the episode counts; those after it do not.

    Attributes:
        discount: in (0, 1], per step.
    """

    discount: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount lies in (0, 1]; got {self.discount}.")

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        going_on = torch.cat([torch.ones_like(rollouts.continues[..., :1]), rollouts.continues[..., :-1]], -1)
        steps = torch.arange(rollouts.reward.shape[-1], device=rollouts.reward.device)
        return -(rollouts.reward * going_on.cumprod(-1) * self.discount**steps).sum(-1)


@dataclass(frozen=True)
class Uncertainty(Objective):
    """Stay where the world is sure of itself: mean uncertainty over the plan."""

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        return rollouts.uncertainty.mean(-1)


def along_plan(distance: Tensor, along: Along, time_cost: float = 0.0) -> Tensor:
    """Cost (B, N) of plans that are ``distance`` (B, N, H) from the goal after each step; see `Along`."""
    if along == "final":
        return distance[..., -1]
    if along == "mean":
        return distance.mean(-1)
    steps = torch.arange(distance.shape[-1], device=distance.device)
    return (distance + time_cost * steps).amin(-1)


def check_along(along: str) -> None:
    if along not in get_args(Along):
        raise ConfigError(f"along is one of {', '.join(get_args(Along))}; got {along!r}.")


def _latents(rollouts: RolloutBatch) -> Tensor:
    if rollouts.latents is None:
        raise ValueError("This objective reads latents: roll out with them (needs_latents says so).")
    return rollouts.latents


def per_world(goal: Any, shape: tuple[int, ...], like: Tensor, what: str) -> Tensor:
    """A goal as (1 or B, *shape) with the type and device of ``like`` (B, ...)."""
    tensor = torch.as_tensor(goal).to(like)
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        # Tensors made under inference mode take no part in gradients; copies do.
        tensor = tensor.clone()
    if tuple(tensor.shape) == shape:
        return tensor.unsqueeze(0)
    if tuple(tensor.shape) == (like.shape[0], *shape):
        return tensor
    raise ValueError(
        f"This goal is {what} of shape {shape} for all worlds, or {(like.shape[0], *shape)}, one for each of "
        f"{like.shape[0]}; got {tuple(tensor.shape)}."
    )
