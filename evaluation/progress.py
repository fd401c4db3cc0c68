"""How long evaluations tell their caller how far they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often, from the evaluating thread; the command line draws a bar with it."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """The `Progress` of a caller who does not watch."""
