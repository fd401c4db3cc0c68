"""What a run has done so far: a file that is whole at any time, and a report of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import write_bytes, write_json

_KEEP_TIME_EVERY = 5.0
"""Seconds after which the time that a stage has taken is written down: what a kill takes from it at most."""


@dataclass(frozen=True)
class Outcome:
    """What a stage came to.

    Attributes:
        steps: real steps recorded, optimiser steps, or episodes played.
        result: figures, as plain data.
        told: in words, for the report; may have several lines.
    """

    steps: int
    result: dict[str, Any] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True)
class StageRecord:
    """One stage of one round.

    Attributes:
        round: from 0.
        stage: its name.
        seconds: wall time, all sessions together.
        sessions: times that it was begun or gone on with.
        outcome: None until it is finished.
    """

    round: int
    stage: str
    seconds: float = 0.0
    sessions: int = 0
    outcome: Outcome | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageRecord:
        """The inverse of ``asdict``."""
        outcome = data["outcome"]
        return cls(**{**data, "outcome": None if outcome is None else Outcome(**outcome)})


class Ledger:
    """``run.json``: the configuration, and every stage in the order in which they were begun; beside it ``report.md``,
    the same to read.

    Args:
        path: the first of them.
        decides: configuration that must not change from one session to the next.
        about: the rest that is worth keeping.

    Raises:
        ConfigError: the file holds a run of another configuration.
    """

    def __init__(self, path: Path, decides: dict[str, Any], about: dict[str, Any]) -> None:
        self._path, self._decides, self._about = path, json.loads(json.dumps(decides, default=str)), about
        self.stages: list[StageRecord] = []
        if path.exists():
            data = _read(path)
            before, now = _flat(data["decides"]), _flat(self._decides)
            if differing := [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]:
                key = differing[0]
                raise ConfigError(
                    f"{path.parent} holds a run of another configuration: {key} is {before.get(key)!r} there and "
                    f"{now.get(key)!r} here; choose another directory, or the settings it was begun with."
                )
            self.stages = [StageRecord.from_json(stage) for stage in data["stages"]]
        self._write()

    def do(self, number: int, stage: str, work: Callable[[Callable[[], None]], Outcome]) -> Outcome:
        """What ``work`` comes to, or came to in an earlier session.

        Args:
            number: of the round.
            stage: its name.
            work: does it, or goes on with it; calls what it is given now and then.
        """
        place = next((i for i, s in enumerate(self.stages) if (s.round, s.stage) == (number, stage)), len(self.stages))
        if place == len(self.stages):
            self.stages.append(StageRecord(number, stage))
        record = self.stages[place]
        if record.outcome is not None:
            return record.outcome
        record = replace(record, sessions=record.sessions + 1)
        began = kept = time.monotonic()

        def keep(outcome: Outcome | None = None) -> None:
            nonlocal kept
            kept = time.monotonic()
            self.stages[place] = replace(record, seconds=record.seconds + kept - began, outcome=outcome)
            self._write()

        def tick() -> None:
            if time.monotonic() - kept >= _KEEP_TIME_EVERY:
                keep()

        keep()
        try:
            outcome = work(tick)
        except BaseException:
            keep()
            raise
        keep(outcome)
        return outcome

    def __str__(self) -> str:
        lines = ["| round | stage | wall time | steps | sessions | what came of it |", "|---|---|---|---|---|---|"]
        for s in self.stages:
            steps, told = ("", "not finished") if s.outcome is None else (f"{s.outcome.steps}", _short(s.outcome))
            lines.append(f"| {s.round} | {s.stage} | {clock(s.seconds)} | {steps} | {s.sessions} | {told} |")
        total = clock(sum(s.seconds for s in self.stages))
        lines += ["", f"Wall time of all stages: {total}."]
        for s in self.stages:
            if s.outcome is not None and "\n" in s.outcome.told:
                lines += ["", f"Round {s.round}, {s.stage}:", "", "```", s.outcome.told, "```"]
        return "\n".join(lines)

    def _write(self) -> None:
        stages = [asdict(stage) for stage in self.stages]
        write_json(self._path, {"decides": self._decides, "stages": stages, **self._about})
        write_bytes(self._path.with_name("report.md"), f"# A run of worldloop\n\n{self}\n".encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
        if {"decides", "stages"} <= {*data}:
            return dict(data)
    except (ValueError, TypeError):
        pass
    raise ConfigError(f"{path.parent} holds something else than such a run; choose another directory.")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _short(outcome: Outcome) -> str:
    return "see below" if "\n" in outcome.told else outcome.told


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
