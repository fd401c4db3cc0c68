"""How fast a learned world imagines: steps a second, what the environment adds, and how far the machine's limit is.

Run it on an idle machine::

    python -m worldloop.benchmarks.imagination --world doom-rooms-tiny --out imagination.json

Every figure is the median over repeats after a warm-up, with the lowest and highest repeat beside it. Works take
turns, a product of two 1024 x 1024 matrices among them: on a machine that others use too, trust the ratios only.
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
from .counting import counted
from .timing import interval, machine, peak_mb, spread, take_turns

OBSERVED = ("frames", "latents")
WORKS = ("bare_frames", "frames", "bare_latents", "latents", "pose", "next_step", "same_step")
PRODUCT = 1024
PRODUCT_FLOPS = 2 * PRODUCT**3


@dataclass(frozen=True)
class ImaginationBenchmark:
    """Measure how fast a learned world imagines."""

    world: str = "doom-rooms-tiny"
    """Name or directory of the world."""
    batches: tuple[int, ...] = (1, 8, 64, 512)
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
    shares: dict[str, dict[str, Any]] = {}
    peaks: dict[str, float] = {}
    report(_line("B", *WORKS, "adds to frames", "adds to latents"))
    for batch in config.batches:
        works = _works(world, batch)
        done = {name: asdict(counted(works[name])) for name in ("bare_frames", "bare_latents")}
        seconds = take_turns(works | {"product": _product(config.device)}, config.repeats, config.seconds)
        product = seconds.pop("product")
        row: dict[str, Any] = {name: spread([batch / s for s in taken]) for name, taken in seconds.items()}
        for kind in OBSERVED:
            row[f"overhead_{kind}"] = interval([r - 1 for r in _over(seconds[kind], seconds[f"bare_{kind}"])])
        rates[str(batch)], peaks[str(batch)] = row, peak_mb()
        shares[str(batch)] = {
            name: {
                "flops_per_world": work["flops"] / batch,
                "bytes_per_world": work["bytes"] / batch,
                "share_of_product": spread([work["flops"] / PRODUCT_FLOPS * s for s in _over(product, seconds[name])]),
            }
            for name, work in done.items()
        }
        extra = (row[f"overhead_{kind}"] for kind in OBSERVED)
        report(
            _line(
                str(batch),
                *(f"{row[name]['median']:.1f}" for name in WORKS),
                *(f"{e['median']:+.1%} ({e['low']:+.1%} to {e['high']:+.1%})" for e in extra),
            )
        )
        for name, work in shares[str(batch)].items():
            report(
                f"    {name}: {work['flops_per_world'] / 1e9:.3f} GFLOP and {work['bytes_per_world'] / 1e6:.1f} MB a "
                f"step of one world, at {work['share_of_product']['median']:.0%} of the rate of a product of matrices"
            )
    data: dict[str, Any] = jsonable(
        {
            "config": asdict(config),
            "machine": machine(),
            "cold_start": asdict(cold),
            "steps_per_second": rates,
            "work": shares,
            "peak_mb_by_batch": peaks,
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


def _product(device: str) -> Callable[[], None]:
    """One product of two matrices, the machine's limit for arithmetic."""
    a = torch.rand(PRODUCT, PRODUCT, device=device)

    def multiply() -> None:
        (a @ a)[0, 0].item()

    return multiply


def _line(*cells: str) -> str:
    return cells[0].rjust(4) + "".join(cell.rjust(max(14, len(cell) + 2)) for cell in cells[1:])


def _works(world: World, batch: int) -> dict[str, Callable[[], None]]:
    """One step of ``batch`` worlds, bare and in environments of every kind.

    ``frames``, ``latents`` and ``pose`` are what is drawn or observed; ``bare`` is the world itself, the others
    environments: those without autoreset or a time limit, ``next_step`` and ``same_step`` with, frames again, and
    episodes of 20 steps.
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

    return {
        "bare_frames": bare(True),
        "frames": stepped(environment(autoreset_mode="Disabled")),
        "bare_latents": bare(False),
        "latents": stepped(environment(autoreset_mode="Disabled", observation="latent")),
        "pose": stepped(environment(autoreset_mode="Disabled", observation="pose")),
        "next_step": stepped(environment(autoreset_mode="NextStep", max_episode_steps=20)),
        "same_step": stepped(environment(autoreset_mode="SameStep", max_episode_steps=20)),
    }


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
