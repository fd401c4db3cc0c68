"""The canonical camera pose, and motion between poses.

A pose is float64 ``[x, y, z, yaw, pitch]``: right-handed, z up, angles in radians, yaw counter-clockwise from
+x, pitch positive up. Lengths are in the real world's own unit (map units in DoomRooms, blocks in Minecraft).
A motion is ``[forward, left, up, yaw, pitch]``: the translation seen from the camera *before* it moved, and the
change of its two angles.

Every function takes tensors with any leading dimensions and keeps their dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSE_DIM = 5
MOTION_DIM = 5


def wrap_angle(angle: Tensor) -> Tensor:
    """Angles in radians brought into [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def forward_vector(pose: Tensor) -> Tensor:
    """Unit viewing direction (..., 3) of poses (..., 5): (cos pitch cos yaw, cos pitch sin yaw, sin pitch)."""
    yaw, pitch = pose[..., 3], pose[..., 4]
    return torch.stack([pitch.cos() * yaw.cos(), pitch.cos() * yaw.sin(), pitch.sin()], -1)


def camera_axes(pose: Tensor) -> Tensor:
    """World-to-camera rotation (..., 3, 3) of poses (..., 5); its rows are the forward, left and up axes.

    This is R of RELIC §3.2, with the camera's axes named as a walker would name them.
    """
    angles = pose[..., 3:]
    (cy, cp), (sy, sp) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    forward = cp * cy, cp * sy, sp
    left = -sy, cy, torch.zeros_like(cy)
    up = -sp * cy, -sp * sy, cp
    axes: Tensor = torch.stack([*forward, *left, *up], -1).unflatten(-1, (3, 3))
    return axes


def motion_between(start: Tensor, end: Tensor) -> Tensor:
    """Motion (..., 5) that leads from pose ``start`` (..., 5) to pose ``end`` (..., 5).

    Translation is ``R_start (p_end - p_start)`` (RELIC §3.2); angles are differences wrapped into [-pi, pi).
    """
    translation = (camera_axes(start) @ (end[..., :3] - start[..., :3]).unsqueeze(-1)).squeeze(-1)
    return torch.cat([translation, wrap_angle(end[..., 3:] - start[..., 3:])], -1)


def move(pose: Tensor, motion: Tensor) -> Tensor:
    """Pose (..., 5) after ``motion`` (..., 5): the inverse of `motion_between`, yaw wrapped."""
    translation = (camera_axes(pose).transpose(-1, -2) @ motion[..., :3].unsqueeze(-1)).squeeze(-1)
    angles = wrap_angle(pose[..., 3:] + motion[..., 3:])
    return torch.cat([pose[..., :3] + translation, angles], -1)


def pose_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (...) in world units and angle (...) in radians between the viewing directions of two poses."""
    distance = (a[..., :3] - b[..., :3]).norm(dim=-1)
    cosine = (forward_vector(a) * forward_vector(b)).sum(-1).clamp(-1, 1)
    return distance, cosine.arccos()
