"""Imagined lives, to look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..envs.contexts import Contexts
from ..world_models.world import World
from .imagined_batch import Acts, ImaginedBatch, roll_out

LIVES = 4
"""Lives in a picture."""


def strips(world: World, lived: ImaginedBatch) -> Tensor:
    """(F · H, (T + 1) · W, 3) uint8: a row of pictures for each of the F lives whose latents were kept."""
    lives, frames = lived.latents.shape[:2]
    pictures = world.render(lived.latents.flatten(0, 1)).unflatten(0, (lives, frames))
    return torch.cat([torch.cat([*row], 1) for row in pictures]).cpu()


@torch.no_grad()
def filmed(world: World, contexts: Contexts, policy: Acts, steps: int) -> Tensor:
    """`strips` of what the policy lives from the first of the recorded starts; the same each time but for the policy.

    Args:
        world: where to imagine.
        contexts: recorded starts, of which the first `LIVES` are lived from.
        policy: chooses actions.
        steps: T, of each life; nothing ends one.
    """
    rows = np.arange(min(LIVES, len(contexts)))
    state = contexts.observed(world, world.start(len(rows)), rows)
    return strips(world, roll_out(world, state, policy, steps, films=len(rows)))
