"""Samples with a past: a frame to predict, the frames just before it, and all that was seen earlier in its episode.

Some walk back the way they came (RELIC's palindromes): the episode up to a pivot, then its frames in reverse. Where
nothing but the camera moves that is as real as the walk out, only the actions are not what was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...rollouts.cache import TrainingCache

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """B walks, as numbers of a cache's frames.

    Attributes:
        rows: (B, T) the frames of each walk in the order they are seen; the last of its own repeated beyond its end.
        target: (B,) position in the walk of the frame to predict.
        recorded: (B,) bool, whether the action that leads to it was recorded (palindromes have none).
        last: (B,) position of the walk's last frame; a target may lie beyond it.
    """

    rows: Rows
    target: Rows
    recorded: NDArray[np.bool_]
    last: Rows

    def exists(self, back: int) -> NDArray[np.bool_]:
        """(B,) whether there is a frame ``back`` steps before the target: neither before the walk nor after its end."""
        position = self.target - back
        return (position >= 0) & (position <= self.last)

    def before(self, offset: Rows) -> Rows:
        """(B, n) the frames ``offset`` (B, n) steps from the target, at most 0; before the first there is the first."""
        return np.take_along_axis(self.rows, np.maximum(self.target[:, None] + offset, 0), 1)

    def at(self, back: int) -> Rows:
        """(B,) the frame ``back`` steps before the target."""
        return self.before(np.full((len(self.rows), 1), -back))[:, 0]


def draw_histories(
    cache: TrainingCache, context: int, step: int, batch_size: int, seed: int, palindrome: NDArray[np.bool_],
    way_back: NDArray[np.float64], further: int = 0,
) -> Histories:
    """Walks whose target has at least ``context`` frames before it, drawn evenly from all such frames.

    Args:
        cache: recorded experience.
        context: K, recent frames.
        step, batch_size, seed: of the draw, a function of these alone.
        palindrome: (B,) bool, which of them turn around.
        way_back: (B,) in [0, 1), how far of the way these come back.
        further: that many steps further on lies the target, beyond the end of the walk if need be: what ends a walk is
            then as often one step ahead as it is many.
    """
    pivot = cache.window_indices(step, batch_size, context + 1, seed) + context
    episode = np.searchsorted(cache.episode_start, pivot, side="right") - 1
    first = cache.episode_start[episode]
    out = pivot - first
    # A way back of K + 1 … out steps: what lies behind is again all recent frames and one to predict.
    back = np.where(palindrome & (out > context), context + 1 + (way_back * (out - context)).astype(np.int64), 0)
    turned = back > 0
    target = out + back + further
    last = np.where(turned, out + back, cache.episode_lengths[episode] - 1)
    position = np.minimum(np.arange(target.max() + 1), np.minimum(target, last)[:, None])
    rows = first[:, None] + np.where(turned[:, None] & (position > out[:, None]), 2 * out[:, None] - position, position)
    return Histories(rows, target, ~turned, last)
