"""How fast the real rooms are: steps a second of one environment and of several side by side.

Run it on an idle machine::

    python -m worldloop.benchmarks.doom_rooms --out doom_rooms.json

Actions are random, episodes begin again where they end, frames are of the default size. The reference, taken in turn
with the rest, is the bare engine advancing as many tics as a step has, with nothing asked of it and nothing computed
from its picture: the most that any environment on it could reach. Environments side by side run at the same time, and
their speeds are added. Every figure is the median over repeats after a warm-up, with the least and greatest beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
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

    def __str__(self) -> str:
        return f"{self.median:8.1f}  [{self.low:.1f}, {self.high:.1f}]"


def run(config: DoomRoomsBenchmark) -> dict[str, Any]:
    """Every figure, told line by line as it is measured."""
    result: dict[str, Any] = {
        "config": {"seconds": config.seconds, "repeats": config.repeats},
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
        "steps_per_second": {},
        "share_of_the_bare_engine": {},
        "peak_mb": {},
    }
    for count in config.processes:
        steps, bare, peaks = _side_by_side(count, config)
        share = Spread.of([100 * s / b for s, b in zip(steps, bare, strict=True)])
        result["steps_per_second"][f"{count}"] = asdict(Spread.of(steps))
        result["steps_per_second"][f"{count} bare"] = asdict(Spread.of(bare))
        result["share_of_the_bare_engine"][f"{count}"] = asdict(share)
        _tell(f"steps/s, {count} side by side", Spread.of(steps))
        _tell(f"steps/s, {count} side by side, bare engine", Spread.of(bare))
        _tell("  % of the bare engine", share)
        for name, values in peaks.items():
            result["peak_mb"].setdefault(name, []).extend(values)
    result["peak_mb"] = {
        name: asdict(_tell(f"peak MB of {name}", values)) for name, values in result["peak_mb"].items()
    }
    result["milliseconds"] = {name: asdict(_tell(f"ms, {name}", v)) for name, v in _latencies(config.repeats).items()}
    if config.out is not None:
        write_json(config.out, result)
    return result


def _tell(name: str, values: Spread | list[float]) -> Spread:
    spread = values if isinstance(values, Spread) else Spread.of(values)
    print(f"{name:42}{spread}", flush=True)
    return spread


def _side_by_side(count: int, config: DoomRoomsBenchmark) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Steps a second of ``count`` environments together, and of as many bare engines; each one's peak memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_open, initargs=(context.Barrier(count),)) as pool:

        def together(work: Callable[[float], Any], seconds: float) -> list[Any]:
            return list(pool.map(work, [seconds] * count))

        together(_steps, config.seconds / 4)
        together(_bare_engine, config.seconds / 4)
        steps, bare = [], []
        for _ in range(config.repeats):
            steps.append(sum(together(_steps, config.seconds)))
            bare.append(sum(together(_bare_engine, config.seconds)))
        ends = together(_close, 0.0)
    return steps, bare, {name: [end[name] for end in ends] for name in ends[0]}


_env: DoomRoomsEnv
_engine: Engine
_everyone: Barrier


def _open(everyone: Barrier) -> None:
    global _env, _engine, _everyone
    _everyone = everyone
    _env = DoomRoomsEnv(task="explore")
    _env.action_space.seed(os.getpid())
    _env.reset(seed=os.getpid())
    _engine = Engine(generate(0))


def _steps(seconds: float) -> float:
    def step() -> None:
        _, _, terminated, truncated, _ = _env.step(_env.action_space.sample())
        if terminated or truncated:
            _env.reset()

    return _rate(step, seconds)


def _bare_engine(seconds: float) -> float:
    return _rate(lambda: _engine.advance(HOPS + 1), seconds)


def _rate(work: Callable[[], None], seconds: float) -> float:
    _everyone.wait(120)  # until every process has one of these to do
    done, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        work()
        done += 1
    return done / spent


def _close(seconds: float) -> dict[str, float]:
    _everyone.wait(120)
    engine = _env._engine
    assert engine is not None and engine.pid is not None
    peaks = {"a process with an environment": _peak_mb(os.getpid()), "its engine": _peak_mb(engine.pid)}
    _env.close()
    _engine.close()
    return {name: peak for name, peak in peaks.items() if peak is not None}


def _peak_mb(pid: int) -> float | None:
    """Most memory that process ``pid`` ever had resident; None where the system does not say (other than Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))


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


if __name__ == "__main__":
    run(tyro.cli(DoomRoomsBenchmark))
