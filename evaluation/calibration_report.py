"""What calibration found: figures per kind of uncertainty, as text, plain data and a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from matplotlib.figure import Figure

from .figures import COLOURS, finish
from .metrics import Curve, Interval
from .report import jsonable

LEAST_KEPT = 0.01
"""Share of frames below which a threshold keeps next to nothing."""


@dataclass(frozen=True)
class Threshold:
    """What comes of ending an episode where uncertainty passes ``value``, on maps that it was not chosen on.

    Attributes:
        value: for ``max_uncertainty``; chosen on every other map, the others tell what it is worth.
        kept: share of the frames that come before any frame as unsure as that.
        good: share of good frames among those; to be held against `CalibrationReport.good`, without a threshold.
        found: share of all good frames that is kept.
        psnr_kept, psnr_dropped: mean PSNR in dB of the frames kept and of the others.
    """

    value: float
    kept: Interval
    good: Interval
    found: Interval
    psnr_kept: Interval
    psnr_dropped: Interval


@dataclass(frozen=True)
class Calibrated:
    """One kind of uncertainty.

    Attributes:
        kind: which; "steps imagined" is none, but what each has to beat: the time since something real was seen.
        correlation: rank correlation (Spearman) of uncertainty and error, over all frames; 1 would be perfect.
        within: the same along each walk, then the mean over walks.
        wrong_found: probability that a wrong frame is less sure than another one (area under the ROC curve).
        levels: mean uncertainty of every group of frames, surest first.
        error: mean error of every group.
        psnr: mean PSNR in dB of every group.
        threshold: None where no value leaves frames that are good often enough.
    """

    kind: str
    correlation: Interval
    within: Interval
    wrong_found: Interval
    levels: tuple[float, ...]
    error: Curve
    psnr: Curve
    threshold: Threshold | None

    @property
    def usable(self) -> bool:
        """Whether the threshold is worth keeping: the uncertainty rises with error, with its whole interval, and the
        threshold leaves something of the maps it was not chosen on."""
        limit = self.threshold
        return limit is not None and self.correlation.low > 0 and limit.kept.estimate >= LEAST_KEPT


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibration` found; intervals are 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked, a `CalibrationConfig` as plain data.
        kinds: one entry for every kind of uncertainty that the world has, and one for the time since reality.
        error: mean error of all imagined frames.
        good: share of them that are good.
        psnr: mean PSNR of them in dB.
        mean_frame_psnr: of the mean frame of each walk instead, in dB.
        provenance: versions and time.
    """

    config: dict[str, Any]
    kinds: tuple[Calibrated, ...]
    error: Interval
    good: Interval
    psnr: Interval
    mean_frame_psnr: Interval
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        c = self.config
        lines = [
            f"{c['horizon']} frames imagined after {c['context']} real ones on {c['maps']} {c['split']} maps; "
            "error: squared error of the latents over their variance within the walk, 1 is the mean frame's; "
            "[95 % over maps]",
            f"error {self.error}, below {c['good']:g} for {self.good} of the frames; PSNR {self.psnr} dB, of the "
            f"walk's mean frame {self.mean_frame_psnr} dB",
        ]
        for known in self.kinds:
            lines.append(
                f"{known.kind}: rank correlation with error {known.correlation}, along a walk {known.within}; a wrong "
                f"frame is less sure than another with probability {known.wrong_found}"
            )
            pairs = zip(known.levels, known.error.mean, known.psnr.mean, strict=True)
            lines.append("  uncertainty → error: " + ", ".join(f"{u:.3g} → {e:.2f} ({p:.1f} dB)" for u, e, p in pairs))
            useless = "" if known.threshold is None or known.usable else "; useless"
            lines.append(f"  {_told(known.threshold, c['share'])}{useless}")
        return "\n".join(lines)


def _told(limit: Threshold | None, share: float) -> str:
    if limit is None:
        return f"no threshold leaves frames of which {share:.0%} are good"
    return (
        f"max_uncertainty={limit.value:.3g} (chosen for {share:.0%}), on the other maps: keeps {limit.kept} of the "
        f"frames, {limit.good} of them good, and {limit.found} of the good ones; {limit.psnr_kept} dB, the others "
        f"{limit.psnr_dropped} dB"
    )


def calibration_figure(report: CalibrationReport) -> Figure:
    """One panel a kind: error against uncertainty, with its interval and the threshold; where both have one unit, the
    line that perfect foresight would follow."""
    figure = Figure(figsize=(3.8 * len(report.kinds), 3.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(report.kinds), sharey=True, squeeze=False)[0]
    for i, (panel, known) in enumerate(zip(panels, report.kinds, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        panel.plot(known.levels, known.error.mean, color=colour, linewidth=1.8, marker=".", markersize=7)
        panel.fill_between(known.levels, known.error.low, known.error.high, color=colour, alpha=0.18, linewidth=0)
        panel.axhline(report.config["good"], color="#777777", linewidth=1.0, linestyle="--")
        if known.kind == "expected_error":
            panel.plot(known.levels, known.levels, color="#777777", linewidth=1.0)
        if known.threshold is not None:
            panel.axvline(known.threshold.value, color="#777777", linewidth=1.0, linestyle=":")
        panel.set_title(f"{known.kind}, rank correlation {known.correlation.estimate:.2f}", fontsize=11)
        panel.set_xlabel("uncertainty")
        finish(panel)
    panels[0].set_ylabel("error (1: the mean frame)")
    return figure
