"""`TrainingCache`: a data set unpacked into flat memory-mapped arrays, for reading at the speed of memory."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..world_models.actions import ActionSpec
from .files import make_directory, remove_leftovers, sync_directory
from .store import RolloutDataset
from .windows import WindowBatch, WindowIndex

logger = logging.getLogger(__name__)

_FORMAT = "worldloop.cache/1"
_LABELS = ("actions", "poses", "rewards", "terminated", "truncated")


def _silent(done: int, of: int) -> None:
    """Tells nobody."""


class TrainingCache:
    """Flat arrays of N frames of E episodes, frame after frame, episode after episode.

    Attributes:
        path: the cache's directory.
        frames: (N, H, W, 3) uint8, memory-mapped, read-only.
        actions: (N, ...) in the environment's own action space; action i led to frame i.
        poses: (N, 5) float64 canonical.
        rewards: (N,) float32.
        terminated: (N,) bool.
        truncated: (N,) bool.
        episode_start: (E,) int64, number of the first frame of each episode.
        map_seeds: (E,) int64, the map of each episode.
        action_spec: the recorded environment's action space.
        fingerprint: `RolloutDataset.fingerprint` of the data set it was built from.
    """

    def __init__(self, path: Path) -> None:
        description = _read_description(path)
        try:
            arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ("frames", *_LABELS)}
            self.episode_start: NDArray[np.int64] = np.load(path / "episode_start.npy")
            self.map_seeds: NDArray[np.int64] = np.load(path / "map_seeds.npy")
        except (OSError, ValueError) as error:
            raise DataError(
                f"The training cache {path} is damaged ({error}). Delete that directory."
            ) from error
        self.path = path
        self.frames: NDArray[np.uint8] = arrays["frames"]
        self.actions: NDArray[Any] = arrays["actions"]
        self.poses: NDArray[np.float64] = arrays["poses"]
        self.rewards: NDArray[np.float32] = arrays["rewards"]
        self.terminated: NDArray[np.bool_] = arrays["terminated"]
        self.truncated: NDArray[np.bool_] = arrays["truncated"]
        self.action_spec = ActionSpec.from_json(description["action_spec"])
        self.fingerprint: str = description["fingerprint"]
        self._indices: dict[int, WindowIndex] = {}

    @classmethod
    def of(
        cls, dataset: RolloutDataset, path: Path | str | None = None, tell: Callable[[int, int], None] = _silent
    ) -> TrainingCache:
        """The cache of ``dataset``, built if it is missing or stale; by default in its directory ``cache``.

        Args:
            dataset: what to unpack.
            path: where.
            tell: called with the frames that are unpacked, of all, after every episode.

        Raises:
            DataError: the data set is damaged, or the disk is full.
        """
        path = dataset.path / "cache" if path is None else Path(path)
        if _read_description(path).get("fingerprint") != dataset.fingerprint:
            return cls.build(dataset, path, tell)
        return cls(path)

    @classmethod
    def build(
        cls, dataset: RolloutDataset, path: Path | str, tell: Callable[[int, int], None] = _silent
    ) -> TrainingCache:
        """Write the cache of ``dataset`` to ``path``, whole or not at all, replacing what is there.

        Args:
            dataset: what to unpack.
            path: where.
            tell: called with the frames that are unpacked, of all, after every episode.

        Raises:
            DataError: ``path`` is not a cache, the data set is damaged, or the disk is full.
        """
        path = Path(path)
        if path.exists() and any(path.iterdir()) and not _read_description(path):
            raise DataError(f"{path} exists and is not a training cache; it will not be replaced.")
        logger.info("Unpacking %d frames of %s into %s", dataset.num_frames, dataset.path, path)
        make_directory(path.parent)
        remove_leftovers(path.parent)
        try:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
                temporary = Path(name)
                _unpack(dataset, temporary / "new", tell)
                if path.exists():
                    path.rename(temporary / "old")
                (temporary / "new").rename(path)
                sync_directory(path.parent)
        except OSError as error:
            raise DataError(f"Could not write the training cache {path}: {error.strerror}.") from error
        return cls(path)

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.frames)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """(E,) frames of each episode."""
        return np.diff(self.episode_start, append=self.num_frames)

    def window_indices(self, step: int, batch_size: int, length: int, seed: int) -> NDArray[np.int64]:
        """(B,) numbers of the first frames of random windows of ``length`` frames, each inside one episode.

        Every such window is equally likely, and the draw depends on the arguments alone.

        Raises:
            DataError: no episode is ``length`` frames long.
        """
        if length not in self._indices:
            self._indices[length] = WindowIndex(self.episode_lengths, length)
        return self._indices[length].draw(step, batch_size, seed)

    def read_windows(self, starts: NDArray[np.int64], length: int) -> WindowBatch:
        """The windows of ``length`` frames whose first frames are numbered ``starts`` (B,)."""
        rows = np.asarray(starts)[:, None] + np.arange(length)
        return WindowBatch(self.frames[rows], **{name: getattr(self, name)[rows] for name in _LABELS})


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((path / "cache.json").read_text())
    except (OSError, ValueError):
        return {}
    return description if description.get("format") == _FORMAT else {}


def _unpack(dataset: RolloutDataset, path: Path, tell: Callable[[int, int], None]) -> None:
    path.mkdir()
    n, lengths = dataset.num_frames, dataset.episode_lengths
    starts = np.cumsum(lengths) - lengths
    shape = (n, *dataset.frame_size, 3)
    frames = np.lib.format.open_memmap(path / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
    # Writing through a memory map kills the process when the disk fills up; reserving the space raises
    # an error.
    if hasattr(os, "posix_fallocate"):
        with open(path / "frames.npy", "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    labels: dict[str, list[NDArray[Any]]] = {name: [] for name in _LABELS}
    for start, episode in zip(starts, dataset.episodes(), strict=True):
        frames[start : start + len(episode)] = episode.frames
        for name in _LABELS:
            labels[name].append(getattr(episode, name))
        tell(int(start) + len(episode), n)
    frames.flush()
    for name in _LABELS:
        np.save(path / f"{name}.npy", np.concatenate(labels[name]))
    np.save(path / "episode_start.npy", starts)
    np.save(path / "map_seeds.npy", dataset.map_seeds)
    description = {
        "format": _FORMAT,
        "fingerprint": dataset.fingerprint,
        "action_spec": dataset.action_spec.to_json(),
    }
    (path / "cache.json").write_text(json.dumps(description, indent=2))
    for file_path in path.iterdir():
        with open(file_path, "rb") as file:
            os.fsync(file.fileno())
    sync_directory(path)
