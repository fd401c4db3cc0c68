"""Two ways that a step may go: as asked, more or less, or stopped.

Half-way through a wall is nowhere, so that a mean says nothing about steps that walls may stop. What heads say instead
is where each of two ways leads and how likely they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..actions import motion_from_magnitudes

WAYS_OUT = 13
"""Numbers that a head says of two ways: five each, of the last deviation a share each, and a logit."""
BREADTH = 0.1
"""How far off a motion is before it speaks for the other way, in steps and turns."""
_STILL = 0.05
"""Steps and turns that count as no motion at all, and by which two motions asked for may differ and be the same."""
_SELDOM = -3.0
"""Logit of being stopped, untrained."""


def two_ways(out: Tensor, magnitudes: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Motions (B, 2, 5) made minus what was asked for, in steps and turns, and the logarithms (B, 2) of how likely they
    are.

    Where ``out`` is 0, as it is untrained, the first is to go as asked, the second to be stopped; so the two need not
    be told apart, and a wall that is seldom met is still learned as a wall and not as a slight hesitation.

    Args:
        out: (B, `WAYS_OUT`) what a head says.
        magnitudes: (B, 13) of the motion asked for.
        deviation: (B, 5) the last motion minus what was asked for then, in steps and turns.
    """
    # A walker slides on along a wall: of the last deviation some share goes on.
    motions = torch.addcmul(out[:, :10].unflatten(1, (2, 5)), out[:, 10:12, None], deviation.unsqueeze(1))
    goes, stops = motions.unbind(1)
    stops = stops - motion_from_magnitudes(magnitudes)
    stopped = out[:, 12] + _SELDOM
    return torch.stack([goes, stops], 1), F.logsigmoid(torch.stack([-stopped, stopped], 1))


def likelier(motions: Tensor, chances: Tensor) -> Tensor:
    """(B, 5) the likelier of two ways; arguments as `two_ways` gives them."""
    return torch.where((chances[:, 1] > chances[:, 0]).unsqueeze(1), motions[:, 1], motions[:, 0])


def either_way(motions: Tensor, chances: Tensor, made: Tensor) -> Tensor:
    """Surprise (B,) at motions ``made`` (B, 5), where they were expected to be one or other of ``motions`` (B, W, 5)
    with probabilities exp ``chances`` (B, W); times `BREADTH`, so that it compares with an absolute error."""
    expected = made.unsqueeze(1).expand_as(motions)
    off = F.smooth_l1_loss(motions, expected, beta=0.05, reduction="none").sum(-1)
    return -BREADTH * torch.logsumexp(chances - off / BREADTH, 1)


def in_vain(asked: Tensor, made: Tensor) -> Tensor:
    """(...) bool, where something was ``asked`` (..., 5) for and nothing ``made`` (..., 5); both in steps and turns."""
    return (made.abs().amax(-1) < _STILL) & (asked.abs().amax(-1) > 2 * _STILL)


def once_more(asked_before: Tensor, made_before: Tensor, asked: Tensor) -> Tensor:
    """(...) bool, where a step was in vain and the same is asked for again.

    In a world in which nothing changes the same step from the same place comes to the same.

    Args:
        asked_before: (..., 5) the motion asked for last, in steps and turns, like the others.
        made_before: (..., 5) what became of it.
        asked: (..., 5) what is asked for now.
    """
    return in_vain(asked_before, made_before) & ((asked - asked_before).abs().amax(-1) < _STILL)
