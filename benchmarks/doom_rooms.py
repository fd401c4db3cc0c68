"""How fast the real rooms are: steps a second of one environment and of several side by side.

Run it on an idle machine::

    python -m worldloop.benchmarks.doom_rooms --out doom_rooms.json

Actions are random, episodes begin again where they end, frames are of the default size. The reference, taken in turn
with the rest, is the bare engine advancing as many tics as a step has, with nothing asked of it and nothing computed
from its picture: the most that any environment on it could reach. Every figure is the median over repeats after a
warm-up, with the slowest and fastest repeat beside it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro

from ..envs.doom_rooms.engine import Engine
from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.doom_rooms.layout import generate
from ..envs.doom_rooms.wad import HOPS
from ..files import write_json


@dataclass(frozen=True)
class DoomRoomsBenchmark:
    """Measure the real environment."""

    processes: tuple[int, ...] = (1, 2)
    """Environments side by side, one process each."""
    seconds: float = 2.0
    """Length of one repeat."""
    repeats: int = 7
    """Repeats of every figure."""
    out: Path | None = None
    """JSON file to write."""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of measured values."""
        return cls(median(values), min(values), max(values))


def run(config: DoomRoomsBenchmark) -> dict[str, Any]:
    """Every figure, told line by line as it is measured."""
    result: dict[str, Any] = {
        "config": asdict(config),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "steps_per_second": {},
    }
    for count in config.processes:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, context, initializer=_open) as pool:
            list(pool.map(_steps, [0.5] * count))
            steps, bare = [], []
            for _ in range(config.repeats):
                steps.append(sum(pool.map(_steps, [config.seconds] * count)))
                bare.append(sum(pool.map(_bare_engine, [config.seconds / 2] * count)))
            list(pool.map(_close, range(count)))
        figures = {"environment": asdict(Spread.of(steps)), "bare_engine": asdict(Spread.of(bare))}
        result["steps_per_second"][str(count)] = figures
        share = median(s / b for s, b in zip(steps, bare, strict=True))
        print(f"{count} side by side: {_told(Spread.of(steps))} steps/s, {share:.0%} of the bare engine")
    result["milliseconds"] = {name: asdict(Spread.of(values)) for name, values in _latencies(config.repeats).items()}
    for name, values in result["milliseconds"].items():
        print(f"{name}: {values['median']:.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result["peak_mb_of_the_largest_child"] = peak * 1024 / 1e6
    if config.out is not None:
        write_json(config.out, json.loads(json.dumps(result, default=str)))
    return result


_env: DoomRoomsEnv
_engine: Engine


def _open() -> None:
    global _env, _engine
    _env = DoomRoomsEnv(task="explore")
    _env.action_space.seed(os.getpid())
    _env.reset(seed=os.getpid())
    _engine = Engine(generate(0))


def _close(number: int) -> None:
    _env.close()
    _engine.close()


def _steps(seconds: float) -> float:
    done, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        _, _, terminated, truncated, _ = _env.step(_env.action_space.sample())
        done += 1
        if terminated or truncated:
            _env.reset()
    return done / spent


def _bare_engine(seconds: float) -> float:
    done, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        _engine.advance(HOPS + 1)
        done += 1
    return done / spent


def _latencies(repeats: int) -> dict[str, list[float]]:
    """Milliseconds until the first frame of a new environment, and of a reset to another map."""
    cold, fresh = [], []
    for repeat in range(repeats):
        begin = time.perf_counter()
        env = DoomRoomsEnv(task="explore")
        env.reset(seed=repeat)
        cold.append(1e3 * (time.perf_counter() - begin))
        for seed in range(10):
            begin = time.perf_counter()
            env.reset(options={"map_seed": 1000 + 10 * repeat + seed})
            fresh.append(1e3 * (time.perf_counter() - begin))
        env.close()
    return {"new environment to first frame": cold, "reset to another map": fresh}


def _told(spread: Spread) -> str:
    return f"{spread.median:.0f} [{spread.low:.0f}, {spread.high:.0f}]"


if __name__ == "__main__":
    run(tyro.cli(DoomRoomsBenchmark))
