"""Objectives about the way itself: how long it is, and what of it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.pose import POSE_DIM, wrap_angle
from .objectives import Objective
from .rollout_batch import RolloutBatch

_EXACT = "donot_use_mm_for_euclid_dist"


@dataclass(frozen=True)
class PathLength(Objective):
    """Go no further than needed: distance / ``length`` + ``turning`` · angle / ``angle``, summed over the steps.

    Attributes:
        length: world units that cost 1.
        angle: radians of yaw and pitch that cost 1.
        turning: weight of turns; 0 where only the way counts.
    """

    length: float = 25.0
    angle: float = 0.39
    turning: float = 0.0

    def __post_init__(self) -> None:
        if self.length <= 0 or self.angle <= 0:
            raise ConfigError(f"length and angle are above 0; got {self.length} and {self.angle}.")

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        poses = rollouts.poses
        if rollouts.start is None:
            raise ValueError("A way begins somewhere: roll-outs need their start.")
        start = rollouts.start[:, None, None].expand(*poses.shape[:2], 1, POSE_DIM)
        change = torch.cat([start, poses], 2).diff(dim=2)
        cost = change[..., :3].norm(dim=-1) / self.length
        if self.turning:
            cost = cost + self.turning * wrap_angle(change[..., 3:]).norm(dim=-1) / self.angle
        total: Tensor = cost.sum(-1)
        return total


@dataclass(frozen=True)
class Novelty(Objective):
    """See new places: minus the number of steps that end at least ``radius`` from every pose seen before, on the plan
    itself too; those nearer count in part.

    Attributes:
        seen: (S, 5) or (B, S, 5) canonical poses, S of which may be 0; those of `WorldState.memory` or of an episode.
        radius: world units from which a place is wholly new.
    """

    seen: Any
    radius: float = 50.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ConfigError(f"radius is above 0; got {self.radius}.")

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        places = rollouts.poses[..., :3]
        b, n, horizon = places.shape[:3]
        seen = torch.as_tensor(self.seen).to(places)
        if seen.shape[-1:] != (POSE_DIM,) or (seen.ndim != 2 and (seen.ndim != 3 or len(seen) != b)):
            raise ValueError(f"What was seen has shape (S, 5) or ({b}, S, 5); got {tuple(seen.shape)}.")
        seen = seen[..., :3].expand(b, *seen.shape[-2:-1], 3)
        from_seen = torch.cdist(places.flatten(1, 2), seen, compute_mode=_EXACT).unflatten(1, (n, horizon))
        from_plan = torch.cdist(places, places, compute_mode=_EXACT)
        later = torch.ones(horizon, horizon, dtype=torch.bool, device=places.device).triu()
        nearest = torch.cat([from_seen, from_plan.masked_fill(later, torch.inf)], -1).amin(-1)
        return -(nearest / self.radius).clamp(max=1).sum(-1)
