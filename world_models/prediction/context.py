"""What a frame is predicted from: context frames as the video model reads them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from .rotary import padded


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
