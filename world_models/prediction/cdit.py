"""The conditional diffusion transformer, CDiT (WorldPack §4.1, from Navigation World Models).

Target tokens attend to each other and, across, to context tokens that are never updated: cost grows linearly with the
context. Context is modulated by its *own* frame's noise level, not by the target's diffusion time, so its keys and
values are computed once per imagined frame and serve every denoising step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ..actions import KEY_CLASSES, MAGNITUDES
from ..memory.recurrent import ConvLSTM
from .block import CDiTBlock, LevelEmbedding, modulate
from .camera import invert_projections, transform
from .config import CDiTConfig
from .context import Context, FrameKeys, Part
from .placement import StateEmbedding, frame_cameras
from .rotary import frequencies, padded, rotate, rotation, token_positions


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
        if self.config.positions == "untimed":
            return torch.full_like(age, -len(self.config.context) - 1)
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
