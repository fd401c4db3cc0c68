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
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .episode import ROW_FIELDS, Episode

FORMAT = "worldloop.rollouts/1"
_CHUNK_FRAMES = 4
"""Frames compressed together: a window decompresses up to twice this many that it does not want."""

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
        identity: the data set it was recorded for.
        digest: hash of everything in the episodes.
    """

    path: Path
    map_seed: int
    lengths: tuple[int, ...]
    policies: tuple[str, ...]
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
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="v110") as file:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = identity
        file.attrs["map_seed"] = seeds.pop()
        file.attrs["lengths"] = [len(episode) for episode in episodes]
        file.attrs["policies"] = json.dumps([episode.policy for episode in episodes])
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
            steps = _steps_table(episode)
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
                identity=str(file.attrs["identity"]),
                digest=str(file.attrs["digest"]),
            )
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def read_episode(index: FileIndex, k: int) -> Episode:
    """Episode ``k`` of a file.

    Raises:
        DataError: the file has been damaged or removed.
    """
    return _episode(index, k, _read_frames(index, k, 0, index.lengths[k]), _read_steps(index, k))


def read_window(index: FileIndex, k: int, start: int, stop: int) -> Episode:
    """Frames ``start`` … ``stop - 1`` of episode ``k`` of a file; everything but frames is read once and
    kept.

    Raises:
        DataError: the file has been damaged or removed.
    """
    return _episode(index, k, _read_frames(index, k, start, stop), _steps(index, k)[start:stop])


def verify(index: FileIndex) -> None:
    """Read a whole file and compare it with its hash.

    Raises:
        DataError: something in it changed since it was written.
    """
    episodes = [read_episode(index, k) for k in range(len(index.lengths))]
    if _digest(episodes) != index.digest:
        raise _damaged(index.path, "its content does not match its hash")


def _read_frames(index: FileIndex, k: int, start: int, stop: int) -> NDArray[np.uint8]:
    # h5py's high-level objects would double what a short window costs beyond its decompression.
    try:
        file = h5py.h5f.open(os.fsencode(index.path), h5py.h5f.ACC_RDONLY)
        try:
            dataset = h5py.h5d.open(file, f"episodes/{k:04d}/frames".encode())
            frames = np.empty((stop - start, *dataset.shape[1:]), dtype=np.uint8)
            selection = dataset.get_space()
            selection.select_hyperslab((start, 0, 0, 0), frames.shape)
            dataset.read(h5py.h5s.create_simple(frames.shape), selection, frames)
        finally:
            file.close()
    except _UNREADABLE as error:
        raise _damaged(index.path, error) from error
    return frames


def _read_steps(index: FileIndex, k: int) -> NDArray[Any]:
    try:
        with h5py.File(index.path, "r") as file:
            steps: NDArray[Any] = file[f"episodes/{k:04d}/steps"][()]
            return steps
    except _UNREADABLE as error:
        raise _damaged(index.path, error) from error


_steps = lru_cache(maxsize=4096)(_read_steps)


def _episode(index: FileIndex, k: int, frames: NDArray[np.uint8], steps: NDArray[Any]) -> Episode:
    rows = {name: steps[name].copy() for name in ROW_FIELDS}
    return Episode(frames=frames, map_seed=index.map_seed, policy=index.policies[k], **rows)


def _steps_table(episode: Episode) -> NDArray[Any]:
    columns = {name: getattr(episode, name) for name in ROW_FIELDS}
    table = np.zeros(len(episode), [(name, a.dtype, a.shape[1:]) for name, a in columns.items()])
    for name, array in columns.items():
        table[name] = array
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
