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
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor

from ..envs.contexts import Contexts
from ..envs.episodes import Episodes
from ..envs.imagined_vector import ImaginedVectorEnv
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world import World
from .counting import counted
from .timing import interval, machine, peak_mb, spread, take_turns

MODES = ("next_step", "same_step", "by_hand")
"""How episodes that are over begin anew: by themselves, or by a reset of these worlds."""
EPISODE = 20
"""Steps of their episodes, which end at different times: in every step as many as in every other."""
PRODUCT = 1024
PRODUCT_FLOPS = 2 * PRODUCT**3


@dataclass(frozen=True)
class ImaginationBenchmark:
    """Measure how fast a learned world imagines."""

    world: str = "doom-rooms-tiny"
    """Name or directory of the world."""
    denoising_steps: int | None = None
    """Steps that draw a frame; default the world's own."""
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
    how = {} if config.denoising_steps is None else {"denoising_steps": config.denoising_steps}
    world = load_world(config.world, device=config.device, **how)
    rates: dict[str, dict[str, Any]] = {}
    shares: dict[str, dict[str, Any]] = {}
    peaks: dict[str, float] = {}
    in_states = load_world(config.world, device=config.device, imagination="state") if world.state_size else None
    observed = ("frames", "latents", "states") if in_states else ("frames", "latents")
    if in_states is None:
        report(f"{config.world} has no state space: no figures of imagining in one")
    for batch in config.batches:
        works = _works(world, in_states, batch)
        done = {name: asdict(counted(works[name])) for name in (f"bare_{kind}" for kind in observed)}
        seconds = take_turns(works | {"product": _product(config.device)}, config.repeats, config.seconds)
        product = seconds.pop("product")
        row: dict[str, Any] = {name: spread([batch / s for s in taken]) for name, taken in seconds.items()}
        for kind in observed:
            row[f"overhead_{kind}"] = interval([r - 1 for r in _over(seconds[kind], seconds[f"bare_{kind}"])])
            asked = in_states if kind == "states" and in_states is not None else world
            row[f"outside_{kind}"] = interval(outside(asked, works[kind], config.repeats, config.seconds))
        for mode in MODES:
            row[f"resets_{mode}"] = interval([r - 1 for r in _over(seconds[mode], seconds["frames"])])
        rates[str(batch)], peaks[str(batch)] = row, peak_mb()
        shares[str(batch)] = {
            name: {
                "flops_per_world": work["flops"] / batch,
                "bytes_per_world": work["bytes"] / batch,
                "share_of_product": spread([work["flops"] / PRODUCT_FLOPS * s for s in _over(product, seconds[name])]),
            }
            for name, work in done.items()
        }
        report(f"B = {batch}, steps of worlds a second: " + ", ".join(f"{n} {row[n]['median']:.1f}" for n in works))
        for kind in observed:
            report(
                f"    the environment adds to {kind}: {_percent(row[f'overhead_{kind}'])} against the bare model in "
                f"turns, {_percent(row[f'outside_{kind}'])} by its own time in the same steps"
            )
        for mode in MODES:
            report(f"    resets of one world in {EPISODE}, {mode}, add to frames: {_percent(row[f'resets_{mode}'])}")
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


def outside(world: World, work: Callable[[], None], repeats: int, seconds: float) -> list[float]:
    """Time that ``work`` spends outside of ``world``, over what it spends inside, repeat by repeat.

    Both are of the same steps, so that a machine that slows down slows both. It tells nothing of devices whose calls
    return before they are done.
    """
    clock = {"inside": 0.0, "depth": 0.0}

    def clocked(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            clock["depth"] += 1
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                clock["depth"] -= 1
                if not clock["depth"]:
                    clock["inside"] += time.perf_counter() - begin

        return timed

    names = ("imagine", "render", "encode_state")
    for name in names:
        setattr(world, name, clocked(getattr(world, name)))
    try:
        shares = []
        for _ in range(repeats):
            clock["inside"], begin = 0.0, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                work()
            inside = clock["inside"]
            shares.append((time.perf_counter() - begin - inside) / inside)
        return shares
    finally:
        for name in names:
            delattr(world, name)


def _over(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def _product(device: str) -> Callable[[], None]:
    """One product of two matrices, the machine's limit for arithmetic."""
    a = torch.rand(PRODUCT, PRODUCT, device=device)

    def multiply() -> None:
        (a @ a)[0, 0].item()

    return multiply


def _percent(share: dict[str, float]) -> str:
    return f"{share['median']:+.1%} ({share['low']:+.1%} to {share['high']:+.1%})"


def _works(world: World, in_states: World | None, batch: int) -> dict[str, Callable[[], None]]:
    """One step of ``batch`` worlds, bare and in environments of every kind.

    ``frames``, ``latents``, ``pose`` and ``states`` are what is drawn or observed, the last imagined in state space;
    ``bare`` is the world itself, the others environments: `MODES` with episodes that end, frames again, all others
    without.
    """
    rng = np.random.default_rng(0)

    def drawn() -> Any:
        if world.actions.kind == "discrete":
            return rng.integers(world.actions.n, size=batch)
        return rng.uniform(-1, 1, (batch, *world.actions.shape)).astype(np.float32)

    # Drawn beforehand: choosing actions is neither the world's work nor the environment's.
    turns = cycle([drawn() for _ in range(100)])

    def actions() -> Any:
        return next(turns)

    def environment(mode: str = "Disabled", of: World = world, **settings: Any) -> ImaginedVectorEnv:
        env = ImaginedVectorEnv(of, batch, contexts=blank_contexts(of), autoreset_mode=mode, **settings)
        env.reset(seed=0)
        return env

    def ending(mode: str) -> ImaginedVectorEnv:
        env = environment(mode, max_episode_steps=EPISODE)
        begun = Episodes.restore(env.snapshot(), world.device)
        env.restore(replace(begun, elapsed=torch.arange(batch, device=world.device) % EPISODE).snapshot())
        return env

    def bare(of: World, shown: Callable[[WorldState], Tensor]) -> Callable[[], None]:
        state = environment(of=of).state

        def step() -> None:
            nonlocal state
            # As the environment does, whose states may be differentiated later: inference mode would be faster.
            with torch.no_grad():
                state, _ = of.imagine(state, actions())
                shown(state).cpu().numpy()

        return step

    def stepped(env: ImaginedVectorEnv) -> Callable[[], None]:
        def step() -> None:
            _, _, terminated, truncated, _ = env.step(actions())
            if env.autoreset_mode is AutoresetMode.DISABLED and (over := terminated | truncated).any():
                env.reset(options={"reset_mask": over})

        return step

    works = {
        "bare_frames": bare(world, lambda state: world.render(state.latents[:, -1])),
        "frames": stepped(environment()),
        "bare_latents": bare(world, lambda state: state.latents[:, -1]),
        "latents": stepped(environment(observation="latent")),
        "pose": stepped(environment(observation="pose")),
        "next_step": stepped(ending("NextStep")),
        "same_step": stepped(ending("SameStep")),
        "by_hand": stepped(ending("Disabled")),
    }
    if in_states is not None:
        works["bare_states"] = bare(in_states, in_states.encode_state)
        works["states"] = stepped(environment(of=in_states, observation="state"))
    return works


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
