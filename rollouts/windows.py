"""Random windows of consecutive frames for training.

Frames are numbered through a whole data set: episode 0 first, then episode 1, and so on. A window of L
frames is named by the number of its first frame and never crosses from one episode into the next.

What is drawn is a function of (seed, step) alone, by a counter-based generator, so that training that
was interrupted at any step goes on exactly as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import Philox
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError


@dataclass(frozen=True)
class WindowBatch:
    """B windows of L consecutive frames; row 0 of a window keeps the action and reward that led to it.

    Attributes:
        frames: (B, L, H, W, 3) uint8.
        actions: (B, L, ...) in the environment's own action space; action i led to frame i.
        poses: (B, L, 5) float64 canonical.
        rewards: (B, L) float32.
        terminated: (B, L) bool, true only in a last row.
        truncated: (B, L) bool, true only in a last row.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class WindowSource(Protocol):
    """Whatever windows can be read from: a `RolloutDataset`, or its `TrainingCache`."""

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """(E,) frames of each episode."""

    def read_windows(self, starts: NDArray[np.int64], length: int) -> WindowBatch:
        """The windows of ``length`` frames whose first frames are numbered ``starts`` (B,)."""


class WindowIndex:
    """Every window of ``length`` frames in episodes of the given lengths.

    Args:
        episode_lengths: (E,) frames of each episode.
        length: L, frames in a window.

    Raises:
        ValueError: ``length`` is below 1.
        DataError: no episode is that long.
    """

    def __init__(self, episode_lengths: ArrayLike, length: int) -> None:
        if length < 1:
            raise ValueError(f"A window has at least one frame; got length {length}.")
        lengths = np.asarray(episode_lengths, dtype=np.int64)
        per_episode = np.maximum(lengths - length + 1, 0)
        self._ends = np.cumsum(per_episode)
        if len(lengths) == 0 or self._ends[-1] == 0:
            raise DataError(
                f"No episode is {length} frames long (the longest has {lengths.max(initial=0)}): "
                "ask for shorter windows, or collect with more steps per map."
            )
        self.count = int(self._ends[-1])
        # Window w of episode e starts w - (windows before e) frames after the episode's own first frame.
        self._shift = (np.cumsum(lengths) - lengths) - (self._ends - per_episode)

    def starts(self, windows: ArrayLike) -> NDArray[np.int64]:
        """Numbers of the first frames of the given windows, each in 0 … count - 1."""
        windows = np.asarray(windows, dtype=np.int64)
        starts: NDArray[np.int64] = windows + self._shift[np.searchsorted(self._ends, windows, side="right")]
        return starts

    def draw(self, step: int, batch_size: int, seed: int) -> NDArray[np.int64]:
        """First frames (B,) of ``batch_size`` windows, each equally likely."""
        raw = Philox(key=seed, counter=[0, 0, 0, step]).random_raw(batch_size)
        # Philox defines its raw words for ever; what Generator.integers makes of them may change with numpy.
        uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return self.starts((uniform * self.count).astype(np.int64))


class WindowSampler:
    """Batches of random windows from a data set or its cache.

    Args:
        source: where to read.
        length: L, frames in a window.
        seed: another seed gives another sequence of batches.

    Raises:
        DataError: no episode is ``length`` frames long.

    Example:
        >>> sampler = WindowSampler(TrainingCache.of(dataset), length=20, seed=0)      # doctest: +SKIP
        >>> sampler.batch(step=0, batch_size=64).frames.shape                          # doctest: +SKIP
        (64, 20, 48, 64, 3)
    """

    def __init__(self, source: WindowSource, length: int, seed: int) -> None:
        self._source, self._length, self._seed = source, length, seed
        self._index = WindowIndex(source.episode_lengths, length)

    @property
    def num_windows(self) -> int:
        """How many different windows there are."""
        return self._index.count

    def starts(self, step: int, batch_size: int) -> NDArray[np.int64]:
        """(B,) numbers of the first frames of the windows that `batch` reads at ``step``."""
        return self._index.draw(step, batch_size, self._seed)

    def batch(self, step: int, batch_size: int) -> WindowBatch:
        """The batch of training step ``step``: the same in every process, at every time."""
        return self._source.read_windows(self.starts(step, batch_size), self._length)
