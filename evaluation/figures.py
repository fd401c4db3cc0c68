"""Figures drawn without pyplot, so that no global state is touched and notebooks keep their own backend."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import write_bytes
from .metrics import Curve

# Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class Panel:
    """One set of axes: curves against the horizon.

    Attributes:
        title: above the axes.
        ylabel: with its unit.
        curves: name to curve, each drawn with its interval as a band.
    """

    title: str
    ylabel: str
    curves: Mapping[str, Curve]


def horizon_figure(panels: Sequence[Panel], xlabel: str = "imagined steps", caption: str = "") -> Figure:
    """Curves with their intervals, one panel beside the other; ``caption`` is written small below."""
    figure = Figure(figsize=(4.6 * len(panels), 3.5), layout="constrained", dpi=110)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for colour, (name, curve) in zip(COLOURS, panel.curves.items(), strict=False):
            draw_curve(axes, curve, name, colour)
        axes.set_title(panel.title, fontsize=11)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(panel.ylabel)
        finish(axes)
        if len(panel.curves) > 1:
            axes.legend(frameon=False, fontsize=9)
    if caption:
        figure.supxlabel(caption, fontsize=8, color="#666666")
    return figure


def draw_curve(axes: Axes, curve: Curve, name: str, colour: str) -> None:
    """One curve over steps 1 … H, with its interval as a band of the same colour."""
    steps = np.arange(1, len(curve.mean) + 1)
    axes.plot(steps, curve.mean, color=colour, label=name, linewidth=1.8, marker=".", markersize=5)
    axes.fill_between(steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def finish(axes: Axes) -> None:
    """Light grid, no frame above and on the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(path: Path, figure: Figure) -> Path:
    """Write ``figure`` as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return path
