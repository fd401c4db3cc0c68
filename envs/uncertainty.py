"""How sure a world is of a frame it has just imagined: three answers of different cost."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.memory.retrieval import Nearest
from ..world_models.noise import hash64
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World

Uncertainty = Literal["denoising", "disagreement", "coverage"]
"""``"denoising"``: how far the frame is from the first estimate of its mean, in latent units; free.
``"disagreement"``: spread of the frame over several noise seeds, in latent units; each seed costs a step.
``"coverage"``: how far the nearest pose really seen is, see `coverage`; needs a long-term memory."""

_NEAREST = Nearest()


def disagreement(world: World, state: WorldState, actions: Any, step: ImaginedStep, samples: int) -> Tensor:
    """Spread (B,) float32 of a step's latents over ``samples`` noise seeds: root of their variance over all numbers.

    Args:
        world: what imagined ``step`` from ``state`` by ``actions``.
        state: B worlds before it.
        actions: (B, ...).
        step: the first of the samples; the others arrive at the same pose.
        samples: how many, at least 2.
    """
    n = samples - 1
    others = state.fork(n)
    draws = torch.arange(1, samples, device=state.device).repeat(state.batch_size)
    others = others.with_seeds(hash64(others.seeds ^ hash64(draws)))
    checked = torch.as_tensor(actions, device=state.device).repeat_interleave(n, 0)
    _, drawn = world.imagine(others, checked, step.pose.repeat_interleave(n, 0))
    latents = torch.cat([step.latents.unsqueeze(1), drawn.latents.unflatten(0, (-1, n))], 1)
    return latents.var(1, correction=0).mean((1, 2, 3)).sqrt()


def coverage(state: WorldState, pose: Tensor) -> Tensor:
    """Distance (B,) float32 from ``pose`` (B, 5) to the nearest pose that a frame was really seen from.

    Distances are in units of 80 world units and 45 degrees between the views, together as by `Nearest`; infinite where
    nothing was seen.

    Raises:
        ValueError: the worlds have no long-term memory.
    """
    if state.memory is None:
        raise ValueError("Coverage is known of worlds with a long-term memory; this one has none.")
    slots, exist = state.memory.slots()
    poses, _ = state.memory.arena.read_places(slots)
    seen = exist & ~state.memory.arena.imagined.flatten()[slots]
    distance = (-_NEAREST.score(pose, poses)).sqrt().masked_fill(~seen, torch.inf)
    return torch.nn.functional.pad(distance, (0, 1), value=torch.inf).amin(1).to(torch.float32)


def check_uncertainty(kind: str, samples: int, world: World) -> None:
    """Refuse settings that tell nothing of ``world``.

    Raises:
        ConfigError: an unknown kind, fewer than two samples, or coverage of a world without a long-term memory.
    """
    if kind not in ("denoising", "disagreement", "coverage"):
        raise ConfigError(f"uncertainty is 'denoising', 'disagreement' or 'coverage'; got {kind!r}.")
    if kind == "disagreement" and samples < 2:
        raise ConfigError(f"Disagreement needs at least two samples, got {samples}.")
    if kind == "coverage" and world.start(1).memory is None:
        raise ConfigError("uncertainty='coverage' needs a world with a long-term memory; this one has none.")
