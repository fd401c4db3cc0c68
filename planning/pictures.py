"""`GoalPicture`: look like a picture, as a measure of likeness sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..world_models.world import World
from .objectives import Along, Objective, along_plan, check_along, per_world
from .rollout_batch import RolloutBatch

Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any]
"""(imagined, goal), both uint8 (M, H, W, 3) -> (M,), less for what is more alike."""


@dataclass(frozen=True)
class GoalPicture(Objective):
    """See a picture, in pixels: every imagined frame that counts is drawn and compared with it.

    Example:
        >>> lpips = worldloop.evaluation.perceptual.load_lpips()        # Unavailable without its weights
        >>> objective = GoalPicture(world, goal_frame, lpips.of)

    Attributes:
        world: draws.
        frame: (H, W, 3) uint8 for all worlds, or (B, H, W, 3), one for each.
        distance: see `Distance`.
        along: see `Along`; ``final`` draws only the last frame.
        time_cost: cost of each step before the best one, for ``along="reach"``.
        max_batch: frames to draw and compare at a time.

    Raises:
        ConfigError: a frame of another size than the world's.
    """

    world: World
    frame: Any
    distance: Distance
    along: Along = "final"
    time_cost: float = 0.005
    max_batch: int = 256

    def __post_init__(self) -> None:
        check_along(self.along)
        shape = tuple(np.shape(self.frame))
        if len(shape) not in (3, 4) or shape[-3:] != (*self.world.frame_size, 3):
            raise ConfigError(f"A goal frame of this world has shape {(*self.world.frame_size, 3)}, got {shape}.")

    @property
    def needs_latents(self) -> bool:
        return True

    def cost(self, rollouts: RolloutBatch) -> Tensor:
        if rollouts.latents is None:
            raise ValueError("This objective reads latents: roll out with them (needs_latents says so).")
        latents = rollouts.latents[:, :, -1:] if self.along == "final" else rollouts.latents
        b, n, steps = latents.shape[:3]
        goal = per_world(self.frame, (*self.world.frame_size, 3), torch.zeros(b, dtype=torch.uint8), "a frame")
        frames = goal.expand(b, *goal.shape[1:]).repeat_interleave(n * steps, 0).numpy()
        flat, away = latents.flatten(0, 2), []
        for begin in range(0, len(flat), self.max_batch):
            drawn = self.world.render(flat[begin : begin + self.max_batch]).cpu().numpy()
            away.append(np.asarray(self.distance(drawn, frames[begin : begin + self.max_batch]), np.float64))
        distance = torch.from_numpy(np.concatenate(away)).to(latents.device).view(b, n, steps)
        return along_plan(distance, self.along, self.time_cost)
