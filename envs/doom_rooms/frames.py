"""From the engine's picture to the observation: cut to the wanted shape, shrunk by averaging areas."""

from __future__ import annotations

import math

import numpy as np


class AreaFilter:
    """Shrinks pictures (h, w, 3) uint8 to (H, W, 3) uint8; every output pixel is the mean of the area it covers.

    A picture of another shape than the output's is first cut to it around the centre. All sums are of whole numbers,
    so that the result is the same to the last bit on every machine; and without matrix products, whose threads would
    fight over the cores when several environments run side by side.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        height, width = source
        if target[0] > height or target[1] > width:
            raise ValueError(f"A picture of {source} pixels cannot be shrunk to {target}.")
        cut_height = min(height, max(target[0], round(width * target[0] / target[1])))
        cut_width = min(width, max(target[1], round(height * target[1] / target[0])))
        top, left = (height - cut_height) // 2, (width - cut_width) // 2
        self._cut = (slice(top, top + cut_height), slice(left, left + cut_width))
        self._target = target
        self._rows, self._columns = _phases(cut_height, target[0]), _phases(cut_width, target[1])
        self._total = (cut_height // math.gcd(cut_height, target[0])) * (cut_width // math.gcd(cut_width, target[1]))
        # Twice the largest sum must fit, for the rounding.
        self._type = np.uint16 if self._total * 511 < 2**16 else np.uint32

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) as an observation (H, W, 3), both uint8."""
        height, width = self._target
        part = picture[self._cut].astype(self._type)
        rows = _mix(part.reshape(part.shape[0], -1), height, self._rows)
        # Columns come first here: the sums then run over whole lines of memory.
        columns = rows.reshape(height, -1, 3).transpose(1, 0, 2).reshape(part.shape[1], -1)
        sums = _mix(columns, width, self._columns)
        means = ((sums * 2 + self._total) // (2 * self._total)).astype(np.uint8)
        return np.ascontiguousarray(means.reshape(width, height, 3).transpose(1, 0, 2))


def _mix(lines: np.ndarray, n: int, phases: list[tuple[slice, slice, int]]) -> np.ndarray:
    """``n`` weighted sums of lines (m, k): (n, k)."""
    sums = np.zeros((n, lines.shape[1]), lines.dtype)
    for out, into, weight in phases:
        sums[out] += lines[into] * lines.dtype.type(weight)
    return sums


def _phases(source: int, target: int) -> list[tuple[slice, slice, int]]:
    """Which inputs weigh how much in which outputs along one axis: (outputs, inputs, weight in whole units).

    The pattern of overlaps repeats, so that one entry serves every repetition at once.
    """
    common = math.gcd(source, target)
    inputs, outputs = source // common, target // common
    entries = []
    for o in range(outputs):
        for i in range(inputs):
            weight = min((o + 1) * inputs, (i + 1) * outputs) - max(o * inputs, i * outputs)
            if weight > 0:
                entries.append((slice(o, None, outputs), slice(i, None, inputs), weight))
    return entries
