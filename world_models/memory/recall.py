"""What a memory gives for the frame about to be predicted: the frames a strategy chose, read from the bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bank import Memory
from .pose_index import Bounded, PoseIndex
from .retrieval import Nearest, Query, Remembered, Retrieved, Strategy, WorldPack, recent, retrieve

TREE_FROM = 4096
"""Frames of a shared past from which it is searched by a tree."""
FIRST_FETCH = 32
"""Frames that a tree is asked for at first."""
KEPT_TREES = 32
Probes = Sequence[tuple[NDArray[np.float64], float]]
"""Of every place to search around: its points (B, 6), and the best score that a frame can have there."""
Trees = dict[int, tuple[PoseIndex, Tensor]]
"""Of every long trunk, by its row: a tree over its frames, and their slots (N + 1,) on the host with -1 behind them."""


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

    @classmethod
    def nothing(cls, query: Query, latent_shape: tuple[int, int, int]) -> Recalled:
        """No frame at all."""
        b, time = len(query.time), query.time
        latents = torch.zeros(b, 0, *latent_shape, device=time.device)
        return cls(latents, query.pose.new_zeros(b, 0, 5), time.new_zeros(b, 0), time.new_zeros(b, 0, dtype=torch.bool))


def recall(memory: Memory, strategy: Strategy, query: Query, k: int) -> Recalled:
    """The k frames that ``strategy`` chooses for each of B worlds.

    Long shared pasts are searched by a tree where the strategy allows it; the answer is the same.

    Args:
        memory: of B worlds.
        strategy: how to choose.
        query: for which frames.
        k: how many.
    """
    slots, valid = _choose(memory, strategy, query, k)
    latents, poses, times = memory.arena.read(slots)
    return Recalled(
        latents.masked_fill(~valid.view(*valid.shape, 1, 1, 1), 0),
        torch.where(valid.unsqueeze(-1), poses, query.pose.unsqueeze(1)),
        torch.where(valid, times, query.time.unsqueeze(1)),
        valid,
    )


def _choose(memory: Memory, strategy: Strategy, query: Query, k: int) -> tuple[Tensor, Tensor]:
    """Slots (B, k) of the frames that were chosen, and which of them there are."""
    if isinstance(strategy, WorldPack | Nearest) and (trees := _trees(memory, strategy)):
        probes = [(probe.points.cpu().numpy(), probe.best) for probe in strategy.probes(query.pose)]
        return _search(memory, strategy, query, k, trees, probes, max(FIRST_FETCH, 2 * k))
    slots, exist = memory.slots()
    found = retrieve(strategy, query, _remembered(memory, slots, exist), k)
    return _taken(slots, found), found.valid


def _search(
    memory: Memory, strategy: Bounded, query: Query, k: int, trees: Trees, probes: Probes, fetch: int,
    first: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`_choose` by trees: first a few frames around the first probe, and where another frame might be better, more."""
    slots, exist, bound = _candidates(memory, trees, probes[:1] if first else probes, fetch)
    whole = bound == -np.inf
    if first and len(probes) > 1:
        bound = np.where(whole, bound, np.maximum(bound, max(best for _, best in probes[1:])))
    remembered = _remembered(memory, slots, exist)
    found = retrieve(strategy, query, remembered, k)
    taken, valid = _taken(slots, found), found.valid
    sure = _sure(strategy, query, remembered, found, torch.from_numpy(bound).to(slots.device))
    worlds = np.flatnonzero(~(sure.cpu().numpy() | whole))
    if len(worlds):
        unsure, rest = torch.from_numpy(worlds).to(slots.device), [(points[worlds], best) for points, best in probes]
        taken[unsure], valid[unsure] = _search(
            memory[worlds], strategy, query[unsure], k, trees, rest, fetch if first else 4 * fetch, first=False
        )
    return taken, valid


def _remembered(memory: Memory, slots: Tensor, exist: Tensor) -> Remembered:
    """What is known of the frames of slots (B, N)."""
    return Remembered(*memory.arena.read_places(slots), exist, memory.arena.imagined.flatten()[slots])


def _taken(slots: Tensor, found: Retrieved) -> Tensor:
    """Slots (B, k) of what was found among ``slots`` (B, N); 0 where nothing was."""
    return slots.gather(1, found.columns) if slots.shape[1] else found.columns


def _candidates(memory: Memory, trees: Trees, probes: Probes, fetch: int) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """Slots (B, N), oldest first, which of them count, and what no other frame surpasses (B,).

    Of every long trunk they are the frames that a tree proposes, of everything else all.
    """
    bound = np.full(memory.batch_size, -np.inf)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for row in set(memory.row.tolist()):
        worlds = np.flatnonzero(memory.row == row)
        if row in trees:
            index, slots = trees[row]
            proposed = index.propose([(points[worlds], best) for points, best in probes], fetch)
            bound[worlds] = proposed.bound
            parts.append((worlds, slots.numpy()[proposed.frames]))
        else:
            slots = memory.trunk_slots(row).cpu()
            parts.append((worlds, slots.expand(len(worlds), -1).numpy()))
    if len(parts) == 1:
        trunk = parts[0][1]
    else:
        trunk = np.full((memory.batch_size, max(part.shape[1] for _, part in parts)), -1)
        for worlds, part in parts:
            trunk[worlds, : part.shape[1]] = part
    tail, there = memory.tail_slots()
    found = torch.from_numpy(trunk).to(tail.device)
    return torch.cat([found.clamp(min=0), tail], 1), torch.cat([found >= 0, there], 1), bound


def _sure(strategy: Bounded, query: Query, remembered: Remembered, found: Retrieved, bound: Tensor) -> Tensor:
    """Which worlds' choices (B,) no frame beyond ``bound`` (B,) could have replaced.

    All were found, each scores more than that, and the exclusion window allowed it: none was taken for want of others.
    """
    better = found.score > bound.unsqueeze(1)
    if not strategy.exclusion:
        return better.all(1)
    if strategy.exclusion_mode == "recent":
        return (better & ~recent(query, remembered, strategy.exclusion).gather(1, found.columns)).all(1)
    times = remembered.times.gather(1, found.columns)
    apart = (times.unsqueeze(2) - times.unsqueeze(1)).abs() >= strategy.exclusion
    return better.all(1) & (apart | torch.ones_like(apart[0]).triu()).all(2).all(1)


def _trees(memory: Memory, strategy: Bounded) -> Trees:
    """Trees over the long trunks that these worlds continue, each made once."""
    known, trees = memory.arena.indices, {}
    for row in set(memory.row.tolist()):
        key = (memory.trunk_numbers[row], strategy)
        if key not in known:
            if memory.trunk_counts[row].sum() < TREE_FROM:
                continue
            while len(known) >= KEPT_TREES:
                del known[next(iter(known))]
            slots = memory.trunk_slots(row)
            poses, _ = memory.arena.read_places(slots)
            index = PoseIndex(strategy, poses.cpu().numpy())
            known[key] = index, torch.cat([slots, slots.new_full((1,), -1)]).cpu()
        trees[row] = known[key]
    return trees
