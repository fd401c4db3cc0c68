"""One block of the transformer, and its embeddings of numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .camera import transform
from .config import CDiTConfig
from .context import Context
from .placement import WIDTH
from .rotary import rotate


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
        self.state_q = self.state_k = self.seen_out = None
        if config.camera in ("rays", "pose"):
            self.state_q, self.state_k = nn.Linear(WIDTH, d, bias=False), nn.Linear(WIDTH, d, bias=False)
            nn.init.zeros_(self.state_q.weight)
            nn.init.zeros_(self.state_k.weight)
        elif config.camera == "prope":
            self.seen_out = nn.Linear(d, d, bias=False)
            nn.init.zeros_(self.seen_out.weight)
        self.memory_q = self.memory_kv = self.memory_out = None
        if config.memory_attention == "own":
            self.memory_q, self.memory_kv = nn.Linear(d, d), nn.Linear(d, 2 * d)
            self.memory_out = nn.Linear(d, d, bias=False)
            nn.init.zeros_(self.memory_out.weight)
        for layer in (self.modulation, self.context_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(self, tokens: Tensor, condition: Tensor, memory: bool = False) -> Tensor:
        """Unrotated keys and values (F, N, 2, heads, head_dim) of normalised tokens (F, N, D), condition (F, D).

        ``memory`` asks for those of memory's own cross-attention.
        """
        shift, scale = self.context_modulation(F.silu(condition)).chunk(2, 1)
        project = self.memory_kv if memory and self.memory_kv is not None else self.cross_kv
        both: Tensor = project(modulate(tokens, shift, scale))
        split: Tensor = both.unflatten(-1, (2, self.heads, -1))
        return split

    def placed_queries(self, queries: Tensor, state: Tensor | None) -> Tensor:
        """Queries (B, N, heads, head_dim) with their tokens' state (B, N, 64) added, where there is one."""
        if self.state_q is None or state is None:
            return queries
        added: Tensor = queries + self.state_q(state).unflatten(-1, (self.heads, -1))
        return added

    def placed_keys(self, keys: Tensor, state: Tensor | None) -> Tensor:
        """Keys (B, M, heads, head_dim) with their tokens' state (B, M, 64) added, where there is one."""
        if self.state_k is None or state is None:
            return keys
        added: Tensor = keys + self.state_k(state).unflatten(-1, (self.heads, -1))
        return added

    def forward(self, x: Tensor, condition: Tensor, context: Context, block: int) -> Tensor:
        """Target tokens (B, N, D) after the block, which is number ``block`` of those that ``context`` was made by."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = self.modulation(F.silu(condition)).chunk(
            9, 1
        )
        qkv = self.self_qkv(modulate(self.norm(x), shift1, scale1)).unflatten(-1, (3, self.heads, -1))
        q, k = rotate(qkv[:, :, :2], context.turn).unbind(2)
        x = torch.addcmul(x, gate1.unsqueeze(1), self.self_out(attend(q, k, qkv[:, :, 2])))
        q = self.cross_q(modulate(self.norm(x), shift2, scale2)).unflatten(-1, (self.heads, -1))
        if self.memory_out is None:
            q = self.placed_queries(q, context.state)
        seen = attend(rotate(q, context.turn), context.keys[block], context.values[block], context.mask)
        out = self.cross_out(seen)
        if self.seen_out is not None and context.view is not None:
            across = transform(q, context.view.transpose(-1, -2))
            seen = attend(across, context.seen_keys[block], context.seen_values[block], context.mask)
            seen = transform(seen.unflatten(-1, (self.heads, -1)), context.view).flatten(2)
            out = out + self.seen_out(seen)
        x = torch.addcmul(x, gate2.unsqueeze(1), out)
        if self.memory_q is not None and self.memory_out is not None:
            q = self.memory_q(modulate(self.norm(x), shift2, scale2)).unflatten(-1, (self.heads, -1))
            q = rotate(self.placed_queries(q, context.state), context.turn)
            seen = attend(q, context.memory_keys[block], context.memory_values[block], context.memory_mask)
            x = x + self.memory_out(seen)
        hidden = F.gelu(self.mlp_in(modulate(self.norm(x), shift3, scale3)))
        return torch.addcmul(x, gate3.unsqueeze(1), self.mlp_out(hidden))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over (B, N, heads, head_dim), with a mask (B, 1, 1, M) of the keys to look at; gives (B, N, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
