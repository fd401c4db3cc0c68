"""What a memory gives for the frame about to be predicted: the frames a strategy chose, read from the bank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bank import Memory
from .pose_index import Bounded, PoseIndex, retrieve_indexed
from .retrieval import Nearest, Query, Remembered, Strategy, WorldPack, retrieve

TREE_FROM = 4096
"""Frames of a shared past from which it is searched by a tree."""
KEPT_TREES = 32


@dataclass(frozen=True)
class Recalled:
    """Frames from memory, best first.

    Attributes:
        latents: (B, k, C, h, w) float32; zeros where there is none.
        poses: (B, k, 5) float64; the query's own where there is none.
        times: (B, k) int64; the query's own where there is none.
        valid: (B, k) bool.
    """

    latents: Tensor
    poses: Tensor
    times: Tensor
    valid: Tensor


def recall(memory: Memory, strategy: Strategy, query: Query, k: int) -> Recalled:
    """The k frames that ``strategy`` chooses for each of B worlds.

    Long shared pasts are searched by a tree where the strategy allows it; the answer is the same.

    Args:
        memory: of B worlds.
        strategy: how to choose.
        query: for which frames.
        k: how many.
    """
    if isinstance(strategy, WorldPack | Nearest) and strategy.exclusion_mode == "recent":
        slots, exist = _candidates(memory, strategy, query, k)
    else:
        slots, exist = memory.slots()
    poses, times = memory.arena.read_places(slots)
    found = retrieve(strategy, query, Remembered(poses, times, exist), k)
    valid = found.valid
    if not slots.shape[1]:
        slots = torch.zeros_like(found.columns[:, :1])
    latents, poses, times = memory.arena.read(slots.gather(1, found.columns))
    return Recalled(
        latents.masked_fill(~valid.view(*valid.shape, 1, 1, 1), 0),
        torch.where(valid.unsqueeze(-1), poses, query.pose.unsqueeze(1)),
        torch.where(valid, times, query.time.unsqueeze(1)),
        valid,
    )


def _candidates(memory: Memory, strategy: Bounded, query: Query, k: int) -> tuple[Tensor, Tensor]:
    """Slots (B, N) and which exist: of every long trunk its own k best, of everything else all."""
    lengths = memory.trunk_counts.sum(1)
    if not (lengths[memory.row] >= TREE_FROM).any():
        return memory.slots()
    # What is among the k best of everything is among the k best of its part.
    parts: list[tuple[NDArray[np.int64], Tensor]] = []
    for row in np.unique(memory.row):
        worlds = np.flatnonzero(memory.row == row)
        if lengths[row] < TREE_FROM:
            parts.append((worlds, memory.trunk_slots(int(row)).expand(len(worlds), -1)))
            continue
        index, slots = _index(memory, int(row), strategy)
        found = retrieve_indexed(query[torch.from_numpy(worlds).to(query.time.device)], index, k)
        # Oldest first, as everywhere: the order decides between equals. The last entry of ``slots`` means none.
        columns = found.columns.masked_fill(~found.valid, len(index)).sort(1)[0]
        parts.append((worlds, slots[columns]))
    width = max(part.shape[1] for _, part in parts)
    tail, there = memory.tail_slots()
    trunk = tail.new_full((memory.batch_size, width), -1)
    for worlds, part in parts:
        trunk[torch.from_numpy(worlds).to(tail.device), : part.shape[1]] = part
    slots = torch.cat([trunk, tail], 1)
    return slots.clamp(min=0), torch.cat([trunk >= 0, there], 1)


def _index(memory: Memory, row: int, strategy: Bounded) -> tuple[PoseIndex, Tensor]:
    """A tree over a trunk, made once, and the trunk's slots (N + 1,) with -1 behind them."""
    key, known = (memory.trunk_numbers[row], strategy), memory.arena.indices
    if key not in known:
        while len(known) >= KEPT_TREES:
            del known[next(iter(known))]
        slots = memory.trunk_slots(row)
        poses, times = memory.arena.read_places(slots)
        index = PoseIndex(strategy, poses.cpu().numpy(), times.cpu().numpy())
        known[key] = index, torch.cat([slots, slots.new_full((1,), -1)])
    return known[key]
