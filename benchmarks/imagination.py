"""How fast a learned world imagines: frames a second, environment steps a second, cold start and memory.

Run it on an idle machine::

    python -m worldloop.benchmarks.imagination --world doom-rooms-tiny --out imagination.json

Every figure is the median over repeats after a warm-up, with the lowest and highest repeat beside it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro

from ..envs.contexts import Contexts
from ..envs.imagined_vector import ImaginedVectorEnv
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.pretrained import load_world
from ..world_models.world import World


@dataclass(frozen=True)
class ImaginationBenchmark:
    """Measure how fast a learned world imagines."""

    world: str = "doom-rooms-tiny"
    """Name or directory of the world."""
    batches: tuple[int, ...] = (1, 8, 64)
    """Worlds stepped side by side."""
    repeats: int = 7
    """Timed repeats of every figure."""
    seconds: float = 1.5
    """Least length of one repeat."""
    cold_starts: int = 3
    """Fresh processes started; the one of median length is reported."""
    device: str = "cpu"
    """Where the world computes."""
    threads: int | None = None
    """Threads of PyTorch; default what it chooses."""
    out: Path | None = None
    """JSON file to write."""


@dataclass(frozen=True)
class Rate:
    """Things done a second: median over repeats, slowest and fastest repeat."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ColdStart:
    """One fresh process from nothing to its first imagined picture.

    Attributes:
        process_s: seconds from spawning to exit, the interpreter's own start included.
        import_s: seconds to import torch and worldloop.
        load_s: seconds to load the world.
        first_frame_s: seconds from there to the first picture, the first observation included.
        peak_mb: peak resident memory of the process in megabytes (10^6 bytes).
    """

    process_s: float
    import_s: float
    load_s: float
    first_frame_s: float
    peak_mb: float


def run(config: ImaginationBenchmark, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Every figure, told line by line as it is measured."""
    if config.threads:
        torch.set_num_threads(config.threads)
    starts = [cold_start(config.world, config.device) for _ in range(config.cold_starts)]
    cold = sorted(starts, key=lambda s: s.process_s)[len(starts) // 2]
    report(f"cold start {cold.process_s:.2f} s, peak memory {cold.peak_mb:.0f} MB")
    world = load_world(config.world, device=config.device)
    rates: dict[str, dict[str, Any]] = {}
    for batch in config.batches:
        model, environment = _side_by_side(config, world, batch)
        overhead = model.median / environment.median - 1
        rates[str(batch)] = {
            "imagine_and_render": asdict(model),
            "environment": asdict(environment),
            "environment_overhead": overhead,
        }
        report(
            f"B={batch}: {environment.median:.1f} environment steps/s "
            f"[{environment.low:.1f}, {environment.high:.1f}], bare imagine and render "
            f"{model.median:.1f} [{model.low:.1f}, {model.high:.1f}], overhead {overhead:+.1%}"
        )
    data: dict[str, Any] = jsonable(
        {
            "config": asdict(config),
            "machine": {"processor": _processor(), "cores": _cores()},
            "cold_start": asdict(cold),
            "steps_per_second": rates,
            "peak_mb": _peak_mb(),
            "provenance": provenance(world),
        }
    )
    if config.out is not None:
        write_json(config.out, data)
    return data


def cold_start(world: str, device: str = "cpu") -> ColdStart:
    """Time a fresh process that imports, loads ``world``, observes a frame, imagines one and draws it.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COLD_START, world, device], check=True, capture_output=True, text=True
    )
    process = time.perf_counter() - begin
    told = json.loads(done.stdout.splitlines()[-1])
    return ColdStart(process_s=process, **told)


_COLD_START = """
import json, resource, sys, time
begin = time.perf_counter()
import numpy as np, torch, worldloop
imported = time.perf_counter()
world = worldloop.load_world(sys.argv[1], device=sys.argv[2])
loaded = time.perf_counter()
frames = np.zeros((1, 1, *world.frame_size, 3), np.uint8)
kind = np.int64 if world.actions.kind == "discrete" else np.float32
with torch.inference_mode():
    action = np.zeros((1, *world.actions.shape), kind)
    state = world.observe(world.start(1), frames, action[:, None], np.zeros((1, 1, 5)))
    _, step = world.imagine(state, action)
    world.render(step.latents).cpu()
drawn = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps(dict(
    import_s=imported - begin, load_s=loaded - imported, first_frame_s=drawn - loaded, peak_mb=peak / 1e6
)))
"""


def _side_by_side(config: ImaginationBenchmark, world: World, batch: int) -> tuple[Rate, Rate]:
    """Steps/s of the bare world, drawing every frame, and of the environment around it, repeat by repeat.

    The two take turns, so that a machine that slows down slows both.
    """
    env = ImaginedVectorEnv(world, batch, contexts=_blank_contexts(world), autoreset_mode="Disabled")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    state = env.state

    def actions() -> Any:
        if world.actions.kind == "discrete":
            return rng.integers(world.actions.n, size=batch)
        return rng.uniform(-1, 1, (batch, *world.actions.shape)).astype(np.float32)

    def bare() -> None:
        nonlocal state
        with torch.inference_mode():
            state, step = world.imagine(state, actions())
            world.render(step.latents).cpu().numpy()

    def environment() -> None:
        _, _, terminated, truncated, _ = env.step(actions())
        if (over := terminated | truncated).any():
            env.reset(options={"reset_mask": over})

    counts = [_warm_up(f, config.seconds) for f in (bare, environment)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.repeats):
        for f, count, into in zip((bare, environment), counts, seconds, strict=True):
            begin = time.perf_counter()
            for _ in range(count):
                f()
            into.append((time.perf_counter() - begin) / count)
    first, second = (Rate(batch / median(s), batch / max(s), batch / min(s)) for s in seconds)
    return first, second


def _warm_up(f: Callable[[], None], seconds: float) -> int:
    """How many calls of ``f`` take at least ``seconds``, told from half that time of warming up."""
    begin, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds / 2 or calls < 3:
        f()
        calls += 1
    return max(1, round(seconds * calls / spent))


def _blank_contexts(world: World) -> Contexts:
    """Recorded starts of noise: what is seen changes no speed."""
    rng = np.random.default_rng(0)
    kind = np.int64 if world.actions.kind == "discrete" else np.float32
    return Contexts(
        frames=rng.integers(0, 256, (4, 4, *world.frame_size, 3), dtype=np.uint8),
        actions=np.zeros((4, 4, *world.actions.shape), kind),
        poses=np.zeros((4, 4, 5)),
        map_seeds=np.zeros(4, np.int64),
        action_spec=world.actions,
        split="train",
    )


def _peak_mb() -> float:
    """Peak resident memory of this process so far, all batches included, in megabytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor()


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


if __name__ == "__main__":
    run(tyro.cli(ImaginationBenchmark))
