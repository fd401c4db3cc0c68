"""One HDF5 file: the finished episodes of one map.

Layout: group ``episodes/NNNN`` holds ``frames`` (T, H, W, 3), gzip-compressed, and ``steps``, a table of
T rows with the other fields of `Episode`. Every chunk carries a checksum. The bytes depend on the
episodes alone, so recording the same episodes again gives the same file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .episode import ROW_FIELDS, Episode

FORMAT = "worldloop.rollouts/1"
_CHUNK_FRAMES = 2
"""Frames compressed together. Random windows decompress whole chunks, and longer ones hardly save space."""

_FRAME_TYPE = (np.dtype(np.uint8), h5py.h5t.NATIVE_UINT8)

_UNREADABLE = (OSError, KeyError, ValueError, RuntimeError)
"""What h5py raises for damaged files."""


@dataclass(frozen=True)
class FileIndex:
    """What a file of episodes says about itself.

    Attributes:
        path: the file.
        map_seed: the map that all its episodes happened in.
        lengths: frames of each episode.
        policies: the policy of each episode.
        action: shape and type of one action, as NumPy writes them: ``<i8`` or ``(3,)<f4``.
        identity: the data set it was recorded for.
        digest: hash of everything in the episodes.
    """

    path: Path
    map_seed: int
    lengths: tuple[int, ...]
    policies: tuple[str, ...]
    action: str
    identity: str
    digest: str


def encode(episodes: Sequence[Episode], identity: str) -> bytes:
    """The bytes of a file that holds ``episodes`` (at least one, all of one map).

    Raises:
        DataError: no episodes, or episodes of several maps.
    """
    seeds = {episode.map_seed for episode in episodes}
    if len(seeds) != 1:
        raise DataError(
            f"A file holds episodes of one map; got {len(episodes)} episodes of {len(seeds)} maps."
        )
    actions = episodes[0].actions
    action = f"{actions.shape[1:] or ''}{actions.dtype.str}"
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="v110") as file:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = identity
        file.attrs["map_seed"] = seeds.pop()
        file.attrs["lengths"] = [len(episode) for episode in episodes]
        file.attrs["policies"] = json.dumps([episode.policy for episode in episodes])
        file.attrs["action"] = action
        file.attrs["digest"] = _digest(episodes)
        for k, episode in enumerate(episodes):
            group = file.create_group(f"episodes/{k:04d}")
            rows = min(_CHUNK_FRAMES, len(episode))
            group.create_dataset(
                "frames",
                data=episode.frames,
                chunks=(rows, *episode.frames.shape[1:]),
                compression="gzip",
                compression_opts=1,
                fletcher32=True,
            )
            steps = _steps_table(episode, action)
            group.create_dataset("steps", data=steps, chunks=steps.shape, fletcher32=True)
    return buffer.getvalue()


def read_index(path: Path) -> FileIndex:
    """What ``path`` holds, without reading the episodes.

    Raises:
        DataError: the file is missing, truncated, damaged or of another format.
    """
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("format")
            if found != FORMAT:
                raise DataError(f"{path} is of format {found!r}, this version of worldloop reads {FORMAT!r}.")
            return FileIndex(
                path=path,
                map_seed=int(file.attrs["map_seed"]),
                lengths=tuple(int(n) for n in file.attrs["lengths"]),
                policies=tuple(json.loads(file.attrs["policies"])),
                action=str(file.attrs["action"]),
                identity=str(file.attrs["identity"]),
                digest=str(file.attrs["digest"]),
            )
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def read_episode(index: FileIndex, k: int, start: int = 0, stop: int | None = None) -> Episode:
    """Episode ``k`` of a file, or its frames ``start`` … ``stop - 1``, which must exist.

    Raises:
        DataError: the file has been damaged or removed.
    """
    stop = index.lengths[k] if stop is None else stop
    group = f"episodes/{k:04d}"
    try:
        file = h5py.h5f.open(os.fsencode(index.path), h5py.h5f.ACC_RDONLY)
        try:
            frames = _read_rows(file, f"{group}/frames", start, stop, *_FRAME_TYPE)
            steps = _read_rows(file, f"{group}/steps", start, stop, *_steps_type(index.action))
        finally:
            file.close()
    except _UNREADABLE as error:
        raise _damaged(index.path, error) from error
    rows = {name: steps[name].copy() for name in ROW_FIELDS}
    return Episode(frames=frames, map_seed=index.map_seed, policy=index.policies[k], **rows)


def verify(index: FileIndex) -> None:
    """Read a whole file and compare it with its hash.

    Raises:
        DataError: something in it changed since it was written.
    """
    episodes = [read_episode(index, k) for k in range(len(index.lengths))]
    if _digest(episodes) != index.digest:
        raise _damaged(index.path, "its content does not match its hash")


def _read_rows(
    file: Any, name: str, start: int, stop: int, dtype: np.dtype[Any], memory_type: Any
) -> NDArray[Any]:
    # h5py's high-level objects would triple what a short window costs beyond its decompression.
    dataset = h5py.h5d.open(file, name.encode())
    rows = np.empty((stop - start, *dataset.shape[1:]), dtype)
    selection = dataset.get_space()
    selection.select_hyperslab((start, *(0 for _ in rows.shape[1:])), rows.shape)
    dataset.read(h5py.h5s.create_simple(rows.shape), selection, rows, mtype=memory_type)
    return rows


@cache
def _steps_type(action: str) -> tuple[np.dtype[Any], Any]:
    """Type of a row of ``steps``, for NumPy and for HDF5."""
    dtype = np.dtype(
        [
            ("actions", action),
            ("poses", "<f8", (5,)),
            ("rewards", "<f4"),
            ("terminated", "?"),
            ("truncated", "?"),
            ("collided", "?"),
            ("success", "?"),
        ]
    )
    return dtype, h5py.h5t.py_create(dtype)


def _steps_table(episode: Episode, action: str) -> NDArray[Any]:
    table = np.zeros(len(episode), _steps_type(action)[0])
    for name in ROW_FIELDS:
        table[name] = getattr(episode, name)
    return table


def _digest(episodes: Sequence[Episode]) -> str:
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(f"{episode.map_seed} {episode.policy} {episode.frames.shape} ".encode())
        for name in ("frames", *ROW_FIELDS):
            digest.update(np.ascontiguousarray(getattr(episode, name)).data)
    return digest.hexdigest()


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(
        f"{path} is damaged ({reason}). Run the `worldloop collect` command that recorded it again, which "
        "records this file anew; or delete it to go on without it."
    )
