"""`FrameStack`: what an agent without a learned world sees of the real one, its last frames."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.pose import motion_between
from ..world_models.state import WorldState


class FrameStack:
    """A `World` that perceives and does not imagine: the state vector is the last K frames as they are.

    State vectors (B, K · 3 · H · W) hold levels 0 … 255, oldest frame first, each as (3, H, W); frames from before an
    episode are black. That is what `VecFrameStack` and `VecTransposeImage` of Stable-Baselines3 make.

    Args:
        frame_size: height and width of a frame, in pixels.
        actions: what the agent can do.
        frames: K.
        device: where to compute.
    """

    retrieves = 0

    def __init__(
        self, frame_size: tuple[int, int], actions: ActionSpec, frames: int = 4, device: torch.device | str = "cpu"
    ) -> None:
        if frames < 1:
            raise ConfigError(f"A stack holds at least one frame; got {frames}.")
        self.frame_size, self.actions, self.frames = frame_size, actions, frames
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def state_size(self) -> int:
        """D, numbers in a state vector."""
        return self.frames * 3 * self.frame_size[0] * self.frame_size[1]

    def start(self, batch_size: int, seeds: Any = None) -> WorldState:
        """``batch_size`` empty stacks."""
        seeds = torch.arange(batch_size) if seeds is None else torch.as_tensor(seeds)
        return WorldState.empty(seeds, self.frames, (3, *self.frame_size), self._device)

    def observe(self, state: WorldState, frames: Any, actions: Any, poses: Any) -> WorldState:
        """Frames (B, T, H, W, 3) uint8 in, with poses (B, T, 5); actions are not looked at.

        Raises:
            ValueError: frames of another size.
        """
        frames = torch.as_tensor(frames, device=self._device)
        poses = torch.as_tensor(poses, dtype=torch.float64, device=self._device)
        if tuple(frames.shape[2:]) != (*self.frame_size, 3) or len(frames) != state.batch_size:
            raise ValueError(
                f"Expected frames {(state.batch_size, 'T', *self.frame_size, 3)}, got {tuple(frames.shape)}."
            )
        for frame, pose in zip(frames.unbind(1), poses.unbind(1), strict=True):
            motion = motion_between(torch.where(state.valid[:, -1:], state.pose, pose), pose)
            state = state.append(self.encode(frame), pose, motion, torch.zeros_like(motion))
        return state

    def encode_state(self, state: WorldState) -> Tensor:
        """State vectors (B, D) float32."""
        return state.latents.flatten(1)

    def encode(self, frames: Any) -> Tensor:
        """(B, 3, H, W) float32 of frames (B, H, W, 3) uint8."""
        return torch.as_tensor(frames, device=self._device).movedim(-1, 1).to(torch.float32)

    def render(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return latents.movedim(1, -1).to(torch.uint8)

    def adopt(self, state: WorldState) -> WorldState:
        """``state``, if it is a stack like this one.

        Raises:
            ValueError: it is not.
        """
        if tuple(state.latents.shape[1:]) != (self.frames, 3, *self.frame_size):
            raise ValueError(f"This is no stack of {self.frames} frames of {self.frame_size} pixels.")
        return state.to(self._device)

    def imagine(self, state: WorldState, actions: Any, pose: Any = None) -> NoReturn:
        """Frames alone imagine nothing.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("An agent that learned from frames alone has no world to imagine in.")

    def remember(self, state: WorldState, frames: Any, poses: Any) -> NoReturn:
        """There is no long-term memory.

        Raises:
            ValueError: always.
        """
        raise ValueError("A stack of frames has no long-term memory.")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs beside the actions."""
        return {"frame_size": list(self.frame_size), "frames": self.frames}

    @classmethod
    def from_json(cls, data: dict[str, Any], actions: ActionSpec, device: torch.device | str = "cpu") -> FrameStack:
        """The inverse of `to_json`."""
        height, width = data["frame_size"]
        return cls((int(height), int(width)), actions, int(data["frames"]), device)
