"""The table of planning: all planners and baselines on the same held-out goals; every cell is kept once it is done."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from ..envs.explorers import Explorer, WaypointExplorer
from ..envs.imagination import check_fits
from ..files import write_bytes, write_json
from .baselines import OracleAgent, RandomAgent
from .control import draw_goals, objective_for
from .equal_time import Fitting, candidates_for
from .execution import Agent, Trace, execute
from .goals import GoalTask, Place
from .imitation import ImitationConfig, Kind
from .imitation_training import imitate
from .planning_agent import PlanningAgent
from .planning_cells import Cell, Episode, Row
from .planning_methods import Search, Worlds
from .planning_report import PlanningConfig, PlanningReport, rows_of
from .progress import Progress, silent
from .real import doom_rooms
from .report import jsonable, provenance
from .walks import recorded_walks

_MEASURED_TWICE = 2


def planning_table(
    worlds: Mapping[str, Worlds],
    config: PlanningConfig,
    out: Path,
    *,
    make_env: Callable[[], gym.Env[Any, Any]] | None = None,
    explorer: Explorer | None = None,
    progress: Progress = silent,
) -> PlanningReport:
    """Let every row try the goals of every column; write ``planning.json`` and ``planning.md`` into ``out``.

    Each cell is a file in ``out/cells``, written when it is done, and is not made again by the same question about the
    same world: an interrupted table goes on where it was, and rows can be added to one.

    Args:
        worlds: name to world, the first being what the others are compared with.
        config: rows, columns, and what all are asked.
        out: directory for the table; made if missing.
        make_env: makes a real environment, called ``config.batch`` times; default DoomRooms, task explore.
        explorer: gathers what is seen before a start; default the waypoint explorer.
        progress: told how far it is.

    Raises:
        ConfigError: an environment that does not fit a world, or a contradictory configuration.
        WorldloopError: too many maps on which no goal was found.
    """
    first = next(iter(worlds.values())).video
    rows = rows_of(config, list(worlds))
    with ExitStack() as stack:
        make = make_env or (lambda: doom_rooms(first, config.split))
        envs = [stack.enter_context(closing(make())) for _ in range(min(config.batch, config.episodes))]
        for world in worlds.values():
            check_fits(world.video, envs[0])
        table = _Table(worlds, config, out, envs, explorer or WaypointExplorer(), progress)
        columns = [[table.cell(row, place) for row in rows] for place in config.places]
    report = PlanningReport(
        config=config,
        rows=rows,
        cells=tuple(zip(*columns, strict=True)),
        provenance={name: provenance(world.video) for name, world in worlds.items()},
    )
    write_json(out / "planning.json", report.to_json())
    write_bytes(out / "planning.md", f"{report}\n".encode())
    return report


class _Table:
    """Makes cells, and keeps what several of them need."""

    def __init__(
        self,
        worlds: Mapping[str, Worlds],
        config: PlanningConfig,
        out: Path,
        envs: Sequence[gym.Env[Any, Any]],
        explorer: Explorer,
        progress: Progress,
    ) -> None:
        self._worlds, self._config, self._out, self._envs = worlds, config, out, envs
        self._explorer, self._progress = explorer, progress
        self._spec = next(iter(worlds.values())).video.actions
        self._goals: dict[Place, list[GoalTask]] = {}
        self._marks = {name: fingerprint(world) for name, world in worlds.items()}

    def cell(self, row: Row, place: Place) -> Cell:
        """What ``row`` achieves on goals of ``place``: read, or else made and written."""
        name = re.sub(r"\W+", "-", f"{row} {place}")
        file, question = self._out / "cells" / f"{name}.json", jsonable(self._question(row, place))
        if (known := _read(file, question)) is not None:
            return known
        cell = self._make(row, place)
        write_json(file, {"question": question, "cell": asdict(cell)})
        return cell

    def goals(self, place: Place) -> list[GoalTask]:
        """The goals of ``place``, drawn once."""
        if place not in self._goals:
            self._goals[place] = draw_goals(
                self._envs[0], self._explorer, self._spec, self._config, place, self._progress
            )
        return self._goals[place]

    def _make(self, row: Row, place: Place) -> Cell:
        config, tasks = self._config, self.goals(place)
        agent, fitting = self._agent(row, tasks)
        traces = execute(
            agent,
            tasks,
            self._envs,
            reached=config.reached,
            budget=config.real_steps(place),
            seed=config.seed,
            progress=lambda stage, done, total: self._progress(f"{place}: {row}", done, total),
        )
        plans = sum(len(trace.plans) for trace in traces)
        return Cell(
            episodes=tuple(Episode.of(trace) for trace in traces),
            seconds=sum(t.seconds for t in traces) / sum(t.steps for t in traces),
            model_steps=sum(t.model_steps for t in traces) / plans if plans else 0.0,
            draft_steps=sum(t.draft_steps for t in traces) / plans if plans else 0.0,
            candidates=fitting.candidates if fitting else 0,
        )

    def _agent(self, row: Row, tasks: Sequence[GoalTask]) -> tuple[Agent, Fitting | None]:
        config = self._config
        if row.agent == "random":
            return RandomAgent(self._spec), None
        if row.agent == "oracle":
            return OracleAgent(self._spec), None
        first = next(iter(self._worlds.values())).video
        if row.world is None:
            kind: Kind = "inverse-dynamics" if row.agent == "inverse-dynamics" else "cloning"
            walks = recorded_walks(first, config.data, self._out / "walks", self._progress)
            return imitate(first, walks, ImitationConfig(kind), self._out, self._progress), None
        assert row.imagination is not None
        world, imagination = self._worlds[row.world], row.imagination
        search = next(config.search(solver) for solver in config.solvers if solver == row.agent)

        def made(search: Search) -> PlanningAgent:
            place, planner = world.set_up(imagination, search)
            objective = objective_for(place, config.form, config.uncertainty_weight)
            return PlanningAgent(str(row), place, planner, objective, config.replan_interval)

        fitting = Fitting(search.candidates, 0.0)
        if config.seconds_per_action is not None:
            group = [Trace(task, None, [task.frames[-1]], [task.poses[-1]]) for task in tasks[: len(self._envs)]]
            fitting = candidates_for(
                config.seconds_per_action, lambda n: _time_of(made(_with(search, n)), group), least=search.elites
            )
        return made(_with(search, fitting.candidates)), fitting

    def _question(self, row: Row, place: Place) -> dict[str, Any]:
        """All that a cell depends on."""
        asked = asdict(self._config)
        for name in ("places", "solvers", "imaginations", "baselines", "batch"):
            del asked[name]
        learned = row.agent in ("inverse-dynamics", "cloning")
        if not learned:
            del asked["data"]
        world = row.world or (next(iter(self._worlds)) if learned else None)
        if row.world is None:
            for name in ("objective", "uncertainty_weight", "horizon", "candidates", "iterations", "elites",
                         "replan_interval", "seconds_per_action"):  # fmt: skip
                del asked[name]
        return {"row": asdict(row), "place": place, "world": self._marks.get(world or ""), **asked}


def fingerprint(worlds: Worlds) -> str:
    """Digest of a world's parameters and of how it is used; of one that is no module, its type."""
    world = worlds.video
    if not isinstance(world, torch.nn.Module):
        return type(world).__name__
    digest = hashlib.blake2b(repr(getattr(world, "config", None)).encode(), digest_size=16)
    for tensor in world.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _time_of(agent: PlanningAgent, group: Sequence[Trace]) -> float:
    """Seconds of planning for one real step of one episode: the quicker of two measurements."""
    spent = []
    for _ in range(_MEASURED_TWICE):
        traces = [replace(trace, plans=[], seconds=0.0) for trace in group]
        agent.begin(traces, range(len(traces))).act(range(len(traces)))
        spent.append(sum(trace.seconds for trace in traces) / len(traces) / agent.replan_interval)
    return min(spent)


def _with(search: Search, candidates: int) -> Search:
    return replace(search, candidates=candidates)


def _read(file: Path, question: dict[str, Any]) -> Cell | None:
    """The cell in ``file`` if it answers ``question``."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return Cell.from_json(found["cell"]) if found["question"] == question else None
