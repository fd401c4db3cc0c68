"""Where tokens stand to each other: what is added to, or turned in, the cross-attention's queries and keys.

Rotary positions (`rotary`) always place tokens by time, place in the picture and compass direction. Beside them one of:

``"none"``   nothing.
``"rays"``   the ray each token is seen along, in the target camera's frame, and its age (WorldMem): added to Q and K.
``"pose"``   the absolute pose of each token's frame (RELIC): added to Q and K.
``"prope"``  the camera itself, as a projective transformation of a second attention branch (WorldPlay's PRoPE).

All begin as if absent: what they feed into is zero at first.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .camera import plucker_rays, projections, token_rays

Camera = Literal["none", "rays", "pose", "prope"]
CAMERAS: tuple[Camera, ...] = ("none", "rays", "pose", "prope")
WIDTH = 64
_OCTAVES = 4
_AGES = 8


def octaves(x: Tensor) -> Tensor:
    """(..., n) to (..., 9 n): the numbers, and their sines and cosines at 1, 2, 4 and 8 times the rate."""
    waves = (x.unsqueeze(-1) * 2.0 ** torch.arange(_OCTAVES, device=x.device)).flatten(-2)
    return torch.cat([x, waves.sin(), waves.cos()], -1)


def ages(time: Tensor) -> Tensor:
    """Sinusoids (..., 16) of the logarithm of how long ago frames were seen, from signed offsets (...) in steps."""
    rates = math.pi * 0.25 ** (torch.arange(_AGES, device=time.device) / 2)
    angles = 2 * time.to(torch.float32).abs().log1p().unsqueeze(-1) * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


class StateEmbedding(nn.Module):
    """What a token's frame was: rays and age, or pose, as (..., N, 64) features.

    Args:
        kind: ``"rays"`` or ``"pose"``.
        grid: rows and columns of tokens of an unpooled frame.
        fov: horizontal field of view in radians.
        scale: world units per unit of the features.
    """

    def __init__(self, kind: Camera, grid: tuple[int, int], fov: float, scale: float) -> None:
        super().__init__()
        self.kind, self.grid, self.fov, self.scale = kind, grid, fov, scale
        inputs = 6 * (2 * _OCTAVES + 1) + 2 * _AGES if kind == "rays" else 3 * (2 * _OCTAVES + 1) + 4
        self.mlp = nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())

    def forward(self, poses: Tensor, time: Tensor, target: Tensor, pool: int = 1, unit: int = 1) -> Tensor:
        """Features (B, F, N, 64) of the tokens of frames.

        Args:
            poses: (B, F, 5) canonical.
            time: (B, F) signed offset from the target in steps.
            target: (B, 5) pose of the frame to predict.
            pool, unit: see `token_rays`.
        """
        rays = token_rays(self.grid, self.fov, pool, unit).to(poses.device)
        if self.kind == "rays":
            lines = plucker_rays(poses, target.unsqueeze(1), rays, self.scale)
            age = ages(time).unsqueeze(-2).expand(*lines.shape[:-1], -1)
            features = torch.cat([octaves(lines), age], -1)
        else:
            yaw, pitch = poses[..., 3], poses[..., 4]
            place = octaves(poses[..., :3] / self.scale)
            turn = torch.stack([yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()], -1)
            one = torch.cat([place, turn], -1).to(torch.float32)
            features = one.unsqueeze(-2)
        embedded: Tensor = self.mlp(features)
        return embedded.expand(*embedded.shape[:2], len(rays), -1)


def frame_cameras(poses: Tensor, origin: Tensor, grid: tuple[int, int], fov: float, scale: float) -> Tensor:
    """PRoPE's matrices (B, F, 4, 4) of frames at ``poses`` (B, F, 5), about ``origin`` (B, 3)."""
    return projections(poses, origin.unsqueeze(1), fov, grid[1] / grid[0], scale)
