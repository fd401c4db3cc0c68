"""Perception in one vector: what is seen now, and what is remembered of the surroundings, as a state s_t.

The first function of the loop, s_t, m_t = D(o_t, m_{t-1}): the memory is the bank, and what it gives is read by
attention, so that gradients reach it. A state is a few tokens laid out like the picture, so that predicting the next
one is mostly a matter of looking at them, and at memory, from another place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..pose import wrap_angle
from ..prediction.block import modulate
from ..prediction.placement import WIDTH, StateEmbedding


@dataclass(frozen=True)
class StateConfig:
    """Size of the state space: what a frame and its memory are summed up in, and what predicts the next."""

    width: int = 64
    """Numbers in each token of a state; their mean is 0 and their variance 1."""
    heads: int = 2
    """Attention heads."""
    rounds: int = 2
    """Blocks of the encoder, and of the predictor."""
    hidden: int = 128
    """Hidden width of what predicts motion, reward and end."""
    members: int = 3
    """Predictors of the next state; where they disagree, the state is uncertain."""
    headings: int = 4
    """Directions, evenly around the walker, that memory is asked about when a state is made."""
    recalled: int = 2
    """Frames that memory gives for each of them, and for every predicted step."""

    def __post_init__(self) -> None:
        counts = (self.width, self.rounds, self.heads, self.hidden, self.members)
        if min(counts) < 1 or min(self.headings, self.recalled) < 0:
            raise ConfigError(f"Sizes of a state space are at least 1, headings and recalled at least 0; got {self}.")
        if self.width % self.heads:
            raise ConfigError(f"The width is a multiple of the heads; got {self.width} over {self.heads}.")


@dataclass(frozen=True)
class Surroundings:
    """F frames of B worlds, and from where they are looked at.

    Attributes:
        latents: (B, F, C, h, w).
        poses: (B, F, 5) canonical.
        age: (B, F) int64, steps ago; 0 for what is seen from ``pose`` right now.
        valid: (B, F) bool.
        pose: (B, 5), of the walker.
    """

    latents: Tensor
    poses: Tensor
    age: Tensor
    valid: Tensor
    pose: Tensor


def state_grid(grid: tuple[int, int]) -> tuple[int, int, int]:
    """Rows and columns of tokens in the states of a latent grid (h, w), and the latents along the side of each."""
    side = max(1, min(grid) // 3)
    return -(-grid[0] // side), -(-grid[1] // side), side


def normed(x: Tensor) -> Tensor:
    """Tokens (..., W) brought to mean 0 and variance 1, so that states neither grow nor shrink over a roll-out."""
    return F.layer_norm(x, x.shape[-1:])


def around(pose: Tensor, headings: int) -> Tensor:
    """Poses (B, headings, 5) at the place of ``pose`` (B, 5), looking evenly around, the first one ahead."""
    turned = pose.unsqueeze(1).repeat(1, headings, 1)
    turned[..., 3] = wrap_angle(turned[..., 3] + 2 * math.pi / headings * torch.arange(headings, device=pose.device))
    return turned


class Sight(nn.Module):
    """Frames as tokens that know the rays they are seen along, in the walker's frame, and how long ago.

    Args:
        config: sizes.
        channels: C of latents.
        grid: rows and columns of latents.
        fov: horizontal field of view in radians.
        scale: world units per unit of the rays' moments.
    """

    def __init__(
        self, config: StateConfig, channels: int, grid: tuple[int, int], fov: float, scale: float
    ) -> None:
        super().__init__()
        rows, columns, side = state_grid(grid)
        self.patches = nn.Conv2d(channels, config.width, side, stride=side)
        self.pad = (0, columns * side - grid[1], 0, rows * side - grid[0])
        self.rays = StateEmbedding("rays", (rows, columns), fov, scale)
        self.place = nn.Linear(WIDTH, config.width)

    def look(self, latents: Tensor) -> Tensor:
        """Tokens (M, N, W) of latents (M, C, h, w), placed nowhere yet."""
        (rows, columns), side = self.rays.grid, self.patches.stride[0]
        whole = F.pad(latents, self.pad) if any(self.pad) else latents
        patches = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
        # The convolution as the product that it is: of so small pictures it takes a third of the time.
        return F.linear(patches.flatten(3).flatten(1, 2), self.patches.weight.flatten(1), self.patches.bias)

    def lay_out(self, tokens: Tensor, poses: Tensor, age: Tensor, pose: Tensor) -> Tensor:
        """Tokens (B, F, N, W) of frames at ``poses`` (B, F, 5), seen ``age`` (B, F) steps ago, from ``pose`` (B, 5)."""
        placed: Tensor = tokens + self.place(self.rays(poses, age, pose))
        return placed

    def forward(self, seen: Surroundings) -> Tensor:
        """Placed tokens (B, F, N, W)."""
        tokens = self.look(seen.latents.flatten(0, 1)).unflatten(0, seen.age.shape)
        return self.lay_out(tokens, seen.poses, seen.age, seen.pose)


class Reading(nn.Module):
    """A block in which tokens look at each other and at frames, under a condition (adaLN, identity at first)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.ask, self.give, self.take = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, frames: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, W) after reading each other and ``frames`` (B, M, W), normed, where ``mask`` (B, 1, 1, N + M)
        holds; the condition (B, W) says how."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, -1)
        own = modulate(self.norm(x), shift1, scale1)
        keys, values = self.give(torch.cat([own, frames], 1)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        queries = self.ask(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(queries, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
        x = torch.addcmul(x, gate1.unsqueeze(1), self.take(seen.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.mlp_in(modulate(self.norm(x), shift2, scale2)))
        return torch.addcmul(x, gate2.unsqueeze(1), self.mlp_out(hidden))


class Reader(nn.Module):
    """Some blocks one after the other, over the same frames."""

    def __init__(self, config: StateConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Reading(config.width, config.heads) for _ in range(config.rounds))

    def forward(self, x: Tensor, frames: Tensor, valid: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, W) after reading frames (B, F, N, W), those that are ``valid`` (B, F)."""
        there = valid.repeat_interleave(frames.shape[2], 1)
        mask = torch.cat([there.new_ones(x.shape[:2]), there], 1)[:, None, None]
        seen, how = normed(frames).flatten(1, 2), F.silu(condition)
        for block in self.blocks:
            x = block(x, seen, mask, how)
        return x


class StateEncoder(nn.Module):
    """Frames seen lately and frames remembered, as one state.

    Nothing depends on where the world's origin is: frames are placed relative to the walker.

    Args:
        config: sizes.
        tokens: N, of a state.
    """

    def __init__(self, config: StateConfig, tokens: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(tokens, config.width) * 0.02)
        self.reader = Reader(config)
        self.condition = nn.Parameter(torch.randn(1, config.width) * 0.02)

    def forward(self, sight: Sight, seen: Surroundings) -> Tensor:
        """States (B, N, W).

        Args:
            sight: makes tokens of frames.
            seen: the recent frames, those of age 0 among them, and those remembered, in any order.
        """
        newest = torch.arange(len(seen.age), device=seen.age.device), (seen.age == 0).to(torch.int64).argmax(1)
        x = sight.look(seen.latents[newest]) + self.place
        condition = self.condition.expand(len(x), -1)
        return normed(self.reader(x, sight(seen), seen.valid, condition))
