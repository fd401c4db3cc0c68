"""`World`: what environments, planners and agents may know of a learned world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .actions import ActionSpec
from .state import WorldState


@dataclass(frozen=True)
class ImaginedStep:
    """What one imagined step tells, for B worlds.

    Attributes:
        latents: (B, C, h, w) float32; `World.render` turns them into pictures.
        pose: (B, 5) float64 canonical pose of the imagined frame.
        reward: (B,) float32.
        continues: (B,) float32 in [0, 1], the probability that the episode goes on after this frame.
        uncertainty: (B,) float32 >= 0, larger where the world is less sure.
        retrieved_times: (B, R) int64, when the frames that memory gave were seen or imagined, best first; -1 for none.
        retrieved_poses: (B, R, 5) float64, from where; the imagined frame's own for none.
    """

    latents: Tensor
    pose: Tensor
    reward: Tensor
    continues: Tensor
    uncertainty: Tensor
    retrieved_times: Tensor
    retrieved_poses: Tensor


class World(Protocol):
    """The only door to a learned world. `WorldModel` is one; the exact toy world of the tests is another.

    ``state_seeds`` are int64. Every method is functional: nothing is kept between calls but the state passed in.
    """

    actions: ActionSpec
    frame_size: tuple[int, int]
    """Height and width of a rendered frame, in pixels."""

    @property
    def retrieves(self) -> int:
        """R, frames looked up from memory for every imagined one; 0 without a memory."""

    @property
    def state_size(self) -> int:
        """D, numbers in a state vector; 0 where the world has none."""

    @property
    def device(self) -> torch.device:
        """Where the world computes."""

    def start(self, batch_size: int, seeds: Any = None) -> WorldState:
        """``batch_size`` worlds with an empty memory; ``seeds`` (B,) integers, default 0 … B-1."""

    def observe(self, state: WorldState, frames: Any, actions: Any, poses: Any) -> WorldState:
        """Real experience in.

        Args:
            state: B worlds.
            frames: (B, T, H, W, 3) uint8.
            actions: (B, T, ...) in the world's own action space; action t led to frame t. The very first, on an empty
                memory, is ignored.
            poses: (B, T, 5) float64 canonical.
        """

    def imagine(self, state: WorldState, actions: Any, pose: Any = None) -> tuple[WorldState, ImaginedStep]:
        """One imagined step: actions (B, ...); ``pose`` (B, 5) replaces the predicted pose."""

    def render(self, latents: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) uint8 of latents (B, C, h, w), on the world's device."""

    def remember(self, state: WorldState, frames: Any, poses: Any) -> WorldState:
        """Put real frames (B, T, H, W, 3), seen from ``poses`` (B, T, 5), into memory and stay where one is."""

    def adopt(self, state: WorldState) -> WorldState:
        """``state`` as this world carries it on; refuses, with a ValueError, one that is not this world's."""

    def encode_state(self, state: WorldState) -> Tensor:
        """State vectors (B, D): what B worlds see and remember of their surroundings, how their last step went, and how
        new to them what they could see next would be."""

    def encode(self, frames: Any) -> Tensor:
        """Latents (B, C, h, w) of frames (B, H, W, 3) uint8."""
