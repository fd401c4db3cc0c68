"""The conditional diffusion transformer, CDiT (WorldPack §4.1, from Navigation World Models).

Target tokens attend to each other and, across, to context tokens that are never updated: cost grows linearly with the
context. Context is modulated by its *own* frame's noise level, not by the target's diffusion time, so its keys and
values are computed once per imagined frame and serve every denoising step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..actions import KEY_CLASSES, MAGNITUDES
from ..memory.recurrent import ConvLSTM
from .camera import invert_projections, transform
from .placement import CAMERAS, WIDTH, Camera, StateEmbedding, frame_cameras
from .rotary import frequencies, padded, rotate, rotation, token_positions


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
    retrieved: tuple[int, ...] = ()
    """The same for each frame retrieved from memory, best first."""
    rates: tuple[int, ...] = ()
    """Other pool sizes that have an input projection too, so that a world can be used with them."""
    compressed: int = 0
    """Older frames whose keys and values are kept, pooled (RELIC), beyond the recent ones, which are then all whole: a
    multiple of 18. Instead of retrieved frames."""
    recurrent: int = 0
    """Channels of a recurrent memory (ConvLSTM), which the context then holds too; 0 for none."""
    positions: Literal["reframed", "true"] = "reframed"
    """When retrieved frames are said to be: right before the recent ones, in their order (WorldPlay's temporal
    reframing), or when they were."""
    camera: Camera = "none"
    """How cameras enter the cross-attention, see `placement`."""
    memory_attention: Literal["joint", "own"] = "joint"
    """Whether retrieved frames are looked at together with the recent ones, or by a cross-attention of their own, which
    alone is told rays or poses (WorldMem)."""

    def __post_init__(self) -> None:
        if not self.context or any(pool not in (1, 2, 4) for pool in self.pools):
            raise ConfigError(
                "A context is a list of pool sizes 1, 2 or 4, one per frame, of at least one recent frame; got "
                f"{self.context} and {self.retrieved}."
            )
        if self.recurrent < 0:
            raise ConfigError(f"A recurrent memory has at least 0 channels, got {self.recurrent}.")
        if self.positions not in ("reframed", "true") or self.camera not in CAMERAS:
            raise ConfigError(
                f"Positions are 'reframed' or 'true' and camera is one of {', '.join(CAMERAS)}; got "
                f"{self.positions!r} and {self.camera!r}."
            )
        if self.compressed and (self.compressed % 18 or self.retrieved or {*self.context} != {1}):
            raise ConfigError(
                "A compressed cache keeps a multiple of 18 older frames beside whole recent ones, and retrieves none; "
                f"got {self.compressed} beside {self.context} and {self.retrieved}."
            )
        if self.memory_attention not in ("joint", "own") or (self.memory_attention == "own" and self.camera == "prope"):
            raise ConfigError(
                "memory_attention is 'joint' or 'own', and an own one is told rays, poses or nothing; got "
                f"{self.memory_attention!r} with camera {self.camera!r}."
            )
        if self.camera == "prope" and (self.width // self.heads) % 4:
            raise ConfigError(f"PRoPE needs a head width divisible by 4, got {self.width} over {self.heads} heads.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"Width {self.width} over {self.heads} heads must be an even whole number.")


    @property
    def pools(self) -> tuple[int, ...]:
        """The pool sizes that have an input projection."""
        return tuple(sorted({1, *self.context, *self.retrieved, *self.rates}))


@dataclass(frozen=True)
class FrameKeys:
    """Unrotated keys and values of F context frames of B worlds: they depend on these frames alone.

    Attributes:
        blocks: one (B, F, N, 2, heads, head_dim) per block, keys and values of every frame's N tokens.
        pool: side of the square of tokens that one token stands for.
        unit: frames were padded to a multiple of this many tokens.
    """

    blocks: tuple[Tensor, ...]
    pool: int
    unit: int

    def pooled(self, grid: tuple[int, int], pool: int) -> FrameKeys:
        """Whole frames' keys and values averaged over squares of ``pool`` tokens (RELIC), before any rotation.

        Args:
            grid: rows and columns of tokens of a frame; what is beyond them counts for nothing.
            pool: side of the squares.
        """
        if pool == 1:
            return self
        rows, columns = (padded(side, pool) - side for side in grid)

        def mean(x: Tensor) -> Tensor:
            lead, tail = x.shape[:2], x.shape[3:]
            picture = x.flatten(0, 1).flatten(2).unflatten(1, grid).permute(0, 3, 1, 2)
            weight = F.pad(picture.new_ones(1, 1, *grid), (0, columns, 0, rows))
            small = F.avg_pool2d(F.pad(picture, (0, columns, 0, rows)), pool) / F.avg_pool2d(weight, pool)
            pooled: Tensor = small.flatten(2).transpose(1, 2).unflatten(2, tail).unflatten(0, lead)
            return pooled

        return FrameKeys(tuple(mean(x) for x in self.blocks), pool, pool)


@dataclass(frozen=True)
class Part:
    """Context frames that are packed alike, and where they are.

    Attributes:
        seen: F frames of B worlds.
        time: (B, F) signed offset from the target in steps.
        poses: (B, F, 5) float64 canonical.
        valid: (B, F) bool, which of them exist.
        memory: whether memory's own cross-attention reads them.
    """

    seen: FrameKeys
    time: Tensor
    poses: Tensor
    valid: Tensor
    memory: bool = False


@dataclass(frozen=True)
class Context:
    """What the target attends to, ready to read: per block, rotated keys and values of all context tokens.

    Attributes:
        keys, values: one (B, M, heads, head_dim) per block.
        mask: (B, 1, 1, M) bool, which tokens exist.
        last: (B, C, h, w), the newest recent frame (zeros where there is none).
        turn: (B, N, head_dim/2) rotary position of the target's tokens.
        state: (B, N, 64) what is added to the target's queries after a projection, where the camera is embedded.
        seen_keys, seen_values: like keys and values, through PRoPE's cameras; empty without it.
        view: (B, N, 4, 4) the target's camera, for PRoPE.
        memory_keys, memory_values, memory_mask: like the first three, for memory's own cross-attention.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    last: Tensor
    turn: Tensor
    state: Tensor | None = None
    seen_keys: tuple[Tensor, ...] = ()
    seen_values: tuple[Tensor, ...] = ()
    view: Tensor | None = None
    memory_keys: tuple[Tensor, ...] = ()
    memory_values: tuple[Tensor, ...] = ()
    memory_mask: Tensor | None = None


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


class CDiT(nn.Module):
    """Velocity of the target's latents, given context frames, keys pressed and the camera's motion.

    Args:
        config: size.
        channels: latent channels C.
        grid: latent rows and columns (h, w).
        fov: horizontal field of view in radians.
        scale: world units that make one unit of length.
    """

    rates: Tensor

    def __init__(
        self, config: CDiTConfig, channels: int, grid: tuple[int, int], fov: float, scale: float = 1.0
    ) -> None:
        super().__init__()
        p, d = config.patch, config.width
        if grid[0] % p or grid[1] % p:
            raise ConfigError(f"A latent grid of {grid[0]}x{grid[1]} cannot be cut into patches of {p}x{p}.")
        self.config, self.channels, self.fov, self.scale = config, channels, fov, scale
        self.tokens = (grid[0] // p, grid[1] // p)
        self.target_in = nn.Linear(2 * channels * p * p, d)
        self.context_in = nn.ModuleDict({"1": nn.Linear(channels * p * p, d)})
        for pool in config.pools[1:]:
            self.context_in[str(pool)] = self._pooled_projection(pool)
        self.recurrence = self.recurrent_in = None
        if config.recurrent:
            self.recurrence = ConvLSTM(channels, config.recurrent)
            self.recurrent_in = nn.Linear(config.recurrent * p * p, d)
        self.null_token = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.time = LevelEmbedding(d)
        self.level = LevelEmbedding(d)
        self.keys = nn.Embedding(KEY_CLASSES, d)
        nn.init.normal_(self.keys.weight, std=0.02)
        self.motion = nn.Sequential(nn.Linear(MAGNITUDES, d), nn.SiLU(), nn.Linear(d, d))
        self.state = None
        if config.camera in ("rays", "pose"):
            self.state = StateEmbedding(config.camera, self.tokens, fov, scale)
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

    def patchify(self, latents: Tensor, pool: int = 1, unit: int = 1) -> Tensor:
        """(B, C, h, w) to tokens (B, N, C·s·s), s = patch · pool, padded with zeros to multiples of patch · unit."""
        side = self.config.patch * pool
        whole = self.config.patch * max(pool, unit)
        height, width = latents.shape[-2:]
        latents = F.pad(latents, (0, padded(width, whole) - width, 0, padded(height, whole) - height))
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

    def context(
        self,
        latents: Tensor,
        level: Tensor,
        time: Tensor,
        poses: Tensor,
        valid: Tensor,
        target: Tensor,
        others: Sequence[Part] = (),
    ) -> Context:
        """Everything that does not change between denoising steps.

        Args:
            latents: (B, K + R, C, h, w) context frames: K recent ones, newest last, then R retrieved ones, best first.
            level: (B, K + R) noise in each of them, 0 (clean) … 1.
            time: (B, K + R) signed offset from the target in steps (the newest is -1).
            poses: (B, K + R, 5) float64 canonical.
            valid: (B, K + R) bool, which of them exist.
            target: (B, 5) float64 pose of the frame to predict.
            others: what else to look at.
        """
        k, own = len(self.config.context), self.config.memory_attention == "own"
        kinds = [(own and i >= k, p) for i, p in enumerate((*self.config.context, *self.config.retrieved))]
        unit = max(pool for _, pool in kinds)
        parts = []
        for memory, pool in sorted({*kinds}):
            slots = [i for i, kind in enumerate(kinds) if kind == (memory, pool)]
            seen = self.read(latents[:, slots], level[:, slots], pool, unit if pool > 1 else 1, memory)
            parts.append(Part(seen, time[:, slots], poses[:, slots], valid[:, slots], memory))
        newest = k - 1
        last = torch.where(valid[:, newest, None, None, None], latents[:, newest], 0.0)
        return self.place([*parts, *others], last, target)

    def recollect(self, hidden: Tensor, pose: Tensor) -> Part:
        """The recurrent memory's hidden state (B, width, h, w) as context, seen from the newest pose (B, 5)."""
        assert self.recurrent_in is not None
        tokens = self.norm(self.recurrent_in(self.patchify(hidden)))
        condition = self.level(hidden.new_zeros(len(hidden)))
        blocks = (cast(CDiTBlock, block).context(tokens, condition) for block in self.blocks)
        now = torch.full((len(hidden), 1), -1, dtype=torch.int64, device=hidden.device)
        seen = FrameKeys(tuple(x.unsqueeze(1) for x in blocks), 1, 1)
        return Part(seen, now, pose.unsqueeze(1), torch.ones_like(now, dtype=torch.bool))

    def read(
        self, latents: Tensor, level: Tensor, pool: int = 1, unit: int = 1, memory: bool = False
    ) -> FrameKeys:
        """What context frames (B, F, C, h, w) with noise ``level`` (B, F) look like to every block.

        It depends on nothing but these frames, so it can be computed once and kept. ``memory`` asks how they look to
        memory's own cross-attention.
        """
        b = latents.shape[0]
        tokens = self.norm(self.context_in[str(pool)](self.patchify(latents.flatten(0, 1), pool, unit)))
        condition = self.level(level.flatten())
        blocks = (cast(CDiTBlock, block).context(tokens, condition, memory) for block in self.blocks)
        return FrameKeys(tuple(x.unflatten(0, (b, -1)) for x in blocks), pool, unit)

    def place(self, parts: Sequence[Part], last: Tensor, target: Tensor) -> Context:
        """Context frames placed where they stand to the target.

        Args:
            parts: the frames, grouped by how they are packed.
            last: (B, C, h, w) the newest recent frame; zeros where there is none.
            target: (B, 5) float64 pose of the frame to predict.
        """
        config = self.config
        now = torch.zeros_like(target[:, :1], dtype=torch.int64)
        together, apart = ([part for part in parts if part.memory is memory] for memory in (False, True))
        keys, values, mask, unturned = self._lay_out(together, target, memory=False)
        memory_keys: tuple[Tensor, ...] = ()
        memory_values: tuple[Tensor, ...] = ()
        memory_mask: Tensor | None = None
        if config.memory_attention == "own":
            memory_keys, memory_values, memory_mask, _ = self._lay_out(apart, target, memory=True)
        here = token_positions(self.tokens, self.fov, now, target[:, None, 3]).flatten(1, 2)
        view: Tensor | None = None
        seen_keys: tuple[Tensor, ...] = ()
        seen_values: tuple[Tensor, ...] = ()
        if config.camera == "prope":
            # The null token looks where the target looks.
            view = frame_cameras(target[:, None], target[:, :3], self.tokens, self.fov, self.scale)
            cameras = [
                frame_cameras(part.poses, target[:, :3], self.tokens, self.fov, self.scale).repeat_interleave(
                    part.seen.blocks[0].shape[2], 1
                )
                for part in together
            ]
            through = invert_projections(torch.cat([view, *cameras], 1))
            seen_keys = tuple(transform(k, through) for k in unturned)
            seen_values = tuple(transform(v, through) for v in values)
            view = view.expand(-1, here.shape[1], -1, -1)
        return Context(
            keys=keys,
            values=values,
            mask=mask,
            last=last,
            turn=rotation(here, self.rates),
            state=None if self.state is None else self.state(target[:, None], now, target).flatten(1, 2),
            seen_keys=seen_keys,
            seen_values=seen_values,
            view=view,
            memory_keys=memory_keys,
            memory_values=memory_values,
            memory_mask=memory_mask,
        )

    def _lay_out(
        self, parts: Sequence[Part], target: Tensor, memory: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
        """Per block rotated keys and values of ``parts``, a null token first; the mask; the keys unrotated."""
        b = len(target)
        # The null token looks where the target looks, so that nothing depends on the world's axes.
        ahead = torch.cat([target.new_zeros(b, 1, 3), target[:, None, 3:4]], -1).to(torch.float32)
        turns, masks, states = [rotation(ahead, self.rates)], [target.new_ones(b, 1, dtype=torch.bool)], []
        told = self.state is not None and memory == (self.config.memory_attention == "own")
        for part in parts:
            pool, unit = part.seen.pool, part.seen.unit
            positions = token_positions(self.tokens, self.fov, part.time, part.poses[..., 3], pool, unit)
            turns.append(rotation(positions.flatten(1, 2), self.rates))
            masks.append(part.valid.repeat_interleave(positions.shape[2], 1))
            if told and self.state is not None:
                states.append(self.state(part.poses, part.time, target, pool, unit).flatten(1, 2))
        # The null token has no state: zeros, which add nothing.
        turn, state = torch.cat(turns, 1), F.pad(torch.cat(states, 1), (0, 0, 1, 0)) if states else None
        null_token = self.norm(self.null_token)
        level = self.level(turn.real.new_zeros(1))
        keys, values, unturned = [], [], []
        for number, module in enumerate(self.blocks):
            block = cast(CDiTBlock, module)
            null = block.context(null_token, level, memory).expand(b, -1, -1, -1, -1)
            every = torch.cat([null, *(part.seen.blocks[number].flatten(1, 2) for part in parts)], 1)
            k = block.placed_keys(every[:, :, 0], state)
            keys.append(rotate(k, turn))
            values.append(every[:, :, 1])
            unturned.append(k)
        return tuple(keys), tuple(values), torch.cat(masks, 1)[:, None, None, :], tuple(unturned)

    def offsets(self, age: Tensor, valid: Tensor) -> Tensor:
        """When retrieved frames are said to be (B, R), in steps from the target.

        Args:
            age: (B, R) when they were, negative.
            valid: (B, R) which exist.
        """
        if self.config.positions == "true":
            return age
        order = age.masked_fill(~valid, torch.iinfo(age.dtype).min).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(1)
        return -len(self.config.context) - 1 - rank

    def forward(self, noisy: Tensor, time: Tensor, keys: Tensor, magnitudes: Tensor, context: Context) -> Tensor:
        """Velocity (B, C, h, w).

        Args:
            noisy: (B, C, h, w) target latents at diffusion time ``time``.
            time: (B,) in [0, 1]; 0 is pure noise, 1 is clean.
            keys: (B,) int64 key class of the action that leads to the target.
            magnitudes: (B, 13) motion of the camera that leads to the target.
            context: from `context`.
        """
        condition = self.condition(time, keys, magnitudes)
        x = self.target_in(self.patchify(torch.cat([noisy, context.last], 1)))
        for number, block in enumerate(self.blocks):
            x = block(x, condition, context, number)
        shift, scale = self.modulation(F.silu(condition)).chunk(2, 1)
        return self.unpatchify(self.out(modulate(self.norm(x), shift, scale)))
