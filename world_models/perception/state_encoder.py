"""Perception in one vector: what is seen now, and what is remembered of the surroundings, as a state s_t.

The first function of the loop, s_t, m_t = D(o_t, m_{t-1}): the memory is the bank, and what it gives is read by
attention, so that gradients reach it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..pose import POSE_DIM, motion_between, wrap_angle
from ..prediction.placement import ages, octaves


@dataclass(frozen=True)
class StateConfig:
    """Size of the state space: a vector that a frame and its memory are summed up in, and what predicts the next."""

    size: int = 256
    """Numbers in a state, D; their mean is 0 and their variance 1."""
    width: int = 128
    """Token width of the encoder."""
    slots: int = 12
    """Tokens that read the frames and make the state."""
    rounds: int = 2
    """Times that they read them."""
    heads: int = 4
    """Attention heads."""
    hidden: int = 384
    """Hidden width of the next-state predictor."""
    members: int = 3
    """Predictors of the next state; where they disagree, the state is uncertain."""
    headings: int = 4
    """Directions, evenly around the walker, that memory is asked about."""
    recalled: int = 2
    """Frames that it gives for each of them."""

    def __post_init__(self) -> None:
        counts = (self.size, self.width, self.slots, self.rounds, self.heads, self.hidden, self.members)
        if min(counts) < 1 or min(self.headings, self.recalled) < 0:
            raise ConfigError(f"Sizes of a state space are at least 1, headings and recalled at least 0; got {self}.")
        if self.width % self.heads:
            raise ConfigError(f"The width is a multiple of the heads; got {self.width} over {self.heads}.")


def normed(x: Tensor) -> Tensor:
    """Numbers (..., D) brought to mean 0 and variance 1, so that states neither grow nor shrink over a roll-out."""
    return F.layer_norm(x, x.shape[-1:])


def around(pose: Tensor, headings: int) -> Tensor:
    """Poses (B, headings, 5) at the place of ``pose`` (B, 5), looking evenly around, the first one ahead."""
    turned = pose.unsqueeze(1).repeat(1, headings, 1)
    turned[..., 3] = wrap_angle(turned[..., 3] + 2 * math.pi / headings * torch.arange(headings, device=pose.device))
    return turned


class _Round(nn.Module):
    """Slots read the frames' tokens, then each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask, self.give, self.take = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mix, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, slots: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Slots (B, S, W) after reading tokens (B, M, W) where ``mask`` (B, M) holds."""
        keys, values = self.give(self.norms[1](tokens)).chunk(2, -1)
        slots = slots + self.take(self._attend(self.ask(self.norms[0](slots)), keys, values, mask[:, None, None]))
        q, k, v = self.mix(self.norms[2](slots)).chunk(3, -1)
        slots = slots + self.mixed(self._attend(q, k, v, None))
        after: Tensor = slots + self.mlp(self.norms[3](slots))
        return after

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class StateEncoder(nn.Module):
    """Frames seen lately and frames remembered, as one state.

    Nothing depends on where the world's origin is: frames are placed relative to the walker.

    Args:
        config: sizes.
        channels: C of latents.
        grid: rows and columns of latents.
        scale: world units per unit of the features.
    """

    def __init__(self, config: StateConfig, channels: int, grid: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.config, self.scale = config, scale
        side = max(1, min(grid) // 3)
        rows, columns = grid[0] // side, grid[1] // side
        self.patches = nn.Conv2d(channels, config.width, side, stride=side)
        self.place = nn.Parameter(torch.randn(rows * columns, config.width) * 0.02)
        self.frame = nn.Sequential(
            nn.Linear(3 * 9 + 4 + 16, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.slots = nn.Parameter(torch.randn(config.slots, config.width) * 0.02)
        self.rounds = nn.ModuleList(_Round(config.width, config.heads) for _ in range(config.rounds))
        # What is seen right now goes in directly too.
        self.now = nn.Conv2d(config.width, config.width // 4, 1)
        self.now_out = nn.Linear(config.width // 4 * rows * columns, config.size)
        self.norm = nn.LayerNorm(config.slots * config.width)
        self.out = nn.Linear(config.slots * config.width, config.size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Tensor, poses: Tensor, age: Tensor, valid: Tensor, pose: Tensor) -> Tensor:
        """States (B, D).

        Args:
            latents: (B, F, C, h, w) frames, the recent ones and those remembered, in any order.
            poses: (B, F, 5) canonical, of each.
            age: (B, F) steps ago that each was seen, 0 for the newest alone.
            valid: (B, F) bool, which of them exist; at least one.
            pose: (B, 5) canonical, of the walker.
        """
        b, f = age.shape
        patches = self.patches(latents.flatten(0, 1))
        pictures = patches.flatten(2).transpose(1, 2).unflatten(0, (b, f))
        relative = motion_between(pose.unsqueeze(1).expand(b, f, POSE_DIM), poses).to(torch.float32)
        turn, tilt = relative[..., 3], poses[..., 4].to(torch.float32)
        where = [octaves(relative[..., :3] / self.scale), turn.cos()[..., None], turn.sin()[..., None]]
        where += [tilt.cos()[..., None], tilt.sin()[..., None], ages(age)]
        tokens = pictures + self.place + self.frame(torch.cat(where, -1)).unsqueeze(2)
        mask = valid.unsqueeze(2).expand(b, f, len(self.place)).flatten(1)
        slots = self.slots.expand(b, -1, -1)
        for reading in self.rounds:
            slots = reading(slots, tokens.flatten(1, 2), mask)
        newest = patches.unflatten(0, (b, f))[torch.arange(b, device=age.device), (age == 0).to(torch.int64).argmax(1)]
        now = self.now_out(F.silu(self.now(newest)).flatten(1))
        return normed(now + self.out(self.norm(slots.flatten(1))))
