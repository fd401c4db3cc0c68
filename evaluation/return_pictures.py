"""The return test to look at: clips of the way back, the path on its map, curves, and every cell with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..envs.doom_rooms.layout import WALL
from ..envs.doom_rooms.layout import Layout as RoomsLayout
from ..envs.doom_rooms.map_picture import draw_map
from .figures import COLOURS, draw_curve, finish, write_figure
from .media import Frames, panes, strip, write_gif, write_png, write_video
from .metrics import psnr
from .return_paths import ReturnPath
from .return_report import BASELINES, MEAN, NEAREST, ReturnReport, Score, Source

_GREYS = ("#555560", "#8a8a92", "#b9b9c0")
_COLUMNS = 10
_TOP = 40.0
"""Decibels where the axes end: a frame seen before from the very same pose has 60 and would flatten all the others."""
FPS = 6


class Shown:
    """One path that is drawn, and what every source showed in place of its return leg."""

    def __init__(self, path: ReturnPath) -> None:
        self.path = path
        self.rows: dict[str, Frames] = {"true": path.frames[path.begin :]}
        self.tracks: dict[str, NDArray[np.float64]] = {}

    def add(self, source: Source, frames: Frames, poses: NDArray[np.float64] | None = None) -> None:
        """Frames (R, H, W, 3) of ``source``, and the poses (R, 5) it imagined, if it did."""
        if source.poses is not None or source.name == NEAREST:
            self.rows[str(source)] = frames
        if source.poses == "predicted" and poses is not None:
            self.tracks[str(source)] = poses


def draw(report: ReturnReport, shown: Sequence[Shown], out: Path) -> tuple[str, ...]:
    """Write the figures of ``report`` and, of the paths shown, video, GIF, strip and map; returns the names."""
    files = [
        write_figure(out / "curves.png", curves_figure(report)),
        write_figure(out / "cells.png", cells_figure(report)),
    ]
    for i, one in enumerate(shown):
        video = return_video(one)
        files.append(write_video(out / f"path-{i}.mp4", video, FPS))
        files.append(write_gif(out / f"path-{i}.gif", video, FPS))
        files.append(write_png(out / f"strip-{i}.png", return_strip(one, report.config.last)))
        files.append(write_figure(out / f"map-{i}.png", map_figure(one)))
    return tuple(path.name for path in files)


def return_video(shown: Shown) -> Frames:
    """Frames (R, H', W', 3): the whole return leg, true and imagined side by side."""
    path, true = shown.path, shown.rows["true"]
    scores = {name: psnr(clip, true) for name, clip in shown.rows.items() if name != "true"}
    captions = [
        f"{path.type} {path.radius}, map {path.map_seed}   step {t + 1} of {path.length}   PSNR in dB: "
        + ", ".join(f"{score[t]:.1f}" for score in scores.values())
        for t in range(path.length)
    ]
    return panes(shown.rows, captions)


def return_strip(shown: Shown, last: int) -> Frames:
    """One picture: true frames above imagined ones, evenly spaced over the ``last`` frames of the return leg."""
    length = shown.path.length
    times = np.unique(np.linspace(max(0, length - last), length - 1, _COLUMNS).round().astype(int))
    return strip({name: clip[times] for name, clip in shown.rows.items()}, [int(t) + 1 for t in times])


def map_figure(shown: Shown) -> Figure:
    """The path from above: the way out, the way back, and where each world believed to be."""
    path = shown.path
    figure = Figure(figsize=(5.6, 5.6), layout="constrained", dpi=100)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_axis_off()
    layout = path.layout
    if isinstance(layout, RoomsLayout):
        width, height = layout.width + 4 * WALL, layout.height + 4 * WALL
        size = (round(700 * height / max(width, height)), round(700 * width / max(width, height)))
        extent = (-2 * WALL, layout.width + 2 * WALL, -2 * WALL, layout.height + 2 * WALL)
        axes.imshow(draw_map(layout, [], size), extent=extent, alpha=0.75)
    out, back = path.poses[: path.begin], path.poses[path.begin - 1 :]
    axes.plot(*out[:, :2].T, color="#8a8a92", linewidth=1.4, linestyle=":", marker=".", label="shown")
    axes.plot(*back[:, :2].T, color=COLOURS[0], linewidth=2.2, label="way back")
    for colour, (name, track) in zip(cycle(COLOURS[1:]), shown.tracks.items(), strict=False):
        axes.plot(*track[:, :2].T, color=colour, linewidth=1.4, label=name)
    for letter, place in zip("ABC", path.places, strict=False):
        axes.annotate(letter, place, fontsize=13, fontweight="bold", xytext=(5, 5), textcoords="offset points")
        axes.plot(*place, marker="o", color="black", markersize=4)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.09), ncols=3, frameon=False)
    axes.set_title(f"{path.type} {path.radius} on map {path.map_seed}", fontsize=10)
    return figure


def curves_figure(report: ReturnReport) -> Figure:
    """PSNR over the end of the return leg at the largest radius: a column a type, a row a kind of poses."""
    types, modes, radius = report.config.types, report.config.modes, max(report.config.radii)
    figure, grid = _grid(len(modes), len(types))
    for mode, row in zip(modes, grid, strict=True):
        for kind, axes in zip(types, row, strict=True):
            chosen = _chosen(report, kind, radius)
            for score in chosen:
                if score.source.poses in (mode, None) and score.source.name != MEAN:
                    draw_curve(axes, score.curve, score.source.name, _colour(score.source, chosen))
            axes.set_title(f"{kind} {radius}, {mode} poses", fontsize=11)
            axes.set_xlabel(f"last {report.config.last} frames of the way back")
            axes.set_ylabel("PSNR (dB)")
    return _legend(figure, grid)


def cells_figure(report: ReturnReport) -> Figure:
    """PSNR of the last third in every cell: full marks for true poses, hollow for predicted; ▲ lies above the axis."""
    radii = report.config.radii
    figure, grid = _grid(1, len(report.config.types))
    for kind, axes in zip(report.config.types, grid[0], strict=True):
        for k, radius in enumerate(radii):
            chosen = _chosen(report, kind, radius)
            for i, score in enumerate(chosen):
                value, colour = score.last_third, _colour(score.source, chosen)
                x = k + 0.7 * ((i + 0.5) / len(chosen) - 0.5)
                axes.plot([x, x], np.minimum([value.low, value.high], _TOP), color=colour, linewidth=1.4)
                axes.plot(
                    x,
                    np.minimum(value.estimate, _TOP),
                    "^" if value.estimate > _TOP else "o",
                    color=colour,
                    markerfacecolor="white" if score.source.poses == "predicted" else colour,
                    label=None if k else str(score.source),
                )
        axes.set_xticks(range(len(radii)), [str(radius) for radius in radii])
        axes.set_title(kind, fontsize=11)
        axes.set_xlabel("radius (LoopNav's blocks; 20 are a room)")
        axes.set_ylabel("PSNR of the last third (dB)")
    return _legend(figure, grid)


def _chosen(report: ReturnReport, kind: str, radius: int) -> list[Score]:
    return [s for s in report.scores if (s.type, s.radius, s.measure) == (kind, radius, "psnr")]


def _colour(source: Source, scores: Sequence[Score]) -> str:
    """A colour for every world, greys for what is none."""
    if source.poses is None:
        return _GREYS[BASELINES.index(source.name)]
    worlds = list(dict.fromkeys(score.source.name for score in scores if score.source.poses is not None))
    return COLOURS[worlds.index(source.name) % len(COLOURS)]


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(5 * columns, 3.6 * rows + 0.6), layout="constrained", dpi=110)
    grid = [[figure.add_subplot(rows, columns, r * columns + c + 1) for c in range(columns)] for r in range(rows)]
    for axes in (axes for row in grid for axes in row):
        finish(axes)
    return figure, grid


def _legend(figure: Figure, grid: list[list[Axes]]) -> Figure:
    for axes in (axes for row in grid for axes in row):
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, _TOP + 1))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
