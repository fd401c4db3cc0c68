"""Two million steps of an imagined vector environment: does memory use stay flat, do the random streams hold?

Run it with::

    python -m worldloop.benchmarks.endurance --out endurance.json

The world is a very small untrained one with a long-term memory of limited capacity, so that steps cost little and all
that could leak is used: pages, page tables, search trees, episodes that begin and end. At the end the environment is
saved, and a fresh process must see the same future from there.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.imagined_vector import ImaginedVectorEnv
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.config import WorldConfig
from ..world_models.perception.autoencoder import AutoencoderConfig
from ..world_models.prediction.config import CDiTConfig
from ..world_models.world_model import WorldModel
from .imagination import blank_contexts
from .timing import bar, machine

_AHEAD = 20
"""Steps of the future that a fresh process must repeat."""


@dataclass(frozen=True)
class Endurance:
    """Step an imagined vector environment for very long."""

    steps: int = 2_000_000
    """Environment steps, of all worlds together."""
    num_envs: int = 64
    """Worlds stepped side by side."""
    horizon: int = 300
    """Steps of an episode."""
    capacity: int = 256
    """Frames that a world remembers."""
    samples: int = 40
    """How often memory use is looked at."""
    seed: int = 0
    """Of weights, worlds and actions."""
    threads: int | None = None
    """Threads of PyTorch; default what it chooses."""
    out: Path | None = None
    """JSON file to write."""


def run(config: Endurance, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Step, watch memory, save, and compare with a fresh process."""
    if config.threads:
        torch.set_num_threads(config.threads)
    env = environment(config)
    env.reset(seed=config.seed)
    rng = np.random.default_rng(config.seed)
    calls, begin, seen = -(-config.steps // config.num_envs), time.perf_counter(), []
    every = max(1, calls // config.samples)
    for call in range(calls):
        env.step(rng.integers(env.single_action_space.n, size=config.num_envs))  # type: ignore[attr-defined]
        if (call + 1) % every == 0:
            assert env.state.memory is not None
            arena = env.state.memory.arena
            seen.append({
                "steps": (call + 1) * config.num_envs, "resident_mb": _resident_mb(), "pages": arena.pages,
                "trees": len(arena.indices), "seconds": time.perf_counter() - begin,
            })  # fmt: skip
            report("{steps} steps, {resident_mb:.0f} MB, {pages} pages, {seconds:.0f} s".format(**seen[-1]))
    saved = env.snapshot()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        there = fresh.submit(future, config, saved).result()
    half = seen[len(seen) // 2 :]
    growth = max(s["resident_mb"] for s in half) - min(s["resident_mb"] for s in half)
    data: dict[str, Any] = jsonable({
        "config": asdict(config), "machine": machine(), "provenance": provenance(), "samples": seen,
        "same_future_in_a_fresh_process": there == _future(env),
        "bars": {
            "megabytes that the second half of the run grew by": bar(growth, 8.0),
            "pages at the end over those at half time": bar(half[-1]["pages"] / half[0]["pages"], 1.0),
        },
    })  # fmt: skip
    report(f"the second half grew by {growth:.1f} MB; same future elsewhere: {data['same_future_in_a_fresh_process']}")
    if config.out is not None:
        write_json(config.out, data)
    return data


def environment(config: Endurance) -> ImaginedVectorEnv:
    """The environment: always the same for one configuration."""
    torch.manual_seed(config.seed)
    cdit = CDiTConfig(1, 16, 1, context=(2, 1), retrieved=(1, 2), camera="rays")
    small = AutoencoderConfig(channels=4, widths=(8, 8, 8))
    world = WorldModel(
        WorldConfig((16, 16), DoomRoomsEnv().action_spec, capacity=config.capacity, autoencoder=small, cdit=cdit)
    ).eval()
    return ImaginedVectorEnv(world, config.num_envs, blank_contexts(world), config.horizon, observation="latent")


def future(config: Endurance, saved: bytes) -> str:
    """Digest of what the saved environment shows next, here."""
    env = environment(config)
    env.restore(saved)
    return _future(env)


def _future(env: ImaginedVectorEnv) -> str:
    digest, rng = hashlib.sha256(), np.random.default_rng(1)
    for _ in range(_AHEAD):
        observations, rewards, *_ = env.step(rng.integers(7, size=env.num_envs))
        digest.update(observations.tobytes() + rewards.tobytes())
    return digest.hexdigest()


def _resident_mb() -> float:
    """Resident memory now, in megabytes (10^6 bytes); the peak so far where the system does not tell."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    run(tyro.cli(Endurance))
