"""What an agent valued, imagined and lived through from the same starts, held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..envs.doom_rooms.tasks import Level
from ..errors import ConfigError
from .figures import COLOURS, finish
from .metrics import FloatArray, Interval, bootstrap
from .ranking import over_maps, spearman
from .report import jsonable

_BINS = 5
_ROWS = {
    "value": "V of the critic",
    "imagined": "imagined return",
    "completed": "imagined return and V of the last state",
    "real": "real return",
    "gap": "exploitation gap: imagined − real return",
    "imagination_error": "V − imagined return",
    "completed_error": "V − imagined return and V of the last state",
    "reality_error": "V − real return",
    "imagined_sum": "imagined return, undiscounted",
    "real_sum": "real return, undiscounted",
    "imagined_end": "imagined chance of an end",
    "success": "real success",
}


@dataclass(frozen=True)
class ValuesConfig:
    """From which starts an agent's expectations are held against what comes."""

    level: Level = "near"
    """How far the goal is: in the room of the start (near), one door away (next), or anywhere (far)."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    starts: int = 200
    """Situations, each on a map of its own …"""
    context: int = 8
    """… in which 1 to so many real frames have been seen, between random actions."""
    samples: int = 4
    """Imagined lives from every start, and as many real ones."""
    horizon: int = 40
    """Steps of a life."""
    envs: int = 8
    """Real environments side by side."""
    seed: int = 0
    """Of maps, starts and lives."""

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ConfigError(f"level is one of {', '.join(get_args(Level))}; got {self.level!r}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Values are measured on 'validation' or 'test' maps, not on {self.split!r}.")
        if min(self.starts, self.context, self.samples, self.horizon, self.envs) < 1:
            raise ConfigError("starts, context, samples, horizon and envs are at least 1.")


@dataclass(frozen=True)
class ValuesReport:
    """What `evaluate_values` found; intervals are 95 %, bootstrapped over starts.

    Returns count the steps of a life, up to the horizon; V looks beyond it. So V should equal the imagined return and
    V of the last imagined state, discounted and weighed by the chance of getting there (``completed``), and may exceed
    the return itself, imagined or real, by what it expects later.

    Attributes:
        config: what was asked.
        discount: γ of the agent's training.
        imagination: where lives were imagined, ``"video"`` or ``"state"``; empty for a world that has no choice.
        means: by name, as the table lists them.
        correlation: Spearman's rank correlation over starts of ``value`` and of ``imagined`` with the real return.
        bins: starts in equal numbers, by V from low to high: mean ``value``, ``imagined`` and ``real`` return of each.
        maps: (N,) map seeds of the starts.
        starts: by name, (N,) numbers that ``means`` are the means of.
        provenance: versions and time.
    """

    config: ValuesConfig
    discount: float
    imagination: str
    means: dict[str, Interval]
    correlation: dict[str, Interval]
    bins: tuple[dict[str, Interval], ...]
    maps: NDArray[np.int64]
    starts: dict[str, FloatArray]
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        return "\n".join(_markdown(self))


def summarise(
    config: ValuesConfig,
    discount: float,
    maps: NDArray[np.int64],
    lived: dict[str, FloatArray],
    imagination: str = "",
    origin: dict[str, Any] | None = None,
) -> ValuesReport:
    """The report of what was valued, imagined and lived through from N starts: (N,) each, the mean over lives."""
    value, imagined, real, seed = lived["value"], lived["imagined"], lived["real"], config.seed
    starts = lived | {
        "gap": imagined - real,
        "imagination_error": value - imagined,
        "completed_error": value - lived["completed"],
        "reality_error": value - real,
    }

    def ranked(column: FloatArray) -> Interval:
        return over_maps(lambda rows: spearman(column[rows], real[rows]), len(maps), seed)

    groups = np.array_split(np.argsort(value, kind="stable"), min(_BINS, len(maps)))
    return ValuesReport(
        config, discount, imagination,
        means={name: bootstrap(starts[name], maps, seed=seed) for name in _ROWS},
        correlation={"value": ranked(value), "imagined": ranked(imagined)},
        bins=tuple(
            {name: bootstrap(starts[name][rows], maps[rows], seed=seed) for name in ("value", "imagined", "real")}
            for rows in groups
        ),
        maps=maps, starts=starts, provenance=origin or {},
    )  # fmt: skip


def values_figure(report: ValuesReport) -> Figure:
    """Real and imagined return against V: every start faint, bins with their intervals, and where they were equal."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained", dpi=110)
    axes, value = figure.add_subplot(), report.starts["value"]
    x = [one["value"].estimate for one in report.bins]
    for colour, name in zip(COLOURS, ("real", "imagined"), strict=False):
        axes.scatter(value, report.starts[name], s=8, color=colour, alpha=0.2, linewidth=0)
        axes.vlines(x, [one[name].low for one in report.bins], [one[name].high for one in report.bins], color=colour)
        axes.plot(x, [one[name].estimate for one in report.bins], color=colour, marker="o", markersize=5, label=name)
    axes.axline((0, 0), slope=1, color="#777777", linewidth=1.0, linestyle="--")
    axes.set_xlabel("V of the critic")
    axes.set_ylabel(f"discounted return of {report.config.horizon} steps")
    axes.legend(frameon=False, fontsize=9)
    finish(axes)
    return figure


def _markdown(report: ValuesReport) -> Iterator[str]:
    c = report.config
    where = f" in {report.imagination}" if report.imagination else ""
    yield (
        f"{c.starts} starts, find-{c.level}, each on a {c.split} map of its own; {c.samples} lives of at most "
        f"{c.horizon} steps from each, imagined{where} and real; returns discounted by {report.discount:g}; "
        "[95 %, over starts]."
    )
    yield "\n| | mean |\n|---|---|"
    for name, told in _ROWS.items():
        yield f"| {told} | {report.means[name]} |"
    for name, value in report.correlation.items():
        yield f"| rank correlation with the real return: {_ROWS[name]} | {value} |"
    yield "\n| V of the critic | imagined return | real return | starts |\n|---|---|---|---|"
    for one in report.bins:
        yield f"| {one['value']} | {one['imagined']} | {one['real']} | {one['value'].n} |"
