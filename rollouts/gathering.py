"""Data sets put together: what several recordings hold, as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from .metadata import Provenance
from .store import DatasetWriter, RolloutDataset, difference_of, open_dataset

GATHERED: dict[str, Any] = {"gathered": "from several recordings"}


def gather(
    recordings: Sequence[RolloutDataset],
    into: Path,
    maps: int | None = None,
    recipe: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RolloutDataset:
    """Add recordings to a data set that grows; what is there already stays as it is.

    Each file is copied whole or not at all, so the same call again completes one that was interrupted.

    Args:
        recordings: of one environment and split, no map in two of them. Those that ``into`` was gathered from before
            may be among them.
        into: directory of the data set, made if missing.
        maps: that it holds afterwards; default those of ``recordings``.
        recipe: what it says of itself; default `GATHERED`.
        progress: called after each map with how many are done, and of how many.

    Returns:
        The data set, all of it.

    Raises:
        DataError: there is no recording, two hold the same map, or ``into`` is of another environment or recipe, or
            holds more maps.
        WorldloopError: the disk is full.
    """
    if not recordings:
        raise DataError("There is nothing to gather: name at least one recording.")
    episodes: dict[str, tuple[RolloutDataset, list[int]]] = {}
    for recorded in recordings:
        if recorded.path.resolve() == into.resolve():
            raise DataError(f"{into} cannot be gathered into itself; choose another directory.")
        for i in range(len(recorded)):
            name = recorded.file_of(i).stem
            other, numbers = episodes.setdefault(name, (recorded, []))
            if other is not recorded:
                raise DataError(
                    f"{other.path} and {recorded.path} both hold {name}; record one of them with another --first-map."
                )
            numbers.append(i)
    first, *further = [
        replace(
            recorded.info, recipe=GATHERED if recipe is None else recipe, maps=len(episodes) if maps is None else maps,
            provenance=Provenance.here_and_now(),
        )
        for recorded in recordings
    ]  # fmt: skip
    for number, description in enumerate(further, start=1):
        if difference := difference_of(first, description):
            there, here = recordings[0].path, recordings[number].path
            raise DataError(f"{here} does not go together with {there}: {difference}")
    writer = DatasetWriter.create(into, first)
    for done, (name, (recorded, numbers)) in enumerate(episodes.items(), start=1):
        if not writer.frames_in(name):
            writer.write(name, [recorded.episode(i) for i in numbers])
        if progress is not None:
            progress(done, len(episodes))
    return open_dataset(into, purpose="report")
