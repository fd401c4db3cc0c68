"""Which maps may be trained on: every map seed belongs to exactly one split."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import DataError

Split = Literal["train", "validation", "test"]
"""``train`` < 100 000 <= ``validation`` < 200 000 <= ``test`` < 300 000. Test seeds are for reports only."""

SPLITS: tuple[Split, ...] = get_args(Split)
SEEDS_PER_SPLIT = 100_000


def seed_range(split: Split) -> range:
    """The map seeds of ``split``.

    Raises:
        DataError: no such split.
    """
    if split not in SPLITS:
        raise DataError(f"A split is one of {', '.join(SPLITS)}; got {split!r}.")
    start = SPLITS.index(split) * SEEDS_PER_SPLIT
    return range(start, start + SEEDS_PER_SPLIT)


def split_of(map_seed: int) -> Split:
    """The split that ``map_seed`` belongs to.

    Raises:
        DataError: the seed lies outside every split.
    """
    last = SEEDS_PER_SPLIT * len(SPLITS) - 1
    if not 0 <= map_seed <= last:
        raise DataError(f"A map seed lies in 0 … {last} so that its split is known; got {map_seed}.")
    return SPLITS[int(map_seed) // SEEDS_PER_SPLIT]
