"""Retrieval from long histories: a tree proposes, the score decides, a certificate says when to stop.

The answer is the one that scoring every frame would give. A strategy embeds poses so that distance bounds the score: a
frame D away from a probe scores at most the probe's best less D²/2. The tree gives the frames nearest to every probe;
where the worst choice among them is not better than the bound of all others, twice as many are fetched.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from .retrieval import Exclusion, Probe, Query, Remembered, Retrieved, Strategy, recent

FIRST_FETCH = 32


class Bounded(Strategy, Protocol):
    """A strategy that knows how good a far frame can be at most."""

    @property
    def exclusion(self) -> int:
        """Steps of the exclusion window."""

    @property
    def exclusion_mode(self) -> Exclusion:
        """What the window means."""

    def embed(self, poses: Tensor) -> Tensor:
        """Points (..., 6) of poses (..., 5)."""

    def probes(self, pose: Tensor) -> list[Probe]:
        """Where to search for queries at ``pose`` (Q, 5)."""


class PoseIndex:
    """An immutable history of N frames, ready to be searched for a strategy.

    Args:
        strategy: how poses are embedded.
        poses: (N, 5) float64 canonical, oldest first.
        times: (N,) int64, increasing.
    """

    def __init__(self, strategy: Bounded, poses: NDArray[np.float64], times: NDArray[np.int64]) -> None:
        self.strategy, self.poses, self.times = strategy, poses, times
        self._tree = cKDTree(strategy.embed(torch.from_numpy(poses)).numpy())

    def __len__(self) -> int:
        return len(self.times)

    def nearest(self, points: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of Q points (Q, 6): distance to the furthest of the ``n`` nearest frames (Q,), and those frames (Q, n)."""
        distance, frame = self._tree.query(points, k=n)
        shape = (len(points), n)
        return np.asarray(distance).reshape(shape)[:, -1], np.asarray(frame, np.int64).reshape(shape)


def retrieve_indexed(query: Query, index: PoseIndex, k: int) -> Retrieved:
    """What the index's strategy chooses for Q queries from its history; columns count frames, oldest first.

    Args:
        query: Q frames to predict; all of them remember the same history.
        index: the history.
        k: frames to choose.
    """
    strategy, n, q = index.strategy, len(index), len(query.time)
    device = query.pose.device
    query = query.to("cpu")
    probes = strategy.probes(query.pose)
    columns = np.zeros((q, k), np.int64)
    valid, score = np.zeros((q, k), bool), np.full((q, k), -np.inf)
    todo, fetch = np.arange(q), min(n, max(FIRST_FETCH, 2 * k))
    while len(todo):
        part = query[torch.from_numpy(todo)]
        if fetch == n:
            frames, bound = np.broadcast_to(np.arange(n), (len(todo), n)), np.full(len(todo), -np.inf)
            first = np.ones(frames.shape, bool)
        else:
            found = [index.nearest(probe.points[todo].numpy(), fetch) for probe in probes]
            bound = np.max([probe.best - far**2 / 2 for probe, (far, _) in zip(probes, found, strict=True)], 0)
            frames = np.sort(np.concatenate([near for _, near in found], 1), 1)
            # A frame near to two probes is one frame.
            first = np.diff(frames, axis=1, prepend=-1) > 0
        seen = Remembered(*(torch.from_numpy(x) for x in (index.poses[frames], index.times[frames], first)))
        chosen = strategy(part, seen, k)
        # A frame not fetched is beaten only by choices the exclusion window allowed, and by a better score.
        better = chosen.valid & (chosen.score > torch.from_numpy(bound).unsqueeze(1))
        sure = (better & allowed(strategy, part, seen, chosen)).all(1).numpy() | (fetch == n)
        done = todo[sure]
        columns[done] = np.take_along_axis(frames, chosen.columns.numpy(), 1)[sure]
        valid[done], score[done] = chosen.valid.numpy()[sure], chosen.score.numpy()[sure]
        todo, fetch = todo[~sure], min(n, 2 * fetch)
    return Retrieved(*(torch.from_numpy(x).to(device) for x in (np.where(valid, columns, 0), valid, score)))


def allowed(strategy: Bounded, query: Query, remembered: Remembered, found: Retrieved) -> Tensor:
    """Which choices (B, k) were made inside the exclusion window's rule, not for want of others."""
    if strategy.exclusion_mode == "recent":
        return ~recent(query, remembered, strategy.exclusion).gather(1, found.columns)
    times = remembered.times.gather(1, found.columns)
    apart = (times.unsqueeze(2) - times.unsqueeze(1)).abs() >= strategy.exclusion
    return (apart | torch.ones_like(apart[0]).triu()).all(2)
