"""Rotary positions of tokens: when, where in the picture, and in which direction of the world.

A token's coordinates are (time, row, column, azimuth). Rotating queries and keys by them makes attention depend on
differences only (RoPE), so that a frame retrieved from any time can be placed (WorldPack §4.1) and a stored key
depends on nothing but its own frame until it is read. Azimuth is the compass direction a token looks in: pixels that
show the same direction from two headings get equal coordinates. Its frequencies are integers, so a full turn is the
identity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

AXES = 4


def axis_pairs(head_dim: int) -> tuple[int, int, int, int]:
    """How many of the head_dim/2 rotated pairs go to time, row, column and azimuth."""
    pairs = head_dim // 2
    time, place = max(1, pairs // 8), pairs // 4
    return time, place, place, pairs - time - 2 * place


def frequencies(head_dim: int) -> Tensor:
    """(4, head_dim/2) float32: the angular frequency of every pair on every axis, zero off its own axis."""
    table = torch.zeros(AXES, head_dim // 2)
    start = 0
    for axis, count in enumerate(axis_pairs(head_dim)):
        if axis == 3:
            values = torch.logspace(0, math.log10(8), count).round()
        else:
            values = 0.02 ** (torch.arange(count) / max(1, count))
        table[axis, start : start + count] = values
        start += count
    return table


def token_azimuths(columns: int, fov: float) -> Tensor:
    """(columns,) azimuth in radians, counter-clockwise from the camera's axis, of the columns' centres.

    Args:
        columns: tokens across a frame.
        fov: horizontal field of view in radians.
    """
    across = 1 - (2 * torch.arange(columns, dtype=torch.float64) + 1) / columns
    return torch.atan(across * math.tan(fov / 2))


def padded(side: int, unit: int) -> int:
    """The least multiple of ``unit`` that is at least ``side``."""
    return -(-side // unit) * unit


def token_positions(
    grid: tuple[int, int], fov: float, time: Tensor, yaw: Tensor, pool: int = 1, unit: int = 1
) -> Tensor:
    """Coordinates (..., N, 4), float32, of the N tokens of frames, row by row.

    Args:
        grid: rows and columns of tokens in an unpooled frame.
        fov: horizontal field of view in radians.
        time: (...) signed offset of each frame from the target, in steps.
        yaw: (...) heading of each frame in radians.
        pool: side of the square of tokens that one token stands for; it takes the mean of their coordinates.
        unit: frames are padded at right and below to a multiple of this, and of ``pool``.
    """
    rows, columns = (padded(side, max(pool, unit)) // pool for side in grid)
    device = time.device
    centre = (pool - 1) / 2
    row = (pool * torch.arange(rows, device=device) + centre).repeat_interleave(columns)
    column = (pool * torch.arange(columns, device=device) + centre).repeat(rows)
    pad = (0, columns * pool - grid[1])
    azimuth = torch.nn.functional.pad(token_azimuths(grid[1], fov)[None], pad, mode="replicate")[0]
    azimuth = azimuth.unflatten(0, (columns, pool)).mean(1).to(device).repeat(rows)
    shape = (*time.shape, rows * columns)
    return torch.stack(
        [
            time.unsqueeze(-1).to(torch.float32).expand(shape),
            row.expand(shape),
            column.expand(shape),
            torch.remainder(yaw.unsqueeze(-1) + azimuth, 2 * torch.pi).to(torch.float32),
        ],
        -1,
    )


def rotation(positions: Tensor, table: Tensor) -> Tensor:
    """Unit complex numbers (..., N, head_dim/2) for positions (..., N, 4) and `frequencies` (4, head_dim/2)."""
    angles = positions @ table.to(positions.device)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (B, N, ..., head_dim) by ``turn`` (B, N, head_dim/2), the same for all heads."""
    pairs = torch.view_as_complex(x.to(torch.float32).unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turn.view(*turn.shape[:2], *[1] * (x.ndim - 3), turn.shape[-1]))
    return turned.flatten(-2).to(x.dtype)
