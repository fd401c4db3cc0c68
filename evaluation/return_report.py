"""What a return test is asked and what it tells, beside the figures that others published for LoopNav."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..errors import ConfigError
from .metrics import Curve, Interval
from .report import jsonable
from .return_paths import RADII, TYPES, PathType, check_radius, check_type

Mode = Literal["true", "predicted"]
"""Along which poses the way back is imagined."""

COPYING, MEAN, NEAREST = "copy last real frame", "mean frame", "nearest real frame"
BASELINES = (COPYING, MEAN, NEAREST)


@dataclass(frozen=True)
class ReturnConfig:
    """What `return_test` measures."""

    maps: int = 20
    """Held-out maps; each gives one path of every type and radius. Intervals are over maps."""
    types: tuple[PathType, ...] = TYPES
    """Kinds of path: ABA returns the way it came, ABCA from a third place."""
    radii: tuple[int, ...] = RADII
    """How far B and C lie from A, in LoopNav's blocks; 20 blocks are the side of a room."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    poses: Literal["true", "predicted", "both"] = "both"
    """Imagine the way back along the true poses, along the world's own, or once along each."""
    noise_steps: float = 0.0
    """Deviation of the noise on every position that a world is told, in steps of the walk."""
    noise_degrees: float = 0.0
    """Deviation of the noise on every heading that a world is told."""
    last: int = 40
    """Frames at the end of the return leg that the curves show."""
    pictures: int = 8
    """Paths drawn as video, GIF, strip and map: the first ones, not chosen."""
    batch: int = 32
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, places, walks, imagination and resampling."""

    def __post_init__(self) -> None:
        for name in ("maps", "last", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if min(self.noise_steps, self.noise_degrees) < 0:
            raise ConfigError("The noise on poses is at least 0.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Returning is tested on 'validation' or 'test' maps, not on {self.split!r}.")
        if self.poses not in ("true", "predicted", "both"):
            raise ConfigError(f"Poses are 'true', 'predicted' or 'both', not {self.poses!r}.")
        for kind in self.types:
            check_type(kind)
        for radius in self.radii:
            check_radius(radius)
        for name in ("types", "radii"):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) < len(chosen):
                raise ConfigError(f"{name} needs at least one entry and none of them twice, got {chosen}.")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What ``poses`` asks for, one after the other."""
        return ("true", "predicted") if self.poses == "both" else (self.poses,)


@dataclass(frozen=True)
class Published:
    """LPIPS (lower is better) of one model at one range of LoopNav.

    Attributes:
        radius: LoopNav's range in Minecraft blocks.
        model: as its authors call it.
        aba: on paths that return as they went.
        abca: on paths that return another way.
    """

    radius: int
    model: str
    aba: float
    abca: float


LOOPNAV_NOTE = "another data set (LoopNav: Minecraft, 640 x 360), published by WorldPack; not comparable with ours"

LOOPNAV_LPIPS = (
    Published(5, "NWM", 0.64, 0.67),
    Published(5, "WorldPack", 0.52, 0.56),
    Published(15, "NWM", 0.67, 0.65),
    Published(15, "WorldPack", 0.57, 0.55),
    Published(30, "NWM", 0.69, 0.71),
    Published(30, "WorldPack", 0.61, 0.63),
    Published(50, "NWM", 0.72, 0.65),
    Published(50, "WorldPack", 0.63, 0.63),
)
"""WorldPack (arXiv 2512.02473), its table of LoopNav results."""


@dataclass(frozen=True)
class Source:
    """Where a frame beside the true one comes from.

    Attributes:
        name: of a world, or one of `BASELINES`.
        poses: along which poses a world imagined; None for a baseline.
    """

    name: str
    poses: Mode | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.poses} poses" if self.poses else self.name


@dataclass(frozen=True)
class Cell:
    """Paths of one type and radius; type ``all`` and radius None: every path.

    Attributes:
        type: see `return_paths.PathType`.
        radius: in LoopNav's blocks.
        paths: how many were judged.
        dropped: how many walks got stuck and were left out.
        rooms: mean distance from A to B as it came out, in rooms.
        exploration: mean number of frames shown.
        returning: mean number of frames imagined.
    """

    type: str
    radius: int | None
    paths: int
    dropped: int
    rooms: float
    exploration: float
    returning: float


@dataclass(frozen=True)
class Score:
    """One measure of one source in one cell. Each path counts once, with the mean over its frames.

    Attributes:
        type: of the cell.
        radius: of the cell.
        measure: name of the measure.
        source: what was compared with the true frames.
        whole: over the whole return leg.
        last_third: over its last third, rounded up.
        whole_difference: ``whole`` minus that of the first world, path by path; None for that world itself.
        last_third_difference: the same of ``last_third``.
        curve: frame by frame over the end of the return leg, aligned at its last frame; NaN where no path is so long.
    """

    type: str
    radius: int | None
    measure: str
    source: Source
    whole: Interval
    last_third: Interval
    whole_difference: Interval | None
    last_third_difference: Interval | None
    curve: Curve


@dataclass(frozen=True)
class Drift:
    """Between the pose a world predicts at the end of a path and the true one.

    Attributes:
        type: of the cell.
        radius: of the cell.
        world: whose pose.
        distance: world units.
        heading: degrees between the viewing directions.
    """

    type: str
    radius: int | None
    world: str
    distance: Interval
    heading: Interval


@dataclass(frozen=True)
class ReturnReport:
    """What `return_test` found; every interval is 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        cells: paths behind the numbers; the last cell is all of them.
        scores: every measure of every source in every cell.
        drifts: of the predicted poses, if poses were predicted.
        measures: name of every measure to its unit, or to ``"unavailable"``.
        reasons: why a measure is unavailable.
        mean_frame_of: which frames the mean frame is the mean of.
        published: LPIPS on LoopNav, as published.
        published_note: why these cannot be compared with ours.
        files: pictures written, relative to the report.
        provenance: versions and time, for every world.
    """

    config: ReturnConfig
    cells: tuple[Cell, ...]
    scores: tuple[Score, ...]
    drifts: tuple[Drift, ...]
    measures: dict[str, str]
    reasons: dict[str, str]
    mean_frame_of: str
    published: tuple[Published, ...] = LOOPNAV_LPIPS
    published_note: str = LOOPNAV_NOTE
    files: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        return return_table(self)


def return_table(report: ReturnReport) -> str:
    """The report as lines for a terminal: everything with intervals, then cell by cell, then what was published."""
    return "\n".join(_lines(report))


def _lines(report: ReturnReport) -> Iterator[str]:
    whole = report.cells[-1]
    yield (
        f"{whole.paths} paths on {report.config.maps} {report.config.split} maps ({whole.dropped} walks got stuck), "
        f"{whole.exploration:.0f} frames shown and {whole.returning:.0f} imagined on average; [95 % over maps]"
    )
    for measure, unit in report.measures.items():
        title = f"{measure.upper()} ({unit})" if unit else measure.upper()
        if measure in report.reasons:
            yield f"{measure.upper()}: {unit}. {report.reasons[measure]}"
            continue
        scores = [score for score in report.scores if score.measure == measure]
        sources = list(dict.fromkeys(score.source for score in scores))
        yield ""
        yield _row(f"{title}, all paths", ["whole return leg", "last third", "last third minus first world"], 24)
        for score in scores:
            if score.radius is None:
                difference = str(score.last_third_difference or "-")
                yield _row(f"  {score.source}", [str(score.whole), str(score.last_third), difference], 24)
        yield _row(f"{title}, last third", [_label(cell) for cell in report.cells], 9)
        for source in sources:
            row = [f"{score.last_third.estimate:.2f}" for score in scores if score.source == source]
            yield _row(f"  {source}", row, 9)
    for drift in report.drifts:
        if drift.radius is None:
            yield ""
            yield f"{drift.world}: predicted pose at the end {drift.distance} units, {drift.heading} degrees off"
    yield ""
    yield f"LPIPS published for {report.published_note}"
    for model in dict.fromkeys(row.model for row in report.published):
        rows = [row for row in report.published if row.model == model]
        numbers = "; ".join(f"range {row.radius}: ABA {row.aba:.2f}, ABCA {row.abca:.2f}" for row in rows)
        yield f"  {model}: {numbers}"


def _label(cell: Cell) -> str:
    return cell.type if cell.radius is None else f"{cell.type} {cell.radius}"


def _row(name: str, columns: list[str], width: int) -> str:
    return f"{name:<40}" + "".join(f"{column:>{max(width, len(column) + 2)}}" for column in columns)
