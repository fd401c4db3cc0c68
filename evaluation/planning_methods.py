"""Ways to plan, by name: which solver searches, and where it imagines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from ..planning import (
    CEM,
    ICEM,
    MPPI,
    DraftThenRefine,
    GradientPlanner,
    Planner,
    PredictiveSampling,
    RandomShooting,
    Solver,
    TreeSearch,
)
from ..world_models.world import World

SolverName = Literal["cem", "icem", "mppi", "predictive-sampling", "random-shooting", "gradient", "tree-search"]
ImaginationName = Literal["video", "state", "draft"]
"""Where plans are imagined: frame by frame, in state space, or drafted there and chosen among in video."""

_SOLVERS: dict[str, type[Solver]] = {
    "cem": CEM, "icem": ICEM, "mppi": MPPI, "predictive-sampling": PredictiveSampling,
    "random-shooting": RandomShooting, "gradient": GradientPlanner,
}  # fmt: skip


@dataclass(frozen=True)
class Search:
    """How hard to search.

    Attributes:
        solver: how candidate plans are refined.
        horizon: steps looked ahead.
        candidates: plans tried in each iteration.
        iterations: how often they are refined.
        elites: best plans learned from, and chosen among where they were drafted.
        seed: of the candidates.
    """

    solver: SolverName = "cem"
    horizon: int = 8
    candidates: int = 32
    iterations: int = 2
    elites: int = 8
    seed: int = 0

    def planner(self) -> Planner:
        """The planner of these numbers; a tree search makes ``candidates · iterations`` expansions.

        Raises:
            ConfigError: they contradict each other, or no such solver.
        """
        check_choice(self.solver, SolverName, "A solver")
        if self.solver == "tree-search":
            return TreeSearch(
                horizon=self.horizon, expansions=self.candidates * self.iterations, elites=self.elites
            )
        return _SOLVERS[self.solver](
            horizon=self.horizon,
            candidates=self.candidates,
            iterations=self.iterations,
            elites=self.elites,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Worlds:
    """One learned world, with its ways of imagining.

    Attributes:
        video: draws every frame.
        state: the same world imagining in state space; None where that is not asked for.
    """

    video: World
    state: World | None = None

    def set_up(self, imagination: ImaginationName, search: Search) -> tuple[World, Planner]:
        """Where to plan, and the planner.

        Raises:
            ConfigError: state space is asked for and there is none.
        """
        check_choice(imagination, ImaginationName, "imagination")
        planner = search.planner()
        if imagination == "video":
            return self.video, planner
        if self.state is None:
            raise ConfigError(f"imagination={imagination!r} needs the world in state space too; it was not given.")
        return (self.state, planner) if imagination == "state" else (self.video, DraftThenRefine(self.state, planner))


def check_choice(value: object, literal: object, what: str) -> None:
    """Refuse what is not among the values of a ``Literal``, by a `ConfigError`."""
    if value not in get_args(literal):
        raise ConfigError(f"{what} is one of {', '.join(get_args(literal))}; got {value!r}.")
