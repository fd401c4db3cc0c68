"""What came of acting: success rates of a planner and of chance on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError
from ..planning import CEM, ICEM, MPPI, PredictiveSampling, RandomShooting, Solver
from ..world_models.world import World
from .execution import Trace
from .goals import Reached, separation
from .metrics import Interval, bootstrap, wilson
from .report import jsonable, provenance

SOLVERS: dict[str, type[Solver]] = {
    "cem": CEM, "icem": ICEM, "mppi": MPPI, "predictive-sampling": PredictiveSampling,
    "random-shooting": RandomShooting,
}  # fmt: skip


@dataclass(frozen=True)
class PlanConfig:
    """Which goals, how to plan for them, and what counts as reaching them."""

    goal: Literal["frame", "pose"] = "frame"
    """What the planner is given: only the picture seen at the goal, or its pose. A pose asks little of a
    world: one that knows no more than what its actions mean can plan for it."""
    episodes: int = 50
    """Goals, each on a held-out map of its own."""
    solver: Literal["cem", "icem", "mppi", "predictive-sampling", "random-shooting"] = "cem"
    """How candidate plans are refined."""
    horizon: int = 8
    """Steps looked ahead."""
    candidates: int = 32
    """Plans tried in each iteration."""
    iterations: int = 2
    """How often they are refined."""
    elites: int = 8
    """Best plans learned from in each iteration."""
    replan_interval: int = 2
    """Real steps taken of each plan before planning anew."""
    budget: int = 20
    """Most real steps an episode, for the planner and for chance alike."""
    nearest: int = 6
    """Fewest steps of the known way to a goal."""
    farthest: int = 12
    """Most steps of the known way to a goal."""
    radius: float = 30.0
    """A goal is reached within this distance, in world units …"""
    heading: float = 23.0
    """… and this angle between the viewing directions, in degrees."""
    context: int = 16
    """Real frames seen before the start, itself included."""
    random_repeats: int = 4
    """Episodes of random actions on every goal."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    pictures: int = 3
    """Episodes drawn as video, GIF and map: the first ones, not chosen."""
    batch: int = 25
    """Episodes planned for and acted in at once, each in a real environment of its own."""
    seed: int = 0
    """Of maps, goals, candidates and imagination."""

    def __post_init__(self) -> None:
        for name in ("episodes", "budget", "context", "random_repeats", "batch", "replan_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.solver not in SOLVERS:
            raise ConfigError(f"A solver is one of {', '.join(SOLVERS)}; got {self.solver!r}.")
        if self.goal not in ("pose", "frame"):
            raise ConfigError(f"A goal is given as its 'pose' or its 'frame', not {self.goal!r}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Planning is tried on 'validation' or 'test' maps, not on {self.split!r}.")
        if self.replan_interval > self.horizon:
            raise ConfigError(
                f"replan_interval must be at most the horizon of {self.horizon}, got {self.replan_interval}."
            )

    def make_solver(self) -> Solver:
        """The solver of these fields.

        Raises:
            ConfigError: they contradict each other.
        """
        return SOLVERS[self.solver](
            horizon=self.horizon,
            candidates=self.candidates,
            iterations=self.iterations,
            elites=self.elites,
            seed=self.seed,
        )

    @property
    def reached(self) -> Reached:
        """When a goal counts as reached."""
        return Reached(self.radius, self.heading)


@dataclass(frozen=True)
class Outcome:
    """What one way of acting achieved.

    Attributes:
        success: share of episodes that reached the goal within the budget; Wilson interval.
        in_view: the same, of goals whose place was in the picture at the start.
        out_of_view: the same, of the others.
        steps: real steps of the episodes that reached it; interval over maps.
        distance: world units between the last camera and the goal, all episodes; interval over maps.
        heading: degrees between their viewing directions.
    """

    success: Interval
    in_view: Interval
    out_of_view: Interval
    steps: Interval
    distance: Interval
    heading: Interval

    def __str__(self) -> str:
        return f"reached {self.success} (in view {self.in_view}, out of view {self.out_of_view})"

    @classmethod
    def of(cls, traces: Sequence[Trace], seed: int) -> Outcome:
        """The outcome of episodes."""

        def rate(chosen: list[Trace]) -> Interval:
            return wilson(sum(trace.reached for trace in chosen), len(chosen))

        ends = np.array([separation(t.poses[-1], t.task.goal_pose) for t in traces])
        steps = [t.steps if t.reached else np.nan for t in traces]
        maps = [t.task.map_seed for t in traces]
        return cls(
            success=rate(list(traces)),
            in_view=rate([t for t in traces if t.task.in_view]),
            out_of_view=rate([t for t in traces if not t.task.in_view]),
            steps=bootstrap(steps, maps, seed=seed),
            distance=bootstrap(ends[:, 0], maps, seed=seed),
            heading=bootstrap(ends[:, 1], maps, seed=seed),
        )


@dataclass(frozen=True)
class ControlReport:
    """What `run_control` found.

    Attributes:
        config: what was asked.
        planner: outcome of planning.
        chance: outcome of uniformly random actions on the same goals with the same budget.
        times_chance: success rate of planning over that of chance; None when chance never succeeded.
        known_way: steps of the known ways to the goals, the best one could expect on free ground; over maps.
        distance: world units from the starts to the goals.
        model_steps: worlds imagined one step, for one plan.
        seconds: of planning, for one real step of one episode, episodes planned in batches.
        episodes: for each goal its difficulty, and how the planner fared.
        files: pictures written, relative to the report.
        provenance: versions and time.
    """

    config: PlanConfig
    planner: Outcome
    chance: Outcome
    times_chance: float | None
    known_way: Interval
    distance: Interval
    model_steps: float
    seconds: float
    episodes: tuple[dict[str, Any], ...]
    files: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def summarise(
    world: World, config: PlanConfig, planned: Sequence[Trace], chance: Sequence[Trace]
) -> ControlReport:
    """The report of episodes planned and episodes left to chance."""
    ours, theirs = Outcome.of(planned, config.seed), Outcome.of(chance, config.seed)
    rate = theirs.success.estimate
    maps = [t.task.map_seed for t in planned]
    plans = sum(len(t.plans) for t in planned)
    return ControlReport(
        config=config,
        planner=ours,
        chance=theirs,
        times_chance=ours.success.estimate / rate if rate else None,
        known_way=bootstrap([t.task.steps for t in planned], maps, seed=config.seed),
        distance=bootstrap([t.task.distance for t in planned], maps, seed=config.seed),
        model_steps=sum(t.model_steps for t in planned) / plans,
        seconds=sum(t.seconds for t in planned) / sum(t.steps for t in planned),
        episodes=tuple(_row(trace) for trace in planned),
        provenance=provenance(world),
    )


def _row(trace: Trace) -> dict[str, Any]:
    distance, heading = separation(trace.poses[-1], trace.task.goal_pose)
    return {
        **trace.task.difficulty(),
        "reached": trace.reached,
        "real_steps": trace.steps,
        "final_distance": distance,
        "final_heading": heading,
    }
