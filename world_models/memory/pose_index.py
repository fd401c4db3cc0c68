"""Search of long histories: a tree proposes frames, and says how good the others can be at most.

A strategy embeds poses so that distance bounds the score: a frame D away from a probe scores at most the probe's best
less D²/2. The tree gives the frames nearest to every probe; no other scores more than the bound of the furthest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from .retrieval import Exclusion, Probe, Strategy


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


@dataclass(frozen=True)
class Proposed:
    """Frames that may be good.

    Attributes:
        frames: (Q, n) of the history of N, oldest first; where one would be there again, N for none.
        bound: (Q,) no frame that is not among them scores more.
    """

    frames: NDArray[np.int64]
    bound: NDArray[np.float64]


class PoseIndex:
    """An immutable history of N frames, ready to be searched for a strategy.

    Args:
        strategy: how poses are embedded.
        poses: (N, 5) float64 canonical, oldest first.
    """

    def __init__(self, strategy: Bounded, poses: NDArray[np.float64]) -> None:
        # Walks lie in clumps: halving space instead of the points is built faster, and asked faster too.
        self._tree = cKDTree(strategy.embed(torch.from_numpy(poses)).numpy(), balanced_tree=False)

    def __len__(self) -> int:
        return int(self._tree.n)

    def propose(self, probes: Sequence[tuple[NDArray[np.float64], float]], n: int) -> Proposed:
        """The ``n`` frames nearest to each probe, its points (Q, 6) and its best score; all if n is so many."""
        queries = len(probes[0][0])
        if n >= len(self):
            frames = np.broadcast_to(np.arange(len(self)), (queries, len(self)))
            return Proposed(frames, np.full(queries, -np.inf))
        near, bounds = [], []
        for points, best in probes:
            distance, frame = (np.reshape(found, (queries, n)) for found in self._tree.query(points, k=n))
            near.append(frame)
            bounds.append(best - distance[:, -1] ** 2 / 2)
        frames = np.concatenate(near, 1)
        frames.sort(1)
        frames[:, 1:][frames[:, 1:] == frames[:, :-1]] = len(self)
        return Proposed(frames, np.max(bounds, 0))
