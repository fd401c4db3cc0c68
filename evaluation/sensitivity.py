"""Sensitivity: how much a world's memory suffers from noise on poses, and from other widths of its retrieval score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from ..errors import ConfigError
from ..files import write_json
from ..world_models.memory.retrieval import WorldPack
from ..world_models.world_model import WorldModel
from .figures import COLOURS, finish, write_figure
from .metrics import Interval, bootstrap, psnr
from .progress import Progress, silent
from .real import MakeEnv, held_out
from .report import jsonable, provenance
from .return_paths import PathType, ReturnPath, record_paths
from .return_report import ReturnConfig
from .return_test import imagine_returns

POSITION, HEADING, ALONG, ACROSS = "position noise", "heading noise", "sigma along", "sigma across"
_UNITS = {
    POSITION: "deviation in % of a step", HEADING: "deviation in degrees", ALONG: "times the preset's",
    ACROSS: "times the preset's",
}  # fmt: skip


@dataclass(frozen=True)
class SensitivityConfig:
    """What `sensitivity` measures."""

    maps: int = 10
    """Held-out maps; each gives one path of every type and radius. Intervals are over maps."""
    types: tuple[PathType, ...] = ("ABCA",)
    """Kinds of path, as in the return test."""
    radii: tuple[int, ...] = (30, 50)
    """How far B and C lie from A, in LoopNav's blocks; 20 blocks are the side of a room."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    noise_steps: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Deviations of the noise on every position that the world is told, in steps of the walk."""
    noise_degrees: tuple[float, ...] = (0.0, 1.0, 5.0, 10.0)
    """Deviations of the noise on every heading that the world is told."""
    factors: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    """What each width of WorldPack's score is multiplied by; worlds that retrieve otherwise have none."""
    batch: int = 32
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, places, walks, noise, imagination and resampling."""

    def __post_init__(self) -> None:
        # Checks maps, types, radii, split and batch.
        ReturnConfig(self.maps, self.types, self.radii, self.split, "true", batch=self.batch)
        if not self.noise_steps or not self.noise_degrees or min(*self.noise_steps, *self.noise_degrees) < 0:
            raise ConfigError("Noise on poses is at least 0, and each kind has at least one entry.")
        if any(factor <= 0 for factor in self.factors):
            raise ConfigError("Widths are multiplied by something above 0.")


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        axis: what differs: one of `POSITION`, `HEADING`, `ALONG`, `ACROSS`.
        value: by how much, in the axis' unit.
        psnr: over the last third of the return legs, in dB.
    """

    axis: str
    value: float
    psnr: Interval


@dataclass(frozen=True)
class SensitivityReport:
    """What `sensitivity` found; intervals are 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        paths: real paths behind every point.
        points: axis by axis, in the order asked for.
        forgetful: the same with nothing retrieved.
        provenance: versions and time.
    """

    config: SensitivityConfig
    paths: int
    points: tuple[Point, ...]
    forgetful: Interval
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        config = self.config
        lines = [
            f"PSNR (dB) over the last third of the way back, {self.paths} paths on {config.maps} {config.split} maps; "
            "[95 % over maps]"
        ]
        for axis in dict.fromkeys(point.axis for point in self.points):
            lines.append(f"{axis}, {_UNITS[axis]}")
            lines += [f"  {point.value:<8g}{point.psnr}" for point in self.points if point.axis == axis]
        return "\n".join([*lines, f"nothing retrieved: {self.forgetful}"])


def sensitivity(
    world: WorldModel,
    config: SensitivityConfig,
    out: Path,
    *,
    make_env: MakeEnv | None = None,
    progress: Progress = silent,
) -> SensitivityReport:
    """Imagine the same returns under every setting; write ``sensitivity.json`` and ``sensitivity.png`` into ``out``.

    Args:
        world: with a memory; it is used as it was before when this returns.
        config: what to measure.
        out: directory for the report; made if missing.
        make_env: makes the real environment; default DoomRooms, task explore, at the world's frame size.
        progress: told how far it is.

    Raises:
        ConfigError: a world without a memory, an environment that does not fit, no path that came back.
    """
    if not world.config.remembers:
        raise ConfigError("Sensitivity is measured of a world that retrieves frames from memory; this one does not.")
    with held_out([world], config.split, config.maps, config.seed, make_env) as (env, maps):
        paths = record_paths(env, maps, config.types, config.radii, config.seed, progress).paths
    if not paths:
        raise ConfigError("None of the walks came back; use other maps or another seed.")
    settings = list(_settings(world, config))
    before, known, points = world.config, dict[tuple[float, float, str], Interval](), []
    try:
        for number, (axis, value, steps, degrees, retrieval) in enumerate([*settings, ("", 0.0, 0.0, 0.0, "none")]):
            key = steps, degrees, retrieval
            if key not in known:
                world.use(before.with_overrides(retrieval=retrieval))
                known[key] = _score(world, paths, config, steps, degrees)
            points.append(Point(axis, value, known[key]))
            progress("imagining", number + 1, len(settings) + 1)
    finally:
        world.use(before)
    *points, forgetful = points
    report = SensitivityReport(config, len(paths), tuple(points), forgetful.psnr, provenance(world))
    write_figure(out / "sensitivity.png", sensitivity_figure(report))
    write_json(out / "sensitivity.json", report.to_json())
    return report


def _settings(world: WorldModel, config: SensitivityConfig) -> Iterator[tuple[str, float, float, float, str]]:
    """Axis, value, noise in steps, noise in degrees and retrieval of every point."""
    usual = world.config.retrieval
    yield from ((POSITION, 100 * steps, steps, 0.0, usual) for steps in config.noise_steps)
    yield from ((HEADING, degrees, 0.0, degrees, usual) for degrees in config.noise_degrees)
    strategy = world.config.strategy
    if not isinstance(strategy, WorldPack):
        return
    constants = {f.name: getattr(strategy, f.name) for f in fields(strategy)}
    for axis, name in ((ALONG, "sigma_along"), (ACROSS, "sigma_across")):
        for factor in config.factors:
            changed = constants | {name: constants[name] * factor}
            yield axis, factor, 0.0, 0.0, "worldpack:" + ",".join(f"{k}={v}" for k, v in changed.items())


def _score(
    world: WorldModel, paths: Sequence[ReturnPath], config: SensitivityConfig, steps: float, degrees: float
) -> Interval:
    told = ReturnConfig(
        config.maps, config.types, config.radii, config.split, "true", steps, degrees, batch=config.batch,
        seed=config.seed,
    )  # fmt: skip
    values = np.empty(len(paths))
    for i, _, frames, _ in imagine_returns(world, paths, told):
        third = -(-len(frames) // 3)
        values[i] = psnr(frames[-third:], paths[i].frames[-third:]).mean()
    return bootstrap(values, [path.map_seed for path in paths], seed=config.seed)


def sensitivity_figure(report: SensitivityReport) -> Figure:
    """One panel an axis: PSNR with its interval, and the world with nothing retrieved."""
    axes_names = list(dict.fromkeys(point.axis for point in report.points))
    figure = Figure(figsize=(3.3 * len(axes_names), 3.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(axes_names), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes_names, strict=True):
        chosen = [point for point in report.points if point.axis == axis]
        low, middle, high = np.array([(p.psnr.low, p.psnr.estimate, p.psnr.high) for p in chosen]).T
        places = np.arange(len(chosen))
        panel.plot(places, middle, color=COLOURS[0], linewidth=1.8, marker=".", markersize=7, label="with memory")
        panel.fill_between(places, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
        panel.axhline(report.forgetful.estimate, color="#777777", linewidth=1.2, linestyle="--", label="none retrieved")
        panel.set_xticks(places, [f"{point.value:g}" for point in chosen])
        panel.set_title(axis, fontsize=11)
        panel.set_xlabel(_UNITS[axis])
        finish(panel)
    panels[0].set_ylabel("PSNR (dB), last third of the way back")
    panels[0].legend(frameon=False, fontsize=9)
    return figure
