"""What an imagined frame rests on: how far it is from what was really seen, in space and in time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory.retrieval import Nearest
from .perception.state_encoder import around
from .pose import POSE_DIM, move, pose_distance
from .state import WorldState
from .world import ImaginedStep

_NEAREST = Nearest()
_FAR = 10.0
"""Greatest distance told apart from having seen nothing, in the units of `distance_to_seen`."""
CLUES = 11
"""Numbers that `evidence` gives."""
HEADINGS, STROLL = 8, 2
"""Where `novelty_around` looks: so many ways, from here and from so many steps on."""


def distance_to_seen(state: WorldState, pose: Tensor) -> Tensor:
    """Distance (B,) float32 from ``pose`` (B, 5) to the nearest pose that a remembered frame was really seen from.

    Distances are in units of 80 world units and 45 degrees between the views, together as by `Nearest`; infinite where
    nothing was seen.

    Raises:
        ValueError: the worlds have no long-term memory.
    """
    poses, _, imagined, exist = _places(state)
    return _nearest(pose, poses, exist & ~imagined)


def novelty(before: WorldState, pose: Tensor) -> Tensor:
    """How new (B,) float32 in [0, 1] what is seen from ``pose`` (B, 5) is to B worlds that were never there.

    Distance to the nearest pose that memory knows, what was imagined there included, in the units of
    `distance_to_seen`; 1 from 80 world units or 45 degrees on.

    Raises:
        ValueError: the worlds have no long-term memory.
    """
    poses, _, _, exist = _places(before)
    return _nearest(pose, poses, exist).clamp(max=1)


def novelty_around(state: WorldState, step_length: float) -> Tensor:
    """How new (B, 2 · `HEADINGS`) float32 what B worlds could see about them is, see `novelty`: first by turning on the
    spot to each of `HEADINGS` ways, ahead, then on to the left; then by going `STROLL` steps each of these ways.

    All is new to worlds without a long-term memory. No gradients flow.

    Args:
        state: B worlds.
        step_length: of the world's actions, in world units.
    """
    if state.memory is None:
        return torch.ones(state.batch_size, 2 * HEADINGS, device=state.device)
    poses, _, _, exist = _places(state)
    here = around(state.pose.detach(), HEADINGS)
    onward = here.new_zeros(POSE_DIM)
    onward[0] = STROLL * step_length
    views = torch.cat([here, move(here, onward)], 1)
    return _nearest_to_each(views, poses, exist).clamp(max=1)


def evidence(before: WorldState, step: ImaginedStep, step_length: float, step_angle: float) -> Tensor:
    """Clues (B, `CLUES`) float32 to how wrong a step's frames are; all of about the size of 1.

    How unsure the denoising was; how far and how much the camera moved; and, of worlds with a long-term memory, how far
    frames really seen are from here and from where the last frame was imagined, how long ago reality was seen last and
    how much of it there is, and of the frames that memory gave how many there are, how many of them were imagined, how
    near the nearest is and how old they are.

    Args:
        before: B worlds before the step.
        step: what they imagined.
        step_length, step_angle: of the world's actions, in world units and radians.
    """
    moved, turned = pose_distance(step.pose, before.pose)
    clues = [
        step.uncertainty.clamp(min=1e-3).log() + 2,
        moved / step_length,
        turned / step_angle,
    ]
    if before.memory is not None:
        clues += _remembered(before, step)
    numbers = torch.stack([clue.to(torch.float32) for clue in clues], 1)
    return F.pad(numbers, (0, CLUES - numbers.shape[1]))


def _places(state: WorldState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of N remembered frames: poses (B, N, 5), times (B, N), which were imagined (B, N), which exist (B, N)."""
    if state.memory is None:
        raise ValueError("Coverage is known of worlds with a long-term memory; this one has none.")
    slots, exist = state.memory.slots()
    poses, times = state.memory.arena.read_places(slots)
    return poses, times, state.memory.arena.imagined.flatten()[slots], exist


def _remembered(before: WorldState, step: ImaginedStep) -> list[Tensor]:
    poses, times, made_up, exist = _places(before)
    seen = exist & ~made_up
    last_seen = F.pad(times.masked_fill(~seen, -1), (0, 1), value=-1).amax(1)
    there = step.retrieved_times >= 0
    given = there.sum(1).clamp(min=1)
    which = step.retrieved_times.unsqueeze(2) == times.unsqueeze(1)
    imagined = there & (which & (made_up & exist).unsqueeze(1)).any(2)
    ages = (before.step.unsqueeze(1) - step.retrieved_times).clamp(min=0) * there
    nearest = _nearest(step.pose, step.retrieved_poses, there)
    return [
        _near(_nearest(step.pose, poses, seen)),
        _near(_nearest(before.pose, poses, seen)),
        (before.step - last_seen).to(torch.float32).log1p() / 2,
        seen.sum(1).to(torch.float32).log1p() / 4,
        there.to(torch.float32).mean(1) if there.shape[1] else there.new_zeros(len(there), dtype=torch.float32),
        imagined.sum(1) / given,
        _near(nearest),
        ages.to(torch.float32).log1p().sum(1) / (4 * given),
    ]


def _nearest(pose: Tensor, poses: Tensor, there: Tensor) -> Tensor:
    """Distance (B,) float32 from ``pose`` (B, 5) to the nearest of ``poses`` (B, N, 5) that is there, infinite if
    none is."""
    return _nearest_to_each(pose.unsqueeze(1), poses, there).squeeze(1)


def _nearest_to_each(views: Tensor, poses: Tensor, there: Tensor) -> Tensor:
    """`_nearest` (B, Q) of each of ``views`` (B, Q, 5)."""
    distance = (-_NEAREST.score(views, poses.unsqueeze(2))).sqrt().masked_fill(~there.unsqueeze(2), torch.inf)
    return F.pad(distance, (0, 0, 0, 1), value=torch.inf).amin(1).to(torch.float32)


def _near(distance: Tensor) -> Tensor:
    return distance.clamp(max=_FAR).log1p()
