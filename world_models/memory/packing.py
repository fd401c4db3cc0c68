"""How many tokens each context frame may cost: old and far frames are packed, new and near ones kept whole.

WorldPack §4.1: a frame pooled by p x p tokens costs about 1/p² of a whole one, p = 1, 2, 4, each rate with an input
projection of its own. Grids that pooled frames do not divide are padded to a multiple of the greatest pool in use.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError

POOLS = (1, 2, 4)
RELIC_SCHEDULE = (1, 4, 2, 4, 4, 4, 2, 4, 4, 2, 4, 4, 4, 2, 4, 4, 2, 4)
"""Tokens of one frame of a compressed key-value cache are pooled by these, repeating with age (RELIC)."""


@dataclass(frozen=True)
class Packing:
    """The pool of every context frame.

    Attributes:
        recent: of the latest frames, oldest first.
        retrieved: of the frames that a retrieval strategy chose, best first.
    """

    recent: tuple[int, ...]
    retrieved: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.recent or any(pool not in POOLS for pool in (*self.recent, *self.retrieved)):
            raise ConfigError(
                f"A packing lists a pool of 1, 2 or 4 for each frame, and at least one recent frame; got "
                f"{self.recent} and {self.retrieved}."
            )

    @property
    def frames(self) -> int:
        """Context frames in all."""
        return len(self.recent) + len(self.retrieved)

    def tokens(self, grid: tuple[int, int]) -> int:
        """Context tokens in all, of frames with ``grid`` = (rows, columns) of tokens."""
        unit = max(*self.recent, *self.retrieved, 1)
        return sum(pooled_tokens(grid, pool, unit) for pool in (*self.recent, *self.retrieved))

    def budget(self, grid: tuple[int, int]) -> float:
        """Context tokens over those of one whole frame: what the context costs, in frames."""
        return self.tokens(grid) / (grid[0] * grid[1])


def pooled_tokens(grid: tuple[int, int], pool: int, unit: int) -> int:
    """Tokens of one frame of ``grid`` (rows, columns) pooled by ``pool``, padded to multiples of ``unit`` if pooled."""
    if pool == 1:
        return grid[0] * grid[1]
    rows, columns = (-(-side // unit) * unit // pool for side in grid)
    return rows * columns


def cache_pool(age: int) -> int:
    """Pool of a frame that left the uncompressed window ``age`` frames ago, 0 for the latest (RELIC)."""
    return RELIC_SCHEDULE[age % len(RELIC_SCHEDULE)]


PACKINGS: dict[str, Packing] = {
    "reference": Packing((4,) * 7 + (2,) * 3 + (1,), (4,) * 8),
    "tiny": Packing((2, 2, 2, 1), (1, 2, 2, 2)),
    "recent": Packing((2, 2, 2, 1)),
    "raw": Packing((1,) * 4),
    "raw-long": Packing((1,) * 8),
    "packing-only": Packing((4,) * 15 + (2,) * 3 + (1,)),
    "retrieval-only": Packing((1,), (1,) * 3),
    "one-recent": Packing((1,), (1, 2, 2, 2)),
    "whole-retrieved": Packing((2, 2, 2, 1), (1,) * 3),
}
"""Packings by name: WorldPack's 19 frames; the tiny world's, whose 8 frames cost what 3.5 cost, and its recent part
alone; and what they are compared with: 4 or 8 whole recent frames, WorldPack's two halves by themselves, and what lies
between the tiny world's and retrieval alone."""


def packing_named(name: str) -> Packing:
    """The packing of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PACKINGS:
        raise ConfigError(f"Unknown packing {name!r}; choose one of {', '.join(PACKINGS)}.")
    return PACKINGS[name]
