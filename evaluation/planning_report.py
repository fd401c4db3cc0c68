"""Who reaches which goals: the table of planners and baselines against classes of goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..errors import ConfigError
from .control_config import ControlConfig
from .goals import Place
from .metrics import Interval
from .planning_cells import Cell, Row
from .planning_methods import ImaginationName, SolverName, check_choice
from .report import jsonable

BaselineName = Literal["random", "oracle", "inverse-dynamics", "cloning"]


@dataclass(frozen=True)
class PlanningConfig(ControlConfig):
    """Which rows and columns the table has, and what every row is asked alike."""

    places: tuple[Place, ...] = ("near", "out-of-view", "behind")
    """Columns. Where goals lie: a free straight line away and in view (near), or not in view (out-of-view), or either
    (straight); seen earlier and behind walls now, where only memory can imagine them (behind)."""
    solvers: tuple[SolverName, ...] = ("cem",)
    """Rows: every solver, with every way of imagining, in every world."""
    imaginations: tuple[ImaginationName, ...] = ("video",)
    """Where plans are imagined: frame by frame (video), in state space (state), or drafted there and chosen among in
    video (draft)."""
    baselines: tuple[BaselineName, ...] = ("random", "oracle", "inverse-dynamics", "cloning")
    """More rows: chance; the shortest way on the true map; and two policies learned from recorded walks."""
    episodes: int = 100
    """Goals in each column, each on a held-out map of its own."""
    horizon: int = 12
    """Steps looked ahead."""
    candidates: int = 48
    """Plans tried in each iteration, where no time is given."""
    iterations: int = 3
    """How often they are refined."""
    seconds_per_action: float | None = None
    """Give every planner so much time for one real step of one episode: it gets as many candidates as fit, measured
    first. Rows then compare at equal wall time."""
    data: Path | None = None
    """Recorded walks on training maps, for the two policies. Default: DoomRooms is recorded now."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for names, literal, what in (
            (self.places, Place, "A goal's place"),
            (self.solvers, SolverName, "A solver"),
            (self.imaginations, ImaginationName, "imagination"),
            (self.baselines, BaselineName, "A baseline"),
        ):
            for name in names:
                check_choice(name, literal, what)
            if len(set(names)) < len(names):
                raise ConfigError(f"{what} is asked for once; got {', '.join(names)}.")
        for place in self.places:
            self.check_place(place)
        if not self.places or not ((self.solvers and self.imaginations) or self.baselines):
            raise ConfigError("A table needs a place for goals, and a solver with imagination, or a baseline.")


@dataclass(frozen=True)
class PlanningReport:
    """What `planning_table` found.

    Attributes:
        config: what was asked.
        rows: ways of acting, in the order of the table.
        cells: for every row, one for each of ``config.places``.
        provenance: versions and time, for every world.
    """

    config: PlanningConfig
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def gain(self, row: int, column: int) -> Interval | None:
        """How much more often the first world lets the same planner reach its goal than this row's world does.

        None for baselines and for the first world itself.
        """
        own = self.rows[row]
        first = next((r for r in self.rows if (r.agent, r.imagination) == (own.agent, own.imagination)), own)
        if own.world is None or first == own:
            return None
        cells = self.cells[self.rows.index(first)]
        return cells[column].gain(self.cells[row][column], self.config.seed)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        seed, places = self.config.seed, self.config.places
        table = [
            {
                **asdict(row),
                "goals": {
                    place: {
                        "success": asdict(cell.success()),
                        "steps": asdict(cell.steps(seed)),
                        "first_world_gains": None if (gain := self.gain(i, j)) is None else asdict(gain),
                        **asdict(cell),
                    }
                    for j, (place, cell) in enumerate(zip(places, self.cells[i], strict=True))
                },
            }
            for i, row in enumerate(self.rows)
        ]
        difficulty = {
            place: {name: asdict(value) for name, value in cell.difficulty(seed).items()}
            for place, cell in zip(places, self.cells[0], strict=True)
        }
        data: dict[str, Any] = jsonable(
            {
                "config": asdict(self.config),
                "table": table,
                "difficulty": difficulty,
                "provenance": self.provenance,
            }
        )
        return data

    def __str__(self) -> str:
        return "\n".join(_markdown(self))


def rows_of(config: PlanningConfig, worlds: Sequence[str]) -> tuple[Row, ...]:
    """The rows of a table: baselines, then every solver with every imagination in every world."""
    planned = [Row(s, world, i) for s in config.solvers for i in config.imaginations for world in worlds]
    return (*(Row(name) for name in get_args(BaselineName) if name in config.baselines), *planned)


def _markdown(report: PlanningReport) -> Iterator[str]:
    config = report.config
    yield (
        f"{config.episodes} goals a column, each on a {config.split} map of its own, {config.nearest} to "
        f"{config.farthest} steps of a known way off (behind walls to {config.behind_farthest}), told as "
        f"{config.goal}; {config.budget} real steps for everyone (behind walls {config.behind_budget})."
    )
    yield "Success: [95 %, Wilson]; steps of the successful, and what the first world gains: [95 %, over maps]."
    yield ""
    heads = [f"{place}: {what}" for place in config.places for what in ("success", "steps")]
    yield _line(["", *heads, "s / action", "model steps / plan", "candidates"])
    yield _line(["---"] * (len(heads) + 4))
    for row, cells in zip(report.rows, report.cells, strict=True):
        figures = [f for cell in cells for f in (str(cell.success()), _number(cell.steps(config.seed)))]
        planned = ["", "", ""] if row.world is None else _effort(cells)
        yield _line([str(row), *figures, *planned])
    gains = [(i, j) for i in range(len(report.rows)) for j in range(len(config.places)) if report.gain(i, j)]
    if gains:
        yield ""
        yield _line(["the first world's gain over", *config.places])
        yield _line(["---"] * (len(config.places) + 1))
        for i in sorted({i for i, _ in gains}):
            yield _line([str(report.rows[i]), *(str(report.gain(i, j)) for j in range(len(config.places)))])
    yield ""
    yield _line(["goals", "steps of the known way", "distance", "walk", "bearing", "frames unseen", "steps ago"])
    yield _line(["---"] * 7)
    for place, cell in zip(config.places, report.cells[0], strict=True):
        yield _line([place, *map(_number, cell.difficulty(config.seed).values())])


def _effort(cells: Sequence[Cell]) -> list[str]:
    """Seconds for an action, model steps for a plan and candidates, over the columns."""
    drafted = np.mean([c.draft_steps for c in cells])
    steps = f"{np.mean([c.model_steps for c in cells]):.0f}" + (f" + {drafted:.0f} drafted" if drafted else "")
    least, most = min(c.candidates for c in cells), max(c.candidates for c in cells)
    seconds = f"{np.mean([c.seconds for c in cells]):.2f}"
    return [seconds, steps, str(least) if least == most else f"{least} to {most}"]


def _number(value: Interval) -> str:
    return f"{value.estimate:.1f} [{value.low:.1f}, {value.high:.1f}]" if value.n else "–"


def _line(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |"
