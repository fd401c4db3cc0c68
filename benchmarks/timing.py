"""Timing that a noisy machine cannot fool: works take turns, and what is told are medians, spreads and ratios."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


def take_turns(works: Mapping[Any, Callable[[], Any]], repeats: int, seconds: float) -> dict[Any, list[float]]:
    """Seconds of one call of each work, repeat by repeat: a machine that slows down slows all of them.

    Args:
        works: name to what is timed; each is warmed up first.
        repeats: turns.
        seconds: least length of a turn of each work.
    """
    counts = {name: _warm_up(work, seconds) for name, work in works.items()}
    taken: dict[Any, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            begin = time.perf_counter()
            for _ in range(counts[name]):
                work()
            taken[name].append((time.perf_counter() - begin) / counts[name])
    return taken


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median, lowest and highest of ``values``, each times ``scale``."""
    return {"median": scale * median(values), "low": scale * min(values), "high": scale * max(values)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """`spread` of ``values`` over ``base``, turn by turn."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def interval(values: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """Median of ``values`` and its 95 % interval, by a bootstrap over them."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (resamples, len(values)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    return {"median": median(values), "low": float(low), "high": float(high)}


def bar(value: float, limit: float) -> dict[str, Any]:
    """What a figure must not exceed, and whether it does."""
    return {"value": value, "limit": limit, "met": value <= limit}


def machine() -> dict[str, Any]:
    """Processor and cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores}


def peak_mb() -> float:
    """Peak resident memory of this process so far, in megabytes (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _warm_up(work: Callable[[], Any], seconds: float) -> int:
    """How many calls of ``work`` take at least ``seconds``, told from half that time of warming up."""
    begin, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds / 2 or calls < 3:
        work()
        calls += 1
    return max(1, round(seconds * calls / spent))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor()
