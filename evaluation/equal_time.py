"""How many candidates fit into a given time: measured, so that ways of planning compare at equal wall time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError

_MEASUREMENTS = 6
_NEAR = 0.1


@dataclass(frozen=True)
class Fitting:
    """What came out of `candidates_for`.

    Attributes:
        candidates: plans in each iteration.
        seconds: for one real step of one episode, as measured with them.
    """

    candidates: int
    seconds: float


def candidates_for(seconds: float, measure: Callable[[int], float], least: int = 8, most: int = 4096) -> Fitting:
    """The number of candidates that takes nearest to ``seconds``, and its time.

    Every measurement scales the last number by how far off it was; the search ends within ten per cent, at an end of
    the range, or after six measurements.

    Args:
        seconds: wanted for one real step, above 0.
        measure: takes that many candidates, tells how long one real step took.
        least: candidates to begin with; what takes longer even so is taken as it is.
        most: candidates.

    Raises:
        ConfigError: no time at all.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"The time for a step is above 0 seconds; got {seconds}.")
    tried = {least: measure(least)}
    number = least
    for _ in range(_MEASUREMENTS - 1):
        off = seconds / tried[number]
        if abs(off - 1) <= _NEAR:
            break
        number = min(most, max(least, round(number * off)))
        if number in tried:
            break
        tried[number] = measure(number)
    best = min(tried, key=lambda n: abs(math.log(tried[n] / seconds)))
    return Fitting(best, tried[best])
