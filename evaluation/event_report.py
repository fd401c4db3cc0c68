"""What a return test with events is asked, and what it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .metrics import Interval
from .report import jsonable

Kind = Literal["item", "door"]
"""What changes: an item that is taken, or a door that is opened."""

Reason = Literal["nothing to see", "stuck", "unchanged", "not seen before and after", "not away", "not seen again"]
"""Why a walk was left out."""

Quantity = Literal["remembered", "false_change", "region", "outside"]
"""``remembered``: share of frames nearer to now than to before; ``false_change``: share of them nearer to the change
where there was none; ``region``, ``outside``: PSNR to now in dB."""

ALL, KNOWN = "all", "known view"
"""Cells of every frame, and of those whose view was seen since the change from within a step or a turn."""

KINDS: tuple[Kind, ...] = get_args(Kind)
QUANTITIES: dict[Quantity, str] = {
    "remembered": "share of frames nearer to now than to before, in the changed region",
    "false_change": "share of frames nearer to the change where there was none (control)",
    "region": "PSNR in the changed region (dB)",
    "outside": "PSNR outside of it (dB)",
}

SINCE = "nearest real frame since the change"
"""A baseline that knows when a frame was seen: of those since the change, the one whose pose is nearest."""


@dataclass(frozen=True)
class EventConfig:
    """What `event_test` measures."""

    maps: int = 40
    """Held-out maps; each gives one path of every kind. Intervals are over maps."""
    kinds: tuple[Kind, ...] = KINDS
    """What changes: item, door."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    away: int = 20
    """Frames before the way back in which nothing of the change may be in view."""
    threshold: int = 24
    """A pixel has changed where some channel differs by more than this, in grey levels."""
    pixels: int = 24
    """Frames count where at least so many pixels have changed."""
    pictures: int = 8
    """Paths drawn as strips: the first ones, not chosen."""
    batch: int = 32
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, things, walks, imagination and resampling."""

    def __post_init__(self) -> None:
        for name in ("maps", "away", "pixels", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.threshold < 255:
            raise ConfigError(f"A threshold is 0 … 254 grey levels, got {self.threshold}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Events are tested on 'validation' or 'test' maps, not on {self.split!r}.")
        if not self.kinds or set(self.kinds) - set(KINDS) or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(f"kinds are 'item' and 'door', none of them twice; got {self.kinds}.")


@dataclass(frozen=True)
class Dropped:
    """A walk that was left out, and why."""

    kind: Kind
    map_seed: int
    reason: Reason


@dataclass(frozen=True)
class EventCell:
    """Frames that show a change of one kind of thing, or `ALL`, or of all those that are `KNOWN`.

    Attributes:
        kind: which of these.
        paths: how many have such frames.
        controls: how many of these can be walked with nothing changed, too: not those through the door.
        frames: how many there are.
        gap: mean number of frames between the last look at the change and the first frame of the way back that shows
            it.
        size: mean number of changed pixels in the frames judged.
    """

    kind: str
    paths: int
    controls: int
    frames: int
    gap: float
    size: float


@dataclass(frozen=True)
class EventScore:
    """One quantity of one source in one cell, over frames that show the change.

    Attributes:
        kind: of the cell.
        quantity: see `Quantity`.
        source: name of a world or a baseline.
        value: its mean.
        difference: the same minus that of the first world, frame by frame; None for that world itself.
    """

    kind: str
    quantity: Quantity
    source: str
    value: Interval
    difference: Interval | None


@dataclass(frozen=True)
class EventReport:
    """What `event_test` found; every interval is 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        cells: paths behind the numbers, kind by kind, then `ALL` and `KNOWN`.
        scores: every quantity of every source in every cell.
        dropped: walks left out.
        mean_frame_of: which frames the mean frame is the mean of.
        files: pictures written, relative to the report.
        provenance: versions and time, for every world.
    """

    config: EventConfig
    cells: tuple[EventCell, ...]
    scores: tuple[EventScore, ...]
    dropped: tuple[Dropped, ...]
    mean_frame_of: str
    files: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(report: EventReport) -> Iterator[str]:
    why = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in report.dropped).items())
    paths = next(cell.paths for cell in report.cells if cell.kind == ALL)
    yield (
        f"{paths} paths on {report.config.maps} {report.config.split} maps "
        f"({len(report.dropped)} left out{f': {why}' if why else ''}); [95 % over maps]"
    )
    for cell in report.cells:
        yield (
            f"  {cell.kind}: {cell.paths} paths ({cell.controls} with a control), {cell.frames} frames judged, "
            f"{cell.size:.0f} pixels changed, unseen for {cell.gap:.0f} frames"
        )
    for quantity, title in QUANTITIES.items():
        yield ""
        yield _row(title, [cell.kind for cell in report.cells] + ["last, minus first world"])
        for source in dict.fromkeys(score.source for score in report.scores):
            row = [s for s in report.scores if (s.source, s.quantity) == (source, quantity)]
            yield _row(f"  {source}", [str(s.value) for s in row] + [str(row[-1].difference or "-")])


def _row(name: str, columns: list[str]) -> str:
    return f"{name:<72}" + "".join(f"{column:>24}" for column in columns)
