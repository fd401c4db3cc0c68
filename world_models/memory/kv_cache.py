"""A compressed key-value cache (RELIC): recent frames whole, older ones pooled, each computed once.

What a context frame looks like to the video model depends on that frame alone as long as it is not rotated. So its keys
and values are kept: whole in a rolling window of w frames, then pooled by a fixed schedule in a ring of C older ones.
They are rotated to their place when they are read. Frame t lives in slot t mod w, later in slot t mod C, whose pool
never changes; so shapes are fixed, and worlds at different times share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..pose import POSE_DIM
from ..prediction.context import FrameKeys, Part
from .packing import RELIC_SCHEDULE

PERIOD = len(RELIC_SCHEDULE)


def slot_pools(size: int) -> tuple[int, ...]:
    """The pool of each of ``size`` slots of the ring of older frames."""
    return tuple(RELIC_SCHEDULE[slot % PERIOD] for slot in range(size))


def ring_times(newest: Tensor, size: int) -> Tensor:
    """The times (B, size) of the ``size`` frames up to ``newest`` (B,), each in its slot: time mod size.

    Times below 0 stand for frames that never were.
    """
    slot = torch.arange(size, device=newest.device)
    return newest.unsqueeze(1) - torch.remainder(newest.unsqueeze(1) - slot, size)


@dataclass(frozen=True)
class KeyValueCache:
    """What B worlds' context frames look like to a video model of L blocks.

    Attributes:
        window: (B, w, L, N, 2, heads, head_dim) keys and values of the w newest frames.
        past: the same of older frames by pool, (B, slots of that pool, L, N_pool, 2, heads, head_dim).
        poses: (B, w + C, 5) float64, window first.
        times: (B, w + C) int64, -1 where there is no frame yet.
        grid: rows and columns of tokens of a whole frame.
    """

    window: Tensor
    past: dict[int, Tensor]
    poses: Tensor
    times: Tensor
    grid: tuple[int, int]

    @classmethod
    def empty(cls, like: FrameKeys, window: int, size: int, grid: tuple[int, int]) -> KeyValueCache:
        """Caches that hold nothing, for frames like ``like`` (B worlds, any number of frames, not pooled).

        Args:
            like: gives shapes, device and type.
            window: w >= 1.
            size: C, a multiple of 18, the schedule's period.
            grid: rows and columns of tokens.

        Raises:
            ValueError: sizes that do not fit.
        """
        if window < 1 or size < PERIOD or size % PERIOD:
            raise ValueError(f"A cache has a window of at least 1 frame and a multiple of {PERIOD} older ones; "
                             f"got {window} and {size}.")  # fmt: skip
        b = like.blocks[0].shape[0]

        def room(frames: int, pool: int) -> Tensor:
            one = torch.stack([x[:, :1] for x in like.pooled(grid, pool).blocks], 2)
            return one.new_zeros(b, frames, *one.shape[2:])

        pools = slot_pools(size)
        device = like.blocks[0].device
        return cls(
            window=room(window, 1),
            past={pool: room(pools.count(pool), pool) for pool in sorted({*pools})},
            poses=torch.zeros(b, window + size, POSE_DIM, dtype=torch.float64, device=device),
            times=torch.full((b, window + size), -1, dtype=torch.int64, device=device),
            grid=grid,
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """(w, C)."""
        w = self.window.shape[1]
        return w, self.times.shape[1] - w

    def append(self, seen: FrameKeys, pose: Tensor, time: Tensor) -> KeyValueCache:
        """The caches after one more frame: ``seen`` of one frame, ``pose`` (B, 5), ``time`` (B,) int64 from 0 on."""
        w, size = self.sizes
        b = torch.arange(len(time), device=time.device)
        slot = time % w
        leaving = self.times[b, slot]
        gone = FrameKeys(tuple(self.window[b, slot].unsqueeze(1).unbind(2)), 1, 1)
        old = leaving % size
        poses, times = self.poses.clone(), self.times.clone()
        past = dict(self.past)
        pools = torch.tensor(slot_pools(size), device=time.device)
        for pool in past:
            who = ((leaving >= 0) & (pools[old] == pool)).nonzero()[:, 0]
            if len(who):
                place = (pools == pool).cumsum(0)[old[who]] - 1
                kept = torch.stack([x[who, 0] for x in gone.pooled(self.grid, pool).blocks], 1)
                past[pool] = past[pool].index_put((who, place), kept)
        who = (leaving >= 0).nonzero()[:, 0]
        poses[who, w + old[who]], times[who, w + old[who]] = poses[who, slot[who]], leaving[who]
        poses[b, slot], times[b, slot] = pose.to(torch.float64), time
        window = self.window.index_put((b, slot), torch.stack([x[:, 0] for x in seen.blocks], 1))
        return replace(self, window=window, past=past, poses=poses, times=times)

    def parts(self, now: Tensor) -> list[Part]:
        """The context of frames at times ``now`` (B,): what `CDiT.place` takes."""
        w, size = self.sizes
        pools = slot_pools(size)
        parts = [self._part(self.window, 1, list(range(w)), now)]
        for pool, kept in self.past.items():
            parts.append(self._part(kept, pool, [w + i for i, p in enumerate(pools) if p == pool], now))
        return parts

    def to_tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; all begin with B."""
        return {"window": self.window, "poses": self.poses, "times": self.times} | {
            f"past{pool}": kept for pool, kept in self.past.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> KeyValueCache:
        """Caches from what `to_tensors` gave, of any worlds of that kind."""
        past = {int(name.removeprefix("past")): kept for name, kept in tensors.items() if name.startswith("past")}
        return cls(tensors["window"], past, tensors["poses"], tensors["times"], grid)

    def _part(self, kept: Tensor, pool: int, slots: list[int], now: Tensor) -> Part:
        times = self.times[:, slots]
        valid = times >= 0
        seen = FrameKeys(tuple(kept.unbind(2)), pool, pool)
        return Part(seen, torch.where(valid, times - now.unsqueeze(1), -1), self.poses[:, slots], valid)


def compressed_parts(
    read: Callable[[Tensor, Tensor], FrameKeys], latents: Tensor, level: Tensor, poses: Tensor, offset: Tensor,
    valid: Tensor, window: int, grid: tuple[int, int],
) -> list[Part]:
    """What `KeyValueCache.parts` gives, computed from the frames themselves, as in training.

    Args:
        read: keys and values of whole frames (B, F, C, h, w) with noise (B, F), see `CDiT.read`.
        latents: (B, w + C, C, h, w), each frame in its slot (`ring_times`), the window's first.
        level: (B, w + C) noise in each.
        poses: (B, w + C, 5).
        offset: (B, w + C) int64 from the frame to predict, in steps.
        valid: (B, w + C) bool, which exist.
        window: w.
        grid: rows and columns of tokens.
    """
    pools = (0,) * window + slot_pools(latents.shape[1] - window)
    parts = []
    for pool in sorted({*pools}):
        slots = [i for i, p in enumerate(pools) if p == pool]
        seen = read(latents[:, slots], level[:, slots])
        seen = seen if pool == 0 else seen.pooled(grid, pool)
        parts.append(Part(seen, offset[:, slots], poses[:, slots], valid[:, slots]))
    return parts
