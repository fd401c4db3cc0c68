"""The conditional diffusion transformer, CDiT (WorldPack §4.1, from Navigation World Models).

Target tokens attend to each other and, across, to context tokens that are never updated: cost grows linearly with the
context. Context is modulated by its *own* frame's noise level, not by the target's diffusion time, so its keys and
values are computed once per imagined frame and serve every denoising step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..actions import KEY_CLASSES, MAGNITUDES
from .rotary import frequencies, rotate, rotation, token_positions


@dataclass(frozen=True)
class CDiTConfig:
    """Size of the transformer. Papers: S 12/384/6, B 12/768/12, L 24/1024/16, XL 28/1152/16."""

    depth: int = 6
    """Number of blocks."""
    width: int = 160
    """Token width D."""
    heads: int = 5
    """Attention heads; D / heads must be even."""
    patch: int = 1
    """Side of the square of latents that makes one token."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    context: tuple[int, ...] = (2, 2, 2, 1)
    """One entry per recent frame the model sees, oldest first: the side of the square of tokens packed into one
    (1, 2, 4 are WorldPack's rates 1, 1/4, 1/16)."""

    def __post_init__(self) -> None:
        if not self.context or any(pool not in (1, 2, 4) for pool in self.context):
            raise ConfigError(f"A context is a list of pool sizes 1, 2 or 4, one per frame; got {self.context}.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"Width {self.width} over {self.heads} heads must be an even whole number.")


@dataclass(frozen=True)
class Context:
    """What the target attends to, ready to read: per block, rotated keys and values of all context tokens.

    Attributes:
        keys, values: one (B, M, heads, head_dim) per block.
        mask: (B, 1, 1, M) bool, which tokens exist.
        last: (B, C, h, w), the newest context frame (zeros where there is none).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    last: Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled and shifted by (B, D) each."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


def wave_embedding(value: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (B, width) of numbers (B,) in [0, 1]."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=value.device) / (width // 2))
    angles = 1000 * value.to(torch.float32).unsqueeze(1) * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class LevelEmbedding(nn.Module):
    """Noise level or diffusion time (B,) in [0, 1] to (B, D)."""

    def __init__(self, width: int, waves: int = 128) -> None:
        super().__init__()
        self.waves = waves
        self.mlp = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        embedded: Tensor = self.mlp(wave_embedding(level, self.waves))
        return embedded


class CDiTBlock(nn.Module):
    """Self-attention among target tokens, cross-attention to context, MLP; each gated by adaLN-Zero."""

    def __init__(self, config: CDiTConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.self_qkv = nn.Linear(d, 3 * d)
        self.self_out = nn.Linear(d, d)
        self.cross_q = nn.Linear(d, d)
        self.cross_kv = nn.Linear(d, 2 * d)
        self.cross_out = nn.Linear(d, d)
        self.mlp_in = nn.Linear(d, config.mlp_ratio * d)
        self.mlp_out = nn.Linear(config.mlp_ratio * d, d)
        self.modulation = nn.Linear(d, 9 * d)
        self.context_modulation = nn.Linear(d, 2 * d)
        for layer in (self.modulation, self.context_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Unrotated keys and values (F, N, 2, heads, head_dim) of F frames: tokens (F, N, D), condition (F, D)."""
        shift, scale = self.context_modulation(F.silu(condition)).chunk(2, 1)
        both: Tensor = self.cross_kv(modulate(self.norm(tokens), shift, scale))
        split: Tensor = both.unflatten(-1, (2, self.heads, -1))
        return split

    def forward(self, x: Tensor, condition: Tensor, turn: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Target tokens (B, N, D) after the block; ``turn`` (B, N, head_dim/2), the rest as in `Context`."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = self.modulation(F.silu(condition)).chunk(
            9, 1
        )
        qkv = self.self_qkv(modulate(self.norm(x), shift1, scale1)).unflatten(-1, (3, self.heads, -1))
        q, k = rotate(qkv[:, :, :2], turn).unbind(2)
        x = torch.addcmul(x, gate1.unsqueeze(1), self.self_out(attend(q, k, qkv[:, :, 2])))
        q = self.cross_q(modulate(self.norm(x), shift2, scale2)).unflatten(-1, (self.heads, -1))
        x = torch.addcmul(x, gate2.unsqueeze(1), self.cross_out(attend(rotate(q, turn), keys, values, mask)))
        hidden = F.gelu(self.mlp_in(modulate(self.norm(x), shift3, scale3)))
        return torch.addcmul(x, gate3.unsqueeze(1), self.mlp_out(hidden))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over (B, N, heads, head_dim), with a mask (B, 1, 1, M) of the keys to look at; gives (B, N, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class CDiT(nn.Module):
    """Velocity of the target's latents, given context frames, keys pressed and the camera's motion.

    Args:
        config: size.
        channels: latent channels C.
        grid: latent rows and columns (h, w).
        fov: horizontal field of view in radians.
    """

    rates: Tensor

    def __init__(self, config: CDiTConfig, channels: int, grid: tuple[int, int], fov: float) -> None:
        super().__init__()
        p, d = config.patch, config.width
        if grid[0] % p or grid[1] % p:
            raise ConfigError(f"A latent grid of {grid[0]}x{grid[1]} cannot be cut into patches of {p}x{p}.")
        self.config, self.channels, self.fov = config, channels, fov
        self.tokens = (grid[0] // p, grid[1] // p)
        self.target_in = nn.Linear(2 * channels * p * p, d)
        self.context_in = nn.ModuleDict({"1": nn.Linear(channels * p * p, d)})
        for pool in sorted({*config.context} - {1}):
            self.context_in[str(pool)] = self._pooled_projection(pool)
        self.null_token = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.time = LevelEmbedding(d)
        self.level = LevelEmbedding(d)
        self.keys = nn.Embedding(KEY_CLASSES, d)
        nn.init.normal_(self.keys.weight, std=0.02)
        self.motion = nn.Sequential(nn.Linear(MAGNITUDES, d), nn.SiLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(CDiTBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, channels * p * p)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("rates", frequencies(d // config.heads), persistent=False)

    def _pooled_projection(self, pool: int) -> nn.Linear:
        """An input projection of its own for a packing rate, started as the mean of the base one (WorldPack §4.3)."""
        base = self.context_in["1"]
        assert isinstance(base, nn.Linear)
        p, c = self.config.patch, self.channels
        wide = nn.Linear(c * (p * pool) ** 2, self.config.width)
        with torch.no_grad():
            kernel = base.weight.view(-1, c, 1, p, 1, p).expand(-1, c, pool, p, pool, p) / pool**2
            wide.weight.copy_(kernel.reshape(wide.weight.shape))
            wide.bias.copy_(base.bias)
        return wide

    def patchify(self, latents: Tensor, pool: int = 1) -> Tensor:
        """(B, C, h, w) to tokens (B, N, C·s·s), s = patch · pool; other sides are padded with zeros."""
        side = self.config.patch * pool
        height, width = latents.shape[-2:]
        latents = F.pad(latents, (0, -width % side, 0, -height % side))
        x: Tensor = latents.unflatten(2, (-1, side)).unflatten(4, (-1, side))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """The inverse of `patchify`, for grids of any shape."""
        (rows, columns), p = self.tokens, self.config.patch
        x: Tensor = tokens.unflatten(1, (rows, columns)).unflatten(3, (self.channels, p, p))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def condition(self, time: Tensor, keys: Tensor, magnitudes: Tensor) -> Tensor:
        """(B, D) from diffusion time (B,), key class (B,) and motion magnitudes (B, 13)."""
        embedded: Tensor = self.time(time) + self.keys(keys) + self.motion(magnitudes)
        return embedded

    def context(self, latents: Tensor, level: Tensor, time: Tensor, yaw: Tensor, valid: Tensor) -> Context:
        """Everything about the context that does not change between denoising steps.

        Args:
            latents: (B, K, C, h, w) context frames, newest last.
            level: (B, K) noise in each of them, 0 (clean) … 1.
            time: (B, K) signed offset from the target in steps (the newest is -1).
            yaw: (B, K) their headings in radians.
            valid: (B, K) bool, which of them exist.
        """
        b, pools = valid.shape[0], self.config.context
        groups = [(pool, [i for i, p in enumerate(pools) if p == pool]) for pool in sorted({*pools})]
        tokens, conditions, turns, masks = [self.null_token], [self.level(level.new_zeros(1))], [], []
        for pool, slots in groups:
            tokens.append(self.context_in[str(pool)](self.patchify(latents[:, slots].flatten(0, 1), pool)))
            conditions.append(self.level(level[:, slots].flatten()))
            positions = token_positions(self.tokens, self.fov, time[:, slots], yaw[:, slots], pool)
            turns.append(rotation(positions.flatten(1, 2), self.rates))
            masks.append(valid[:, slots].repeat_interleave(positions.shape[2], 1))
        turn = torch.cat(turns, 1)
        mask = torch.cat([valid.new_ones(b, 1), *masks], 1)[:, None, None, :]
        keys, values = [], []
        for block in self.blocks:
            assert isinstance(block, CDiTBlock)
            null, *both = (block.context(t, c) for t, c in zip(tokens, conditions, strict=True))
            placed = torch.cat([x.unflatten(0, (b, -1)).flatten(1, 2) for x in both], 1)
            keys.append(torch.cat([null[:, :, 0].expand(b, -1, -1, -1), rotate(placed[:, :, 0], turn)], 1))
            values.append(torch.cat([null[:, :, 1].expand(b, -1, -1, -1), placed[:, :, 1]], 1))
        last = torch.where(valid[:, -1, None, None, None], latents[:, -1], torch.zeros_like(latents[:, -1]))
        return Context(tuple(keys), tuple(values), mask, last)

    def forward(
        self, noisy: Tensor, time: Tensor, keys: Tensor, magnitudes: Tensor, yaw: Tensor, context: Context
    ) -> Tensor:
        """Velocity (B, C, h, w).

        Args:
            noisy: (B, C, h, w) target latents at diffusion time ``time``.
            time: (B,) in [0, 1]; 0 is pure noise, 1 is clean.
            keys: (B,) int64 key class of the action that leads to the target.
            magnitudes: (B, 13) motion of the camera that leads to the target.
            yaw: (B,) heading of the target in radians.
            context: from `context`.
        """
        condition = self.condition(time, keys, magnitudes)
        x = self.target_in(self.patchify(torch.cat([noisy, context.last], 1)))
        turn = rotation(token_positions(self.tokens, self.fov, torch.zeros_like(yaw), yaw), self.rates)
        for block, key, value in zip(self.blocks, context.keys, context.values, strict=True):
            x = block(x, condition, turn, key, value, context.mask)
        shift, scale = self.modulation(F.silu(condition)).chunk(2, 1)
        return self.unpatchify(self.out(modulate(self.norm(x), shift, scale)))
