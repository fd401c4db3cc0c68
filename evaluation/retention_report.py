"""What retention is measured by and what it tells: a table, a figure, plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ConfigError
from .figures import COLOURS, finish
from .metrics import Interval
from .report import jsonable
from .return_report import BASELINES

Arrival = Literal["backward", "forward"]
"""How the walker comes back to A: facing where it comes from, or facing A."""

_NOTHING = "–"
_GREYS = ("#555560", "#8a8a92", "#b9b9c0")


@dataclass(frozen=True)
class RetentionConfig:
    """What `retention` measures."""

    maps: int = 20
    """Held-out maps; each gives one path for every entry of ``away``. Intervals are over maps."""
    away: tuple[int, ...] = (50, 200, 1000, 5000)
    """Steps from leaving A to turning back; the way back comes on top."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    arrival: Arrival = "backward"
    """How the walker comes back to A. Walking backward it sees least of what is around A before it is asked."""
    lately: int = 50
    """Real frames just before the turn at A that may have shown what is to be imagined."""
    lately_angle: float = 60.0
    """Degrees: a frame is unseen lately if the nearest of those looks further away than this."""
    lately_distance: float = 100.0
    """World units: a frame is also unseen lately if the nearest of those is further away than this."""
    chunk: int = 256
    """Real frames observed at once."""
    seed: int = 0
    """Of maps, places, walks, imagination and resampling."""

    def __post_init__(self) -> None:
        for name in ("maps", "lately", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.away or len(set(self.away)) < len(self.away) or min(self.away) < 1:
            raise ConfigError(f"away needs at least one number of steps, none below 1 or twice; got {self.away}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Retention is measured on 'validation' or 'test' maps, not on {self.split!r}.")
        if self.arrival not in ("backward", "forward"):
            raise ConfigError(f"One comes back 'backward' or 'forward', not {self.arrival!r}.")
        if self.lately_angle < 0 or self.lately_distance < 0:
            raise ConfigError("lately_angle and lately_distance are at least 0.")


@dataclass(frozen=True)
class AwayCell:
    """The paths of one time away.

    Attributes:
        away: steps asked for.
        paths: how many were judged.
        dropped: how many walks got stuck on the way back and were left out.
        gap: mean steps between the end of the first turn at A and the beginning of the second.
        elsewhere: mean share of them that was spent outside A's room.
        frames: mean number of frames imagined.
        unseen: mean number of them that were unseen lately.
    """

    away: int
    paths: int
    dropped: int
    gap: float
    elsewhere: float
    frames: float
    unseen: float


@dataclass(frozen=True)
class Retained:
    """One measure of one source after one time away. Each path counts once, with the mean over its frames.

    Attributes:
        away: steps asked for.
        measure: name of the measure.
        source: name of a world, or one of `return_report.BASELINES`.
        turn: over the whole turn at A.
        unseen: over its frames that were unseen lately: what memory alone can know.
        turn_difference: ``turn`` minus that of the first world, path by path; None for that world itself.
        unseen_difference: the same of ``unseen``.
    """

    away: int
    measure: str
    source: str
    turn: Interval
    unseen: Interval
    turn_difference: Interval | None
    unseen_difference: Interval | None


@dataclass(frozen=True)
class RetentionReport:
    """What `retention` found; every interval is 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        cells: the paths behind the numbers, in the order of ``config.away``.
        scores: every measure of every source after every time away.
        measures: name of every measure to its unit, or to ``"unavailable"``.
        reasons: why a measure is unavailable.
        mean_frame_of: which frames the mean frame is the mean of.
        files: pictures written, relative to the report.
        provenance: versions and time, for every world.
    """

    config: RetentionConfig
    cells: tuple[AwayCell, ...]
    scores: tuple[Retained, ...]
    measures: dict[str, str]
    reasons: dict[str, str]
    mean_frame_of: str
    files: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Worlds, then baselines."""
        return tuple(dict.fromkeys(score.source for score in self.scores))

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def retention_figure(report: RetentionReport) -> Figure:
    """PSNR against steps away, of the whole turn and of what was unseen lately, with intervals."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, unseen, title in ((left, False, "the whole turn"), (right, True, "what was unseen lately")):
        worlds = [source for source in report.sources if source not in BASELINES]
        for colours, names in ((COLOURS, worlds), (_GREYS, list(BASELINES))):
            for i, name in enumerate(names):
                _draw(axes, report, name, colours[i % len(colours)], unseen)
        axes.set_xscale("log")
        axes.set_xticks(report.config.away, [f"{away:,}".replace(",", " ") for away in report.config.away])
        axes.minorticks_off()
        axes.set_xlabel("steps away")
        axes.set_ylabel("PSNR (dB)")
        axes.set_title(title, fontsize=11)
        finish(axes)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, report: RetentionReport, name: str, colour: str, unseen: bool) -> None:
    scores = [score for score in report.scores if (score.source, score.measure) == (name, "psnr")]
    points = sorted((score.away, score.unseen if unseen else score.turn) for score in scores)
    away = [x for x, _ in points]
    low, middle, high = np.array([(value.low, value.estimate, value.high) for _, value in points]).T
    axes.plot(away, middle, color=colour, label=name, linewidth=1.8, marker=".", markersize=6)
    axes.fill_between(away, low, high, color=colour, alpha=0.18, linewidth=0)


def _lines(report: RetentionReport) -> Iterator[str]:
    config = report.config
    yield (
        f"A turn at a place left so many steps ago, on {config.maps} {config.split} maps, coming back "
        f"{config.arrival}; [95 % over maps]"
    )
    for cell in report.cells:
        yield (
            f"  {cell.away} steps away: {cell.paths} paths ({cell.dropped} walks got stuck), {cell.gap:.0f} steps "
            f"until the turn, {cell.elsewhere:.0%} of them outside the room; {cell.unseen:.1f} of {cell.frames:.0f} "
            "frames unseen lately"
        )
    for measure, unit in report.measures.items():
        yield ""
        if measure in report.reasons:
            yield f"{measure.upper()}: {unit}. {report.reasons[measure]}"
            continue
        title = f"{measure.upper()} ({unit})" if unit else measure.upper()
        for what in ("unseen lately", "whole turn", "unseen lately minus first world"):
            yield f"{title}, {what}".ljust(52) + "".join(f"{away:>24}" for away in config.away)
            for source in report.sources:
                chosen = [s for s in report.scores if (s.measure, s.source) == (measure, source)]
                values = {
                    "unseen lately": [s.unseen for s in chosen],
                    "whole turn": [s.turn for s in chosen],
                }.get(what, [s.unseen_difference for s in chosen])
                if any(value is not None for value in values):
                    yield f"  {source}".ljust(52) + "".join(f"{_told(value):>24}" for value in values)
    if any(not score.unseen.n for score in report.scores):
        yield ""
        yield f"{_NOTHING}: nothing in the turn was unseen lately, in the {config.lately} real frames before it."


def _told(value: Interval | None) -> str:
    """A value of the table; a dash where no frame was there to be judged."""
    return str(value) if value and value.n else _NOTHING
