"""Episodes that were played are kept, group by group, so that an interruption costs those in flight alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_json


@dataclass(frozen=True)
class Played:
    """One episode: map, whether the task was solved, undiscounted return, steps."""

    map_seed: int
    success: bool
    reward: float
    steps: int


@dataclass(frozen=True)
class Group:
    """Episodes that were played side by side, and the seconds that each action took, see `acting_time.Timed`."""

    episodes: tuple[Played, ...]
    seconds: tuple[float, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        """The inverse of ``asdict``."""
        return cls(tuple(Played(**episode) for episode in data["episodes"]), tuple(data["seconds"]))


class KeptGroups:
    """The groups of one task and one actor, in a file that is whole at any time; in memory alone without one.

    Args:
        path: the file; what it holds of another key is forgotten.
        key: of all that decides what comes out.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self.groups: list[Group] = []
        if path is not None and path.exists():
            data = json.loads(path.read_text())
            if data["key"] == key:
                self.groups = [Group.from_json(group) for group in data["groups"]]

    def add(self, episodes: Sequence[Played], seconds: Sequence[float]) -> None:
        """Keep another group."""
        self.groups.append(Group(tuple(episodes), tuple(seconds)))
        if self._path is not None:
            write_json(self._path, {"key": self._key, "groups": [asdict(group) for group in self.groups]})
