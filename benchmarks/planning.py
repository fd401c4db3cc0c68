"""How fast plans are made in a world with a long memory, how much memory that takes, and beside another's solver.

Run it on an idle machine::

    python -m worldloop.benchmarks.planning --world doom-rooms-nano --out planning.json

Where stable-worldmodel can be imported, its categorical CEM plans in the same world, for the same starts and goals with
the same objective: in turns with ours at equal candidates, iterations and elites, and then with as many candidates as
make it take as long. Everything works on random frames: what is seen changes no speed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..planning import CategoricalCEM, GoalFrame, RandomShooting
from ..planning.interop import StableCost
from ..planning.planner import Plan
from ..world_models.config import Imagination
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world_model import WorldModel
from .memory import filled, walk_poses
from .timing import interval, machine, peak_mb, spread, take_turns

_SIDE = 2000.0
"""World units along the square that the remembered walk stays in."""


@dataclass(frozen=True)
class PlanningBenchmark:
    """Measure how fast plans are made."""

    world: str = "doom-rooms-nano"
    """Name or directory of a world with a memory and keys as actions."""
    imaginations: tuple[Imagination, ...] = ("video", "state")
    """Ways of imagining; state where the world has a state space."""
    frames: int = 10_000
    """Frames remembered when planning begins."""
    horizon: int = 12
    """Steps looked ahead."""
    candidates: int = 64
    """Plans tried in each iteration."""
    iterations: int = 3
    """How often they are refined."""
    elites: int = 8
    """Best plans learned from."""
    worlds: tuple[int, ...] = (1, 8)
    """Worlds planned for at once."""
    many: int = 512
    """Candidates of the plan whose memory is measured."""
    problems: int = 20
    """Goals that both packages' solvers plan for, and are compared by."""
    repeats: int = 7
    """Turns of every figure."""
    seconds: float = 1.0
    """Least length of a turn."""
    threads: int | None = None
    """Threads of PyTorch; default what it chooses."""
    out: Path | None = None
    """JSON file to write."""


def run(config: PlanningBenchmark, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Every figure, told line by line as it is measured."""
    if config.threads:
        torch.set_num_threads(config.threads)
    video = load_world(config.world)
    ways = {
        how: load_world(config.world, imagination=how)
        for how in config.imaginations
        if how == "video" or video.state_size
    }
    data: dict[str, Any] = {"config": asdict(config), "machine": machine(), "provenance": provenance(video)}
    # First, while nothing else has raised the peak, and the smaller one before the larger.
    data["peak"] = {name: _peak(world, config) for name, world in reversed(ways.items())}
    for name, peak in data["peak"].items():
        report(f"{config.many} candidates of {config.horizon} steps, {name}: {peak['added_mb']:.0f} MB beyond "
               f"{peak['before_mb']:.0f} MB")  # fmt: skip
    data["rates"] = {}
    for name, world in ways.items():
        for b in config.worlds:
            rate = data["rates"][f"{name}, {b}"] = _rate(world, b, config)
            report(
                f"{name}, {b} world(s): {rate['plans']['median']:.2f} plans/s ({rate['plans']['low']:.2f} to "
                f"{rate['plans']['high']:.2f}), {rate['candidate_steps']['median']:.0f} candidate steps/s, "
                f"{rate['imagined']:.0%} of them imagined"
            )
    data["beside"] = {name: _beside(world, config, report, name) for name, world in ways.items()}
    plain: dict[str, Any] = jsonable(data)
    if config.out is not None:
        write_json(config.out, plain)
    return plain


def started(world: WorldModel, b: int, config: PlanningBenchmark) -> WorldState:
    """B worlds that share a long past and have each seen a few frames since."""
    rng = np.random.default_rng(0)
    state = world.start(1)
    assert state.memory is not None
    memory = filled(state.memory.arena, walk_poses(config.frames, _SIDE, 0))
    k, newest = world.config.context, torch.from_numpy(walk_poses(config.frames, _SIDE, 0)[-1])
    state = replace(state, memory=memory, step=state.step + config.frames, carried={}, origin=world.origin)
    state = replace(state.fork(b), seeds=torch.arange(b))
    frames = rng.integers(0, 256, (b, k, *world.frame_size, 3), dtype=np.uint8)
    return world.observe(state, frames, np.zeros((b, k), np.int64), newest.expand(b, k, 5))


def _objective(world: WorldModel, number: int) -> GoalFrame:
    goal = np.random.default_rng(number).integers(0, 256, (*world.frame_size, 3), dtype=np.uint8)
    return GoalFrame.of(world, goal)


def _solver(config: PlanningBenchmark) -> CategoricalCEM:
    return CategoricalCEM(
        horizon=config.horizon, candidates=config.candidates, iterations=config.iterations, elites=config.elites
    )


def _peak(world: WorldModel, config: PlanningBenchmark) -> dict[str, float]:
    with torch.inference_mode():
        state, goal = started(world, 1, config), _objective(world, 0)
        world.imagine(state, [0])
        before = peak_mb()
        RandomShooting(horizon=config.horizon, candidates=config.many, elites=1).plan(world, state, goal)
    return {"before_mb": before, "added_mb": peak_mb() - before}


def _rate(world: WorldModel, b: int, config: PlanningBenchmark) -> dict[str, Any]:
    state, goal, solver = started(world, b, config), _objective(world, 0), _solver(config)
    plans: list[Plan] = []

    def plan() -> None:
        with torch.inference_mode():
            plans.append(solver.plan(world, state, goal))

    taken = take_turns({"plan": plan}, config.repeats, config.seconds)["plan"]
    steps = b * config.candidates * config.iterations * config.horizon
    return {
        "plans": spread([b / s for s in taken]),
        "candidate_steps": spread([steps / s for s in taken]),
        "imagined": plans[-1].model_steps / steps,
    }


def _beside(
    world: WorldModel, config: PlanningBenchmark, report: Callable[[str], None], name: str
) -> dict[str, Any] | None:
    """Our categorical CEM and stable-worldmodel's, on the same problems; None where that cannot be imported."""
    try:
        theirs = importlib.import_module("stable_worldmodel.solver").CategoricalCEMSolver
    except ImportError as error:
        report(f"stable-worldmodel cannot be imported, so it was not measured: {error}")
        return None
    state = started(world, 1, config)

    def ours(number: int, candidates: int = config.candidates) -> Tensor:
        with torch.inference_mode():
            solver = replace(_solver(config), candidates=candidates, seed=number)
            return solver.plan(world, state, _objective(world, number)).actions

    def other(number: int) -> Tensor:
        with torch.inference_mode(), redirect_stdout(StringIO()):
            cost = StableCost(world, state, _objective(world, number), max_batch=_solver(config).max_batch)
            solver = theirs(
                cost, num_samples=config.candidates, n_steps=config.iterations, topk=config.elites, seed=number
            )
            how = SimpleNamespace(
                horizon=config.horizon, receding_horizon=1, history_len=1, action_block=1, warm_start=False
            )
            solver.configure(action_space=cost.action_space, n_envs=1, config=how)
            found = torch.as_tensor(solver.solve(cost.info)["actions"])
        keys = found.argmax(-1) if found.ndim == 3 and found.shape[-1] == world.actions.n else found.flatten(1)
        return keys.long()

    def cost_of(number: int, keys: Tensor) -> float:
        """Of one plan, told for both alike."""
        with torch.inference_mode():
            cost = StableCost(world, state, _objective(world, number))
            rows = {key: value.unsqueeze(1) for key, value in cost.info.items()}
            one_hot = torch.nn.functional.one_hot(keys, world.actions.n).float()
            return float(cost.get_cost(rows, one_hot.unsqueeze(1)))

    # Every problem in turn: how many beginnings of plans are alike differs from one to the next.
    mine, its = (cycle(range(config.problems)) for _ in range(2))
    works = {"ours": lambda: ours(next(mine)), "theirs": lambda: other(next(its))}
    seconds = take_turns(works, config.repeats, config.seconds)
    faster = interval([b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)])
    more = max(config.candidates, round(config.candidates * faster["median"]))
    gains: dict[str, list[float]] = {"equal candidates": [], "equal time": []}
    for number in range(config.problems):
        their_cost = cost_of(number, other(number))
        for what, candidates in (("equal candidates", config.candidates), ("equal time", more)):
            gains[what].append(their_cost - cost_of(number, ours(number, candidates)))
    report(
        f"{name}: beside stable-worldmodel's CategoricalCEMSolver at equal candidates {faster['median']:.2f} times as "
        f"fast ({faster['low']:.2f} to {faster['high']:.2f}); {more} candidates take as long as its {config.candidates}"
    )
    better = {what: interval(values) for what, values in gains.items()}
    for what, value in better.items():
        report(f"    cost less than its by {value['median']:.4f} ({value['low']:.4f} to {value['high']:.4f}), {what}")
    return {
        "seconds": {who: spread(taken) for who, taken in seconds.items()},
        "times_as_fast": faster,
        "candidates_at_equal_time": more,
        "cost_less_by": better,
    }


if __name__ == "__main__":
    run(tyro.cli(PlanningBenchmark))
