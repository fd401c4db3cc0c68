"""How sure a world is of a frame it has just imagined: five answers of different cost."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.evidence import distance_to_seen
from ..world_models.noise import hash64
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from ..world_models.world_model import WorldModel

Uncertainty = Literal["denoising", "disagreement", "coverage", "ensemble", "expected_error"]
"""``"denoising"``: how far the frame is from the first estimate of its mean, in latent units, and in state space how
far the predictors are apart; free.
``"disagreement"``: spread of the frame over several noise seeds, in latent units; each seed costs a step.
``"coverage"``: how far the nearest pose really seen is, see `distance_to_seen`; needs a long-term memory.
``"ensemble"``: standard deviation of the reward over the outcome heads; needs a world with several.
``"expected_error"``: squared error of the latents in units of their variance within a walk, as the world has learned to
foretell it: 1 is no better than the walk's mean frame; needs a world that has."""

MaxUncertainty = float | Literal["calibrated"] | None
"""Where an episode is truncated: past a number, past the threshold calibrated for this world, or never."""


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


def doubt(
    kind: Uncertainty, world: World, before: WorldState, actions: Any, step: ImaginedStep, samples: int
) -> Tensor:
    """Uncertainty (B,) float32 of one kind.

    Args:
        kind: one that `check_uncertainty` allows.
        world: what imagined ``step`` from ``before`` by ``actions``.
        before: B worlds before it.
        actions: (B, ...).
        step: what they imagined.
        samples: noise seeds that ``"disagreement"`` compares.
    """
    if kind == "disagreement":
        return disagreement(world, before, actions, step, samples)
    if kind == "coverage":
        return distance_to_seen(before, step.pose)
    if isinstance(world, WorldModel):
        if kind == "ensemble":
            return world.reward_spread(before, step)
        if kind == "expected_error":
            return world.expected_error(before, step)
    return step.uncertainty


def kinds_of(world: World) -> tuple[Uncertainty, ...]:
    """The kinds of uncertainty that ``world`` can tell."""
    model = world if isinstance(world, WorldModel) else None
    # In state space nothing is drawn by chance, and the heads around the video model judge nothing.
    draws = model is None or model.config.imagination == "video"
    known: dict[Uncertainty, bool] = {
        "denoising": True,
        "disagreement": draws,
        "coverage": world.start(1).memory is not None,
        "ensemble": draws and model is not None and model.config.outcome_members > 1,
        "expected_error": draws and model is not None and model.error_head is not None,
    }
    return tuple(kind for kind, told in known.items() if told)


def check_uncertainty(kind: str, samples: int, world: World) -> None:
    """Refuse settings that tell nothing of ``world``.

    Raises:
        ConfigError: an unknown kind, fewer than two samples, or a kind that this world cannot tell.
    """
    if kind not in get_args(Uncertainty):
        raise ConfigError(f"uncertainty is one of {', '.join(get_args(Uncertainty))}; got {kind!r}.")
    if kind == "disagreement" and samples < 2:
        raise ConfigError(f"Disagreement needs at least two samples, got {samples}.")
    if kind not in kinds_of(world):
        raise ConfigError(f"uncertainty={kind!r} needs a world with {_NEEDED[kind]}; this one has none.")


_NEEDED = {
    "disagreement": "frames drawn by chance, as imagination='video' draws them",
    "coverage": "a long-term memory",
    "ensemble": "several outcome heads (presets train four) and imagination='video'",
    "expected_error": "an error head (train one with --error.steps 2000) and imagination='video'",
}
