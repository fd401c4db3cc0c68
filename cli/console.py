"""What the command line shows: text, errors, progress bars."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SILENCE = 30.0
ERROR = Console(stderr=True, highlight=False, soft_wrap=True)
OUT = Console(highlight=False, soft_wrap=True)


class Bars:
    """Progress bars with the time left, one per stage; where no one watches, a line now and then."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=ERROR,
        )
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, float] = {}
        self._told = -_SILENCE

    def __enter__(self) -> Bars:
        if ERROR.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if ERROR.is_terminal:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
            self._begun[stage] = time.monotonic()
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)
        now = time.monotonic()
        if not ERROR.is_terminal and (done >= total or now - self._told >= _SILENCE):
            self._told = now
            ERROR.print(f"{stage}: {done}/{total} after {now - self._begun[stage]:.0f} s {note}".rstrip())


def summary(lines: dict[str, Any], out: Path) -> None:
    """Say what a measurement came to, and where the rest lies."""
    for name, value in lines.items():
        OUT.print(f"{name}: {value}")
    OUT.print(f"Pictures and the whole report: {out}")
