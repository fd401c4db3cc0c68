"""Camera geometry inside attention: PRoPE (WorldPlay §5), and rays of tokens (WorldMem §4).

A camera looks along +z of its own frame, x to the left, y up; a pixel is where the ray (x, y, z) meets the picture at
(f_x x / z, f_y y / z), with ±1 at the picture's edges. Lengths are divided by ``scale`` first, so that matrices stay
near one whatever the world's unit.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..pose import camera_axes
from .rotary import padded


def focal_lengths(fov: float, aspect: float) -> tuple[float, float]:
    """(f_x, f_y) of a camera with square pixels.

    Args:
        fov: horizontal field of view in radians.
        aspect: width of the picture over its height.
    """
    f = 1 / math.tan(fov / 2)
    return f, f * aspect


def projections(poses: Tensor, origin: Tensor, fov: float, aspect: float, scale: float) -> Tensor:
    """P = lift(K) · world2cam, (..., 4, 4) float32, of cameras at ``poses``.

    Attention through `Cameras` depends on P_q P_k⁻¹ alone, which no motion of the whole world changes; so the world's
    origin may be put anywhere, and near the cameras float32 is exact enough.

    Args:
        poses: (..., 5) canonical poses.
        origin: (..., 3), broadcast against them: the point that becomes the origin.
        fov: horizontal field of view in radians.
        aspect: width of the picture over its height.
        scale: world units per unit of the matrices.
    """
    poses = poses.to(torch.float64)
    forward, left, up = camera_axes(poses).unbind(-2)
    axes = torch.stack([left, up, forward], -2)
    place = (poses[..., :3] - origin.to(torch.float64)) / scale
    shift = -(axes @ place.unsqueeze(-1))
    focal = axes.new_tensor([*focal_lengths(fov, aspect), 1.0]).unsqueeze(-1)
    top = torch.cat([focal * axes, focal * shift], -1)
    bottom = axes.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2).to(torch.float32)


def invert_projections(projection: Tensor) -> Tensor:
    """P⁻¹ (..., 4, 4) in closed form: of K·R a scaled rotation, so the inverse is a transpose."""
    linear, shift = projection[..., :3, :3], projection[..., :3, 3:]
    focal = linear.square().sum(-1, keepdim=True)
    inverse = (linear / focal).transpose(-1, -2)
    top = torch.cat([inverse, -(inverse @ shift)], -1)
    return torch.cat([top, projection[..., 3:, :]], -2)


def transform(x: Tensor, matrix: Tensor) -> Tensor:
    """Every 4 neighbouring numbers of x (B, N, heads, head_dim) multiplied by the matrices (B, N, 4, 4)."""
    quads = x.to(torch.float32).unflatten(-1, (-1, 4))
    return torch.einsum("bnij,bnhqj->bnhqi", matrix, quads).flatten(-2).to(x.dtype)


def prope_attention(
    q: Tensor, k: Tensor, v: Tensor, query: Tensor, key: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention through the cameras of its tokens: q' = Pᵀq, k' = P⁻¹k, v' = P⁻¹v, o = Po.

    Args:
        q: (B, N, heads, head_dim), head_dim a multiple of 4.
        k, v: (B, M, heads, head_dim).
        query: (B, N, 4, 4), the camera P of every query token.
        key: (B, M, 4, 4), the camera P of every key token.
        mask: (B, 1, 1, M) bool, the keys to look at.

    Returns:
        (B, N, heads, head_dim).
    """
    seen = invert_projections(key)
    q, k, v = transform(q, query.transpose(-1, -2)), transform(k, seen), transform(v, seen)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return transform(out.transpose(1, 2), query)


@cache
def token_rays(grid: tuple[int, int], fov: float, pool: int = 1, unit: int = 1) -> Tensor:
    """Unit viewing directions (N, 3) in the camera's frame (left, up, forward) of the centres of tokens, row by row.

    Args:
        grid: rows and columns of tokens of an unpooled frame, whose tokens are square.
        fov: horizontal field of view in radians.
        pool: side of the square of tokens that one token stands for.
        unit: the frame is padded at right and below to a multiple of this, and of ``pool``.
    """
    rows, columns = grid
    f_x, f_y = focal_lengths(fov, columns / rows)
    down, across = (padded(side, max(pool, unit)) // pool for side in grid)
    # What is kept outlives the mode it was made in: inference tensors would be of no use to a gradient.
    with torch.inference_mode(False):
        y = 1 - (pool * torch.arange(down, dtype=torch.float64) + pool / 2) * 2 / rows
        x = 1 - (pool * torch.arange(across, dtype=torch.float64) + pool / 2) * 2 / columns
        up, left = torch.meshgrid(y / f_y, x / f_x, indexing="ij")
        rays = torch.stack([left, up, torch.ones_like(up)], -1).flatten(0, 1)
        directions: Tensor = rays / rays.norm(dim=-1, keepdim=True)
    return directions


def plucker_rays(poses: Tensor, viewer: Tensor, rays: Tensor, scale: float) -> Tensor:
    """Plücker coordinates (..., N, 6) float32, moment o × d and direction d, of tokens' rays in a viewer's frame.

    Args:
        poses: (..., 5) canonical poses of the frames the tokens belong to.
        viewer: (..., 5), broadcast against them: the camera whose frame (left, up, forward) they are given in.
        rays: (N, 3) from `token_rays`.
        scale: world units per unit of the moment.
    """

    poses, viewer = poses.to(torch.float64), viewer.to(torch.float64)
    to_viewer = camera_axes(viewer)
    # Forward, left, up until the end: what is turned round in a ring has the same products.
    turn = (camera_axes(poses) @ to_viewer.transpose(-1, -2)).to(torch.float32)
    origin = (to_viewer @ ((poses[..., :3] - viewer[..., :3]) / scale).unsqueeze(-1)).to(torch.float32)
    # Geometry is exact where the rest is computed in half precision.
    with torch.autocast(poses.device.type, enabled=False):
        direction = rays.to(turn).roll(1, -1) @ turn
    moment = torch.linalg.cross(origin.transpose(-1, -2).expand_as(direction), direction)
    return torch.cat([moment[..., 1:], moment[..., :1], direction[..., 1:], direction[..., :1]], -1)
