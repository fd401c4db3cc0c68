"""How well imagined returns rank real ones, and how much better than the truth a chosen plan looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import ConfigError
from .control_config import ControlConfig, GoalName
from .figures import COLOURS, finish
from .goal_forms import Likeness
from .goals import Place
from .metrics import FloatArray, Interval, bootstrap
from .planning_methods import ImaginationName, check_choice
from .ranking import spearman
from .report import jsonable


@dataclass(frozen=True)
class PlanRankingConfig:
    """Which plans are imagined and carried out, and what is chosen among them."""

    goal: GoalName = "frame"
    """What a plan is judged by: likeness to the picture seen at the goal (frame), nearness to its pose (pose), both, of
    a frame seen before the start (index), or the reward of reaching the task's object (reward)."""
    objective: Likeness = "mse"
    """How pictures are compared with the goal's: mse or cosine of their latents, or mse of drawn pixels."""
    place: Place = "straight"
    """Where goals lie: a free straight line away (straight; near; out-of-view), or seen earlier and behind walls."""
    imaginations: tuple[ImaginationName, ...] = ("video",)
    """Where plans are imagined: frame by frame (video), or in state space (state)."""
    starts: int = 50
    """Goals, each on a held-out map of its own."""
    plans: int = 64
    """Random plans from every start, all of them imagined and carried out."""
    horizon: int = 8
    """Steps of a plan."""
    budgets: tuple[int, ...] = (4, 16, 64)
    """A planner that tries so many of them chooses the one that looks best …"""
    weights: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)
    """… or that looks best where the world's uncertainty costs so much."""
    nearest: int = 6
    """Fewest steps of the known way to a goal."""
    farthest: int = 12
    """Most steps of the known way to a goal."""
    behind_farthest: int = 20
    """The same, of goals behind walls."""
    context: int = 16
    """Real frames seen before the start, itself included …"""
    exploration: int = 100
    """… and at most so many where goals lie behind walls."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    seed: int = 0
    """Of maps, goals, plans and imagination."""

    def __post_init__(self) -> None:
        if self.plans < 2 or not self.budgets or not self.weights or not self.imaginations:
            raise ConfigError("A ranking needs two plans or more, a budget, a weight and a way of imagining.")
        if min(self.budgets) < 1 or max(self.budgets) > self.plans:
            raise ConfigError(f"Budgets lie between 1 and the {self.plans} plans; got {self.budgets}.")
        if self.goal == "ago":
            raise ConfigError("A ranking takes recorded goals by their index; got 'ago'.")
        for name in self.imaginations:
            check_choice(name, ImaginationName, "imagination")
            if name == "draft":
                raise ConfigError("A ranking imagines in 'video' or 'state'; drafts are chosen among in video.")
        self.control().check_place(self.place)

    def control(self) -> ControlConfig:
        """The same goals, as planners are given them."""
        return ControlConfig(
            goal=self.goal, objective=self.objective, episodes=self.starts, horizon=max(2, self.horizon),
            nearest=self.nearest, farthest=self.farthest, context=self.context, exploration=self.exploration,
            behind_farthest=self.behind_farthest,
            split=self.split, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """N plans from each of S starts.

    Attributes:
        imagined: (S, N) float64 cost of what was imagined.
        real: (S, N) of what really came.
        doubt: (S, N) mean uncertainty.
        maps: (S,) map seeds.
    """

    imagined: FloatArray
    real: FloatArray
    doubt: FloatArray
    maps: NDArray[np.int64]

    def choose(self, budget: int, weight: float) -> NDArray[np.int64]:
        """(S,) the plan that looks best among the first ``budget``, where uncertainty costs ``weight``."""
        best: NDArray[np.int64] = (self.imagined + weight * self.doubt)[:, :budget].argmin(1)
        return best


@dataclass(frozen=True)
class Choice:
    """What comes of choosing by what is imagined; returns are minus costs, intervals over maps.

    Attributes:
        world: who imagined.
        budget: plans chosen among.
        weight: of uncertainty.
        imagined: return of the chosen plan, as imagined without the price of uncertainty.
        real: its real return.
        gap: imagined minus real return of the chosen plan.
        exploited: that gap less the mean gap of the plans chosen among: what choosing adds to it.
        regret: real return of the best plan there was, less that of the chosen one.
    """

    world: str
    budget: int
    weight: float
    imagined: Interval
    real: Interval
    gap: Interval
    exploited: Interval
    regret: Interval


@dataclass(frozen=True)
class PlanRankingReport:
    """What `plan_ranking` found.

    Attributes:
        config: what was asked.
        correlation: world to Spearman's rank correlation of imagined and real return over the plans of a start; mean
            over starts, interval over maps. Starts whose plans all come to the same are left out.
        choices: for every world, budget and weight.
        provenance: versions and time, for every world.
    """

    config: PlanRankingConfig
    correlation: dict[str, Interval]
    choices: tuple[Choice, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def summarise(
    config: PlanRankingConfig, ranked: Mapping[str, Ranked], origin: dict[str, Any] | None = None
) -> PlanRankingReport:
    """The report of plans that were imagined and carried out."""
    correlation, choices = {}, []
    for name, found in ranked.items():
        rows = [spearman(a, b) for a, b in zip(found.imagined, found.real, strict=True)]
        correlation[name] = bootstrap(rows, found.maps, seed=config.seed)
        every = np.arange(len(found.maps))
        for budget in config.budgets:
            for weight in config.weights:
                at = every, found.choose(budget, weight)
                gaps, best = (found.real - found.imagined)[:, :budget], found.real[:, :budget].min(1)
                columns = {
                    "imagined": -found.imagined[at],
                    "real": -found.real[at],
                    "gap": gaps[at],
                    "exploited": gaps[at] - gaps.mean(1),
                    "regret": found.real[at] - best,
                }
                means = {key: bootstrap(column, found.maps, seed=config.seed) for key, column in columns.items()}
                choices.append(Choice(name, budget, weight, **means))
    return PlanRankingReport(config, correlation, tuple(choices), origin or {})


def ranking_figure(report: PlanRankingReport) -> Figure:
    """What choosing adds to the gap, and what it forgoes, against the number of plans; a line for every weight."""
    figure = Figure(figsize=(11.2, 3.6), layout="constrained", dpi=110)
    for place, (title, name) in enumerate((("exploitation gap", "exploited"), ("regret", "regret"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for colour, weight in zip(COLOURS, report.config.weights, strict=False):
            for style, world in zip(("-", "--", ":", "-."), report.correlation, strict=False):
                chosen = [c for c in report.choices if (c.world, c.weight) == (world, weight)]
                values: list[Interval] = [getattr(c, name) for c in chosen]
                x = [c.budget for c in chosen]
                label, low, high = f"{world}, weight {weight:g}", [v.low for v in values], [v.high for v in values]
                axes.plot(x, [v.estimate for v in values], style, color=colour, marker=".", label=label)
                axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("plans chosen among")
        axes.set_ylabel("return")
        finish(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _lines(report: PlanRankingReport) -> Iterator[str]:
    config = report.config
    yield (
        f"{config.starts} starts, each on a {config.split} map of its own; {config.plans} random plans of "
        f"{config.horizon} steps from each, imagined and carried out; goals told as {config.goal}; [95 % over maps]"
    )
    for name, value in report.correlation.items():
        yield f"{name}: rank correlation of imagined and real return {value}"
    yield ""
    yield f"{'':<28}{'plans':>6}{'weight':>8}{'gap':>26}{'of it by choosing':>26}{'regret':>26}"
    for c in report.choices:
        figures = "".join(f"{_fine(v):>26}" for v in (c.gap, c.exploited, c.regret))
        yield f"{c.world:<28}{c.budget:>6}{c.weight:>8g}{figures}"


def _fine(value: Interval) -> str:
    return f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"
