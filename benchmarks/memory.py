"""What memory costs: packed context, long histories, retrieval, forks.

Run it on an idle machine; ``--sections packing`` runs one part alone::

    python -m worldloop.benchmarks.memory --out memory.json

Every time is the median over repeats after a warm-up, with the lowest and highest repeat beside it. What is compared
takes turns within one run, and a ratio is that of two repeats of one turn. Weights and latents are random: they change
no speed.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.steering import FORWARD, YAW, Steering
from ..errors import ConfigError
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.config import preset
from ..world_models.memory.bank import Arena, Memory
from ..world_models.memory.packing import PACKINGS, packing_named
from ..world_models.memory.recall import recall
from ..world_models.memory.retrieval import Query, Remembered, Retrieved, WorldPack, retrieve
from ..world_models.prediction.cdit import CDiT
from ..world_models.prediction.config import CDiTConfig
from ..world_models.prediction.context import Context
from ..world_models.prediction.flow import integrate
from ..world_models.pretrained import load_world
from ..world_models.world_model import WorldModel
from .timing import bar, machine, ratios, spread, take_turns

Section = Literal["packing", "history", "retrieval", "fork"]
_CHANNELS, _PATCH = 16, 2
_STROLL = 16
"""Steps imagined from one state before it is taken up again, so that its history keeps its length."""


@dataclass(frozen=True)
class MemoryBenchmark:
    """Measure what memory costs."""

    sections: tuple[Section, ...] = ("packing", "history", "retrieval", "fork")
    """Parts to run."""
    world: str | None = None
    """Name or directory of a world with a memory; default one of the tiny preset's shape, untrained."""
    depth: int = 12
    """Blocks of the transformer whose packing is timed. The defaults are CDiT-S; CDiT-B is 12, 768, 12."""
    width: int = 384
    """Its token width."""
    heads: int = 6
    """Its attention heads."""
    grid: tuple[int, int] = (22, 40)
    """Rows and columns of tokens of its frames."""
    denoising_steps: int = 4
    """Of one imagined step of it."""
    packed: str = "reference"
    """Packing to time, a name of `PACKINGS`."""
    base: str = "raw"
    """Packing to compare it with."""
    histories: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    """Frames remembered when a step is timed; the others are compared with the first."""
    poses: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Frames to retrieve from."""
    queries: int = 64
    """Different frames to retrieve for."""
    side: float = 656.0
    """Side of the square that was walked, in world units; DoomRooms' default maps have 656."""
    fork_frames: int = 10_000
    """Frames remembered by the world that is forked."""
    forks: int = 512
    """How many go on from it."""
    repeats: int = 31
    """Timed repeats of every figure: many short ones, since what is compared takes turns."""
    seconds: float = 0.3
    """Least length of one repeat."""
    seed: int = 0
    """Of weights, latents and walks."""
    device: str = "cpu"
    """Where to compute."""
    threads: int | None = None
    """Threads of PyTorch; default what it chooses."""
    out: Path | None = None
    """JSON file to write."""


def run(config: MemoryBenchmark, report: Callable[[str], None] = print) -> dict[str, Any]:
    """The sections asked for, told bar by bar as they are measured."""
    if config.threads:
        torch.set_num_threads(config.threads)
    parts = {"packing": packing, "history": history, "retrieval": retrieval, "fork": fork}
    data: dict[str, Any] = {
        "config": asdict(config),
        "machine": machine(),
        "provenance": provenance() | {"device": config.device, "world": config.world or "tiny preset, untrained"},
    }
    for section in config.sections:
        with torch.inference_mode():
            data[section] = parts[section](config)
        for name, found in data[section]["bars"].items():
            report(f"{name}: {found['value']:.4g} ({'within' if found['met'] else 'NOT WITHIN'} {found['limit']:g})")
    data = jsonable(data)
    if config.out is not None:
        write_json(config.out, data)
    return data


def packing(config: MemoryBenchmark) -> dict[str, Any]:
    """One imagined step, context and all denoising steps, with packed frames against whole ones.

    ``peak_mb`` is that of a fresh process each, ``step_mb`` what the step added to it: on a CPU all that is resident,
    the interpreter included, on a GPU what is allocated there.
    """
    names = (config.packed, config.base)
    steps = {name: packed_step(config, name) for name in names}
    seconds = take_turns({name: step for name, (step, _) in steps.items()}, config.repeats, config.seconds)
    found: dict[str, Any] = {}
    for name, (_, tokens) in steps.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            peak = fresh.submit(peak_memory, config, name).result()
        found[name] = {
            "frames": packing_named(name).frames,
            "tokens": tokens,
            "budget": tokens / math.prod(config.grid),
            "step_s": spread(seconds[name]),
            "peak_mb": peak and peak[0] / 1e6,
            "step_mb": peak and peak[1] / 1e6,
        }
    packed, base = (found[name] for name in names)
    for name in ("peak_mb", "step_mb"):
        found[f"{name}_ratio"] = base[name] and packed[name] / base[name]
    found["ratio"] = ratios(seconds[config.packed], seconds[config.base])
    return found | {"bars": {"time of a packed step over the base's": bar(found["ratio"]["median"], 1.10)}}


def packed_step(config: MemoryBenchmark, name: str) -> tuple[Callable[[], None], int]:
    """One imagined step of a transformer whose context is packed as ``name`` says, and the context tokens it has."""
    torch.manual_seed(config.seed)
    packed, device = packing_named(name), torch.device(config.device)
    grid = (config.grid[0] * _PATCH, config.grid[1] * _PATCH)
    size = CDiTConfig(
        config.depth, config.width, config.heads, patch=_PATCH, context=packed.recent, retrieved=packed.retrieved
    )
    model = CDiT(size, _CHANNELS, grid, math.pi / 2).to(device).eval()
    k, recent = packed.frames, len(packed.recent)
    frames, noise = torch.randn(1, k, _CHANNELS, *grid).to(device), torch.randn(1, _CHANNELS, *grid).to(device)
    # Retrieved frames stand right before the recent ones, the best last.
    offsets = torch.tensor([*range(-recent, 0), *range(-recent - 1, -k - 1, -1)], device=device)[None]
    clean, there = torch.zeros(1, k, device=device), torch.ones(1, k, dtype=torch.bool, device=device)
    poses = torch.randn(1, k + 1, 5, dtype=torch.float64).to(device)
    keys, magnitudes = torch.zeros(1, dtype=torch.int64, device=device), torch.rand(1, 13).to(device)

    def context() -> Context:
        return model.context(frames, clean, offsets, poses[:, 1:], there, poses[:, 0])

    def step() -> None:
        with torch.inference_mode():
            seen = context()
            integrate(lambda x, moment: model(x, moment, keys, magnitudes, seen), noise, config.denoising_steps)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        # The first key is the null token's.
        return step, context().keys[0].shape[1] - 1


def peak_memory(config: MemoryBenchmark, name: str) -> tuple[int, int] | None:
    """Peak bytes of this process, and how many of them a step added; None where the system does not tell."""
    if config.threads:
        torch.set_num_threads(config.threads)
    cuda, status = torch.device(config.device).type == "cuda", Path("/proc/self/status")
    if not cuda and not status.exists():
        return None

    def resident(name: str) -> int:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
        return 1024 * int(line.split()[1])

    step, _ = packed_step(config, name)
    before = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    step()
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    return peak, peak - before


def history(config: MemoryBenchmark) -> dict[str, Any]:
    """One step of a world against the frames it remembers, which come into its memory in bulk, see `filled`.

    The tree over a long past is built anew once in so many steps; ``with_tree`` shares its time out among them.
    """
    world = memory_world(config)
    strolls = {n: Stroll(world, n, config) for n in config.histories}
    seconds = take_turns(strolls, config.repeats, config.seconds)
    least = config.histories[0]
    rows, bars = {}, {}
    for n, stroll in strolls.items():
        ratio, usual = ratios(seconds[n], seconds[least]), median(seconds[n])
        tree = max(0.0, median(stroll.seconds_without_tree() for _ in range(config.repeats)) - usual)
        with_tree = (usual + tree / stroll.steps_per_tree) / median(seconds[least])
        rows[n] = {"step_ms": spread(seconds[n], 1e3), "ratio": ratio, "tree_ms": 1e3 * tree, "with_tree": with_tree}
        if n != least:
            bars[f"a step with {n} frames over one with {least}"] = bar(max(ratio["median"], with_tree), 1.05)
    return {"histories": rows, "bars": bars}


class Stroll:
    """A world that remembers ``frames`` frames and walks in a circle, one step a call, begun anew now and then."""

    def __init__(self, world: WorldModel, frames: int, config: MemoryBenchmark) -> None:
        self._world, self._frames = world, frames
        steering = Steering(world.actions)
        ways = (steering.action(FORWARD, steering.step), steering.action(YAW, steering.turn))
        self._actions = cycle([np.asarray(way)[None] for way in ways])
        poses = walk_poses(frames, config.side, config.seed)
        track, empty = torch.from_numpy(poses).to(world.device), world.start(1)
        arena = Arena(world.config.latent_shape, world.device, pages=frames // 16 + 64)
        self.steps_per_tree = arena.tail_pages * arena.page_frames
        self._start = self._state = replace(
            empty,
            step=torch.full_like(empty.step, frames),
            pose=track[-1:],
            latents=torch.randn_like(empty.latents),
            poses=track[None, -world.config.context :],
            valid=torch.ones_like(empty.valid),
            memory=filled(arena, poses, config.seed),
        )

    def __call__(self) -> None:
        if int(self._state.step) >= self._frames + _STROLL:
            self._state = self._start
        self._state, step = self._world.imagine(self._state, next(self._actions))
        step.reward.cpu()

    def seconds_without_tree(self) -> float:
        """Seconds of a step for which the tree over the past, if it is long enough for one, must be built."""
        assert self._start.memory is not None
        self._state = self._start
        self._start.memory.arena.indices.clear()
        begin = time.perf_counter()
        self()
        return time.perf_counter() - begin


def retrieval(config: MemoryBenchmark) -> dict[str, Any]:
    """One query by scoring every frame, and as a world's step asks it: ``recall``, alone and together with others.

    It finds its tree built, as nearly every step does.
    """
    world = memory_world(config)
    step = Stroll(world, config.histories[0], config)
    rows = {n: retrieval_among(n, step, len(world.config.cdit.retrieved), config) for n in config.poses}
    bars = {}
    for n, row in rows.items():
        if n <= 100_000:
            bars[f"recall among {n} frames over a step"] = bar(row["share_of_step"]["median"], 0.05)
            continue
        for name, how in (("recall", "alone"), ("together", f"{config.queries} together")):
            bars[f"microseconds of a query among {n} frames, {how}"] = bar(row["microseconds"][name]["median"], 100)
    return {"poses": rows, "bars": bars}


def retrieval_among(n: int, step: Stroll, k: int, config: MemoryBenchmark) -> dict[str, Any]:
    """`retrieval` of ``k`` among ``n`` frames, next to ``step`` with a short history."""
    strategy, track, times = WorldPack(), walk_poses(n + config.queries, config.side, config.seed), np.arange(n)
    now = torch.full((config.queries,), n)
    together = Query(torch.from_numpy(track[n:]), now, now)
    single = [together[torch.tensor([i])] for i in range(config.queries)]
    every = Remembered(
        torch.from_numpy(track[None, :n]), torch.from_numpy(times)[None], torch.ones(1, n, dtype=torch.bool)
    )
    memory = filled(Arena((1, 1, 1), pages=n // 16 + 64), track[:n])
    forks = memory.fork(config.queries)
    begin = time.perf_counter()
    recall(memory, strategy, single[0], k)
    built = time.perf_counter() - begin

    def everything(query: Query) -> Retrieved:
        return retrieve(strategy, query, every, k)

    turn = cycle(single)
    works: dict[str, Callable[[], Any]] = {
        "everything": lambda: everything(next(turn)),
        "recall": lambda: recall(memory, strategy, next(turn), k),
        "together": lambda: recall(forks, strategy, together, k),
        "step": step,
    }
    seconds = take_turns(works, config.repeats, config.seconds)
    seconds["together"] = [s / config.queries for s in seconds["together"]]
    return {
        "microseconds": {name: spread(s, 1e6) for name, s in seconds.items()},
        "share_of_step": ratios(seconds["recall"], seconds["step"]),
        "build_s": built,
        "same_answers": all(
            torch.equal(everything(q).columns, recall(memory, strategy, q, k).times) for q in single[:8]
        ),
    }


def fork(config: MemoryBenchmark) -> dict[str, Any]:
    """Bytes that forks of a long memory, filled frame by frame, add before they write; then the first frame of each."""
    world = memory_world(config)
    poses = torch.from_numpy(walk_poses(config.fork_frames, config.side, config.seed))
    arena = Arena(world.config.latent_shape, world.device, pages=config.fork_frames // 16 + 64)
    memory = arena.empty(1)
    for part in poses.split(1000):
        memory = memory.extend(torch.randn(1, len(part), *arena.latent_shape), part[None])
    state = replace(world.start(1), memory=memory)
    before = buffers(state)
    pages, page = arena.pages_in_use, sum(size for _, size in buffers(arena).values()) // arena.pages
    own = sum(size for name, (_, size) in before.items() if name.startswith("memory.") and ".arena." not in name)
    whole = pages * page + own
    begin = time.perf_counter()
    forks = state.fork(config.forks)
    seconds = time.perf_counter() - begin
    old = {pointer for pointer, _ in before.values()}
    added = {name: size for name, (pointer, size) in buffers(forks).items() if pointer not in old}
    tables = sum(size for name, size in added.items() if name.startswith("memory."))
    assert forks.memory is not None
    kept = forks.memory.append(forks.latents[:, -1], forks.pose, forks.memory.next_time)
    return {
        "memory_bytes": whole,
        "added_bytes": added,
        "page_table_bytes": tables,
        "recent_frame_bytes": sum(added.values()) - tables,
        "first_frame_bytes": (kept.arena.pages_in_use - pages) * page,
        "fork_ms": 1e3 * seconds,
        "bars": {
            f"page tables of {config.forks} forks over the memory": bar(tables / whole, 0.01),
            f"all that {config.forks} forks add over the memory": bar(sum(added.values()) / whole, 0.01),
        },
    }


def buffers(value: Any, name: str = "") -> dict[str, tuple[int, int]]:
    """Every tensor and table that ``value`` holds, by where it is found: address and bytes really allocated."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return {name: (storage.data_ptr(), storage.nbytes())} if storage.nbytes() else {}
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        return {name: (value.__array_interface__["data"][0], value.nbytes)} if value.nbytes else {}
    if is_dataclass(value):
        inner = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, Arena):
        inner = vars(value)
    else:
        inner = dict(value) if isinstance(value, Mapping) else {}
    parts = (buffers(part, f"{name}.{key}".lstrip(".")) for key, part in inner.items())
    return {key: found for part in parts for key, found in part.items()}


def memory_world(config: MemoryBenchmark) -> WorldModel:
    """The world asked for.

    Raises:
        ConfigError: it has no memory.
    """
    if config.world is None:
        torch.manual_seed(config.seed)
        shape, packed = preset("tiny", DoomRoomsEnv().action_spec), PACKINGS["tiny"]
        seen = replace(shape.cdit, context=packed.recent, retrieved=packed.retrieved, camera="rays")
        return WorldModel(replace(shape, cdit=seen)).to(config.device).eval()
    world = load_world(config.world, device=config.device)
    if not world.config.remembers:
        raise ConfigError(f"The world {config.world} has no memory to measure.")
    return world


def walk_poses(n: int, side: float, seed: int) -> NDArray[np.float64]:
    """Poses (n, 5) of a walk over a square of ``side``: a step of 25 units or a turn of 22.5 degrees at a time."""
    turns = np.random.default_rng(seed).integers(-1, 2, n)
    yaw = turns.cumsum() * math.pi / 8
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], 1)
    # At the walls the walk is reflected, and where it looks with it.
    way = np.mod((25.0 * ahead * (turns == 0)[:, None]).cumsum(0) + side / 2, 2 * side)
    x, y = np.minimum(way, 2 * side - way).T
    left, up = (ahead * np.where(way < side, 1, -1)).T
    return np.stack([x, y, np.zeros(n), np.arctan2(up, left), np.zeros(n)], 1)


def filled(arena: Arena, poses: NDArray[np.float64], seed: int = 0) -> Memory:
    """A memory of random frames at ``poses`` (N, 5), by `Memory.from_tensors`: the newest pages its tail."""
    n, size = len(poses), arena.page_frames
    pages = -(-n // size)
    counts = torch.full((1, pages), size)
    counts[0, -1] = n - size * (pages - 1)
    numbers, old = torch.arange(pages)[None], (pages - 1) // arena.tail_pages * arena.tail_pages
    places = torch.zeros(pages * size, 5, dtype=torch.float64)
    places[:n] = torch.from_numpy(poses)
    data = {
        "latents": torch.randn(pages, size, *arena.latent_shape, generator=torch.Generator().manual_seed(seed)),
        "poses": places.unflatten(0, (pages, size)), "times": torch.arange(pages * size).unflatten(0, (pages, size)),
        "imagined": torch.zeros(pages, size, dtype=torch.bool),
        "trunk_pages": numbers[:, :old], "trunk_counts": counts[:, :old], "row": torch.tensor([0]),
        "tail_pages": numbers[:, old:], "tail_counts": counts[:, old:], "last_time": torch.tensor([n - 1]),
    }  # fmt: skip
    return Memory.from_tensors(arena, data)


if __name__ == "__main__":
    run(tyro.cli(MemoryBenchmark))
