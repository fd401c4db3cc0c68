"""What came of acting: success rates of a planner and of chance on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..world_models.world import World
from .control_config import ControlConfig
from .execution import Trace
from .goals import Place, separation
from .metrics import Interval, bootstrap, wilson
from .planning_methods import ImaginationName, SolverName, check_choice
from .report import jsonable, provenance


@dataclass(frozen=True)
class PlanConfig(ControlConfig):
    """Which goals, how to plan for them, and what counts as reaching them."""

    place: Place = "straight"
    """Where goals lie: a free straight line away (straight; near: those in view; out-of-view: the others), or seen
    earlier and behind walls now (behind)."""
    solver: SolverName = "cem"
    """How candidate plans are refined."""
    imagination: ImaginationName = "video"
    """Where plans are imagined: frame by frame (video), in state space (state), or drafted there and chosen among in
    video (draft)."""
    random_repeats: int = 4
    """Episodes of random actions on every goal."""
    pictures: int = 3
    """Episodes drawn as video, GIF, strip and maps: the first ones, not chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_repeats < 1:
            raise ConfigError(f"random_repeats must be at least 1, got {self.random_repeats}.")
        check_choice(self.solver, SolverName, "A solver")
        check_choice(self.imagination, ImaginationName, "imagination")
        self.check_place(self.place)


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
        draft_steps: worlds imagined one step in state space to draft it.
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
    draft_steps: float
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
        draft_steps=sum(t.draft_steps for t in planned) / plans,
        seconds=sum(t.seconds for t in planned) / sum(t.steps for t in planned),
        episodes=tuple(episode_row(trace) for trace in planned),
        provenance=provenance(world),
    )


def episode_row(trace: Trace) -> dict[str, Any]:
    """An episode's difficulty and outcome, as plain data for a report."""
    distance, heading = separation(trace.poses[-1], trace.task.goal_pose)
    return {
        **trace.task.difficulty(),
        "reached": trace.reached,
        "real_steps": trace.steps,
        "final_distance": distance,
        "final_heading": heading,
    }
