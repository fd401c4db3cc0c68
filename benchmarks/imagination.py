"""How fast a learned world imagines: frames a second, environment steps a second, cold start and memory.

Run it on an idle machine::

    python -m worldloop.benchmarks.imagination --world doom-rooms-tiny --out imagination.json

Every figure is the median over repeats after a warm-up, with the lowest and highest repeat beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode

from ..envs.contexts import Contexts
from ..envs.imagined_vector import ImaginedVectorEnv
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.pretrained import load_world
from ..world_models.world import World
from .timing import machine, peak_mb, spread, take_turns


@dataclass(frozen=True)
class ImaginationBenchmark:
    """Measure how fast a learned world imagines."""

    world: str = "doom-rooms-tiny"
    """Name or directory of the world."""
    batches: tuple[int, ...] = (1, 8, 64)
    """Worlds stepped side by side."""
    repeats: int = 15
    """Timed repeats of every figure."""
    seconds: float = 0.5
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
        seconds = _in_turns(config, world, batch)
        row: dict[str, Any] = {name: spread([batch / s for s in taken]) for name, taken in seconds.items()}
        for kind in ("frames", "latents"):
            row[f"overhead_{kind}"] = spread([r - 1 for r in _over(seconds[kind], seconds[f"bare_{kind}"])])
        rates[str(batch)] = row
        told = ", ".join(f"{name} {row[name]['median']:.1f}" for name in seconds)
        extra = ", ".join(f"{row[f'overhead_{kind}']['median']:+.1%} for {kind}" for kind in ("frames", "latents"))
        report(f"B={batch}, steps/s: {told}; the environment adds {extra}")
    data: dict[str, Any] = jsonable(
        {
            "config": asdict(config),
            "machine": machine(),
            "cold_start": asdict(cold),
            "steps_per_second": rates,
            "peak_mb": peak_mb(),
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


def _over(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def _in_turns(config: ImaginationBenchmark, world: World, batch: int) -> dict[str, list[float]]:
    """Seconds of one step of ``batch`` worlds, repeat by repeat, bare and in environments of every kind.

    ``frames`` and ``latents`` are what is drawn or observed; ``bare`` is the world itself, the others environments:
    ``frames`` and ``latents`` without autoreset, ``next_step`` and ``same_step`` with, frames again, and episodes of
    20 steps.
    """
    rng = np.random.default_rng(0)

    def actions() -> Any:
        if world.actions.kind == "discrete":
            return rng.integers(world.actions.n, size=batch)
        return rng.uniform(-1, 1, (batch, *world.actions.shape)).astype(np.float32)

    def environment(**settings: Any) -> ImaginedVectorEnv:
        env = ImaginedVectorEnv(world, batch, contexts=blank_contexts(world), **settings)
        env.reset(seed=0)
        return env

    def bare(draw: bool) -> Callable[[], None]:
        state = environment(autoreset_mode="Disabled").state

        def step() -> None:
            nonlocal state
            # As the environment does, whose states may be differentiated later: inference mode would be faster.
            with torch.no_grad():
                state, imagined = world.imagine(state, actions())
                (world.render(imagined.latents) if draw else imagined.latents).cpu().numpy()

        return step

    def stepped(env: ImaginedVectorEnv) -> Callable[[], None]:
        def step() -> None:
            _, _, terminated, truncated, _ = env.step(actions())
            if env.autoreset_mode is AutoresetMode.DISABLED and (over := terminated | truncated).any():
                env.reset(options={"reset_mask": over})

        return step

    works = {
        "bare_frames": bare(True),
        "frames": stepped(environment(autoreset_mode="Disabled")),
        "bare_latents": bare(False),
        "latents": stepped(environment(autoreset_mode="Disabled", observation="latent")),
        "next_step": stepped(environment(autoreset_mode="NextStep", max_episode_steps=20)),
        "same_step": stepped(environment(autoreset_mode="SameStep", max_episode_steps=20)),
    }
    return take_turns(works, config.repeats, config.seconds)


def blank_contexts(world: World) -> Contexts:
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


if __name__ == "__main__":
    run(tyro.cli(ImaginationBenchmark))
