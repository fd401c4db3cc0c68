"""What the command line shows: text, errors, progress bars."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
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


def tell_error(error: Exception) -> None:
    """One sentence, as it is."""
    ERROR.print(f"[bold red]error:[/] {escape(str(error))}")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Meanwhile worldloop's own warnings are a sentence each, without the place in the code that they come from."""
    shown, here = warnings.showwarning, Path(__file__).parent.parent

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        # An environment of other packages may lie in a checkout, too.
        place = Path(filename)
        ours = place.is_relative_to(here) and "site-packages" not in place.relative_to(here).parts
        if category is UserWarning and ours:
            ERROR.print(f"[bold yellow]warning:[/] {escape(str(message))}")
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


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
