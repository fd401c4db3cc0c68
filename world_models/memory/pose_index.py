"""Retrieval from long histories: a tree over positions proposes, the score decides, a certificate says when to stop.

The answer is the one that scoring every frame would give. The tree returns the frames nearest to the query; all others
lie further away than the furthest of those, so a strategy's `bound` says how good they could be at most. Where the
worst choice is not better than that, twice as many are fetched.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from .retrieval import Exclusion, Query, Remembered, Retrieved, Strategy, recent

FIRST_FETCH = 64


class Bounded(Strategy, Protocol):
    """A strategy that knows how good a far frame can be at most."""

    @property
    def exclusion(self) -> int:
        """Steps of the exclusion window."""

    @property
    def exclusion_mode(self) -> Exclusion:
        """What the window means."""

    def bound(self, distance: Tensor) -> Tensor:
        """Upper bound of the score of every frame at least ``distance`` (B,) world units away."""


class PoseIndex:
    """An immutable history of N frames, ready to be searched by position.

    Args:
        poses: (N, 5) float64 canonical, oldest first.
        times: (N,) int64, increasing.
    """

    def __init__(self, poses: NDArray[np.float64], times: NDArray[np.int64]) -> None:
        self.poses, self.times = poses, times
        self._tree = cKDTree(poses[:, :3])

    def __len__(self) -> int:
        return len(self.times)

    def nearest(self, positions: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of Q positions (Q, 3): distance to the furthest of the ``n`` nearest frames (Q,), and those frames (Q, n)."""
        distance, frame = self._tree.query(positions, k=np.arange(1, n + 1))
        return np.asarray(distance)[:, -1], np.asarray(frame, np.int64)


def retrieve_indexed(strategy: Bounded, query: Query, index: PoseIndex, k: int) -> Retrieved:
    """What ``strategy`` chooses for Q queries from one long history; columns count its frames, oldest first.

    Args:
        strategy: how to choose.
        query: Q frames to predict; all of them remember the same history.
        index: the history.
        k: frames to choose.
    """
    n, q = len(index), len(query.time)
    positions = query.pose[:, :3].cpu().numpy()
    times = query.time.cpu().numpy()
    columns = np.zeros((q, k), np.int64)
    valid, score = np.zeros((q, k), bool), np.full((q, k), -np.inf)
    todo = np.arange(q)
    # Excluded steps are near, and are no answer: fetch past them.
    fetch = min(n, max(FIRST_FETCH, 2 * k) + strategy.exclusion)
    while len(todo):
        if fetch == n:
            furthest, frames = np.full(len(todo), np.inf), np.broadcast_to(np.arange(n), (len(todo), n))
        else:
            furthest, frames = index.nearest(positions[todo], fetch)
            frames = np.sort(frames, 1)
        part = query[torch.from_numpy(todo).to(query.time.device)]
        seen = Remembered(
            torch.from_numpy(index.poses[frames]),
            torch.from_numpy(index.times[frames]),
            torch.from_numpy(index.times[frames] < times[todo, None]),
        )
        found = strategy(part, seen, k)
        # A frame not fetched is beaten only by choices the exclusion window allowed, and by a better score.
        worse = found.score > strategy.bound(torch.from_numpy(furthest)).unsqueeze(1)
        sure = (found.valid & worse & allowed(strategy, part, seen, found)).all(1).numpy()
        sure |= fetch == n
        done = todo[sure]
        columns[done] = np.take_along_axis(frames, found.columns.numpy(), 1)[sure]
        valid[done], score[done] = found.valid.numpy()[sure], found.score.numpy()[sure]
        todo = todo[~sure]
        fetch = min(n, 2 * fetch)
    device = query.pose.device
    return Retrieved(*(torch.from_numpy(x).to(device) for x in (np.where(valid, columns, 0), valid, score)))


def allowed(strategy: Bounded, query: Query, remembered: Remembered, found: Retrieved) -> Tensor:
    """Which choices (B, k) were made inside the exclusion window's rule, not for want of others."""
    if strategy.exclusion_mode == "recent":
        return ~recent(query, remembered, strategy.exclusion).gather(1, found.columns)
    times = remembered.times.gather(1, found.columns)
    apart = (times.unsqueeze(2) - times.unsqueeze(1)).abs() >= strategy.exclusion
    return (apart | torch.ones_like(apart[0]).triu()).all(2)
