"""Data sets of episodes on disk: a directory with ``dataset.json`` and one HDF5 file per map.

Every file is written whole or not at all, so a crash costs the map that was being recorded and nothing else.
"""

from __future__ import annotations

import hashlib
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import write_bytes
from ..world_models.actions import ActionSpec
from . import hdf5
from .episode import Episode
from .files import make_directory, remove_leftovers
from .metadata import DatasetInfo
from .splits import Split, split_of
from .windows import WindowBatch

Purpose = Literal["training", "validation", "report"]

_ALLOWED: dict[Purpose, tuple[Split, ...]] = {
    "training": ("train",),
    "validation": ("train", "validation"),
    "report": ("train", "validation", "test"),
}


@dataclass(frozen=True)
class DatasetWriter:
    """Writes episodes into one data set. Several processes may write different files of it at once.

    Get one from `DatasetWriter.create`.

    Attributes:
        path: the data set's directory.
        info: its description.
    """

    path: Path
    info: DatasetInfo

    @classmethod
    def create(cls, path: Path | str, info: DatasetInfo) -> DatasetWriter:
        """Start the data set ``path``, or go on with it if it was started with the same settings.

        A larger ``info.maps`` than before extends it.

        Raises:
            DataError: the directory holds another data set, or cannot be created.
        """
        path = Path(path)
        make_directory(path)
        remove_leftovers(path)
        if not _info_file(path).exists():
            write_bytes(_info_file(path), info.to_json().encode())
            return cls(path, info)
        present = read_info(path)
        if difference := difference_of(present, info):
            raise DataError(f"{path} holds another data set: {difference} {_ELSEWHERE}")
        if info.maps != present.maps:
            if info.maps is None or present.maps is None or info.maps < present.maps:
                raise DataError(f"{path} has {present.maps} maps, not {info.maps}. {_ELSEWHERE}")
            extended = replace(present, maps=info.maps)
            write_bytes(_info_file(path), extended.to_json().encode())
            return cls(path, extended)
        return cls(path, present)

    def write(self, name: str, episodes: Sequence[Episode]) -> Path:
        """Write ``episodes`` (all of one map) as the file ``name``.h5, replacing it if it exists.

        Raises:
            DataError: an episode is of another split, frame size or action space than the data set.
            WorldloopError: the disk is full; whatever stood there is untouched.
        """
        for episode in episodes:
            self._check(episode)
        target = self.path / f"{name}.h5"
        write_bytes(target, hdf5.encode(episodes, self.info.identity))
        return target

    def add(self, episode: Episode) -> Path:
        """Write ``episode`` as a file of its own, numbered after the last. For a single writing process."""
        numbers = [int(p.stem.removeprefix("episode-")) for p in self.path.glob("episode-*.h5")]
        return self.write(f"episode-{max(numbers, default=-1) + 1:06d}", [episode])

    def frames_in(self, name: str) -> int:
        """Frames in the file ``name``.h5, read whole; 0 if it is missing, damaged or not of this data set."""
        target = self.path / f"{name}.h5"
        if not target.exists():
            return 0
        try:
            index = hdf5.read_index(target)
            hdf5.verify(index)
        except DataError:
            return 0
        return sum(index.lengths) if index.identity == self.info.identity else 0

    def _check(self, episode: Episode) -> None:
        split, info = split_of(episode.map_seed), self.info
        if split != info.split:
            raise DataError(
                f"Map seed {episode.map_seed} belongs to the {split} split and cannot be stored in "
                f"{self.path}, a data set of the {info.split} split."
            )
        if episode.frame_size != info.frame_size:
            raise DataError(f"Frames of {self.path} are {info.frame_size} (H, W); got {episode.frame_size}.")
        try:
            info.action_spec.check(episode.actions, (len(episode),))
        except ValueError as error:
            raise DataError(f"An episode does not fit the action space of {self.path}: {error}") from error


class RolloutDataset:
    """The finished episodes of a data set, ordered by file name. Get one from `open_dataset`.

    No file is held open, so a data set can be pickled, shared between processes, and read while it grows; it
    shows what was finished when it was opened.

    Example:
        >>> dataset = open_dataset("data/doom-rooms-train")          # doctest: +SKIP
        >>> dataset.episode(0).frames.shape                          # doctest: +SKIP
        (250, 48, 64, 3)
    """

    def __init__(self, path: Path, info: DatasetInfo, files: Sequence[hdf5.FileIndex]) -> None:
        self.path = path
        self.info = info
        self._files = tuple(files)
        per_file = [len(file.lengths) for file in files]
        self._first_episode = np.concatenate([[0], np.cumsum(per_file, dtype=np.int64)])
        self._lengths = np.array([n for file in files for n in file.lengths], dtype=np.int64)
        self._first_frame = np.cumsum(self._lengths) - self._lengths
        self._map_seeds = np.repeat(np.array([file.map_seed for file in files], dtype=np.int64), per_file)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._lengths)

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes together."""
        return int(self._lengths.sum())

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """(E,) frames of each episode."""
        return self._lengths.copy()

    @property
    def map_seeds(self) -> NDArray[np.int64]:
        """(E,) map of each episode."""
        return self._map_seeds.copy()

    @property
    def action_spec(self) -> ActionSpec:
        """The recorded environment's action space."""
        return self.info.action_spec

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.info.frame_size

    @property
    def split(self) -> Split:
        """The split that every map of the data set belongs to."""
        return self.info.split

    @property
    def fingerprint(self) -> str:
        """A hash of all episodes: equal on two machines exactly where the data are bit-equal."""
        digest = hashlib.sha256(self.info.identity.encode())
        for file in self._files:
            digest.update(f"{file.path.name} {file.digest} ".encode())
        return digest.hexdigest()[:32]

    def episode(self, i: int) -> Episode:
        """Episode ``i``; negative counts from the end.

        Raises:
            IndexError: no such episode.
            DataError: its file has been damaged or removed since the data set was opened.
        """
        return hdf5.read_episode(*self._locate(i))

    def episodes(self) -> Iterator[Episode]:
        """All episodes, in order."""
        return (self.episode(i) for i in range(len(self)))

    def window(self, i: int, start: int, stop: int) -> Episode:
        """Frames ``start`` … ``stop - 1`` of episode ``i``. Row 0 keeps its action and reward.

        Raises:
            IndexError: no such episode, or no such frames in it.
            DataError: its file has been damaged or removed since the data set was opened.
        """
        file, k = self._locate(i)
        if not 0 <= start < stop <= file.lengths[k]:
            raise IndexError(
                f"Frames {start} … {stop - 1} do not exist: episode {i} has {file.lengths[k]} frames."
            )
        return hdf5.read_episode(file, k, start, stop)

    def read_windows(self, starts: NDArray[np.int64], length: int) -> WindowBatch:
        """The windows of ``length`` frames whose first frames are numbered ``starts`` (B,)."""
        episodes = np.searchsorted(self._first_frame, starts, side="right") - 1
        offsets = starts - self._first_frame[episodes]
        parts = [self.window(int(i), int(a), int(a) + length) for i, a in zip(episodes, offsets, strict=True)]
        return WindowBatch(
            **{f.name: np.stack([getattr(p, f.name) for p in parts]) for f in fields(WindowBatch)}
        )

    def file_of(self, i: int) -> Path:
        """The file that holds episode ``i``.

        Raises:
            IndexError: no such episode.
        """
        return self._locate(i)[0].path

    def _locate(self, i: int) -> tuple[hdf5.FileIndex, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"Episode {i} does not exist: {self.path} holds {len(self)} episodes.")
        i %= len(self)
        file = bisect_right(self._first_episode, i) - 1
        return self._files[file], i - int(self._first_episode[file])

    def verify(self) -> None:
        """Read everything and compare it with the hashes written with it.

        Raises:
            DataError: names the first damaged file.
        """
        for file in self._files:
            hdf5.verify(file)

    def __repr__(self) -> str:
        return (
            f"RolloutDataset({str(self.path)!r}, split={self.split!r}, {len(self)} episodes of "
            f"{len(self._files)} maps, {self.num_frames} frames)"
        )


def open_dataset(path: Path | str, purpose: Purpose = "training") -> RolloutDataset:
    """Open a data set for reading.

    Args:
        path: its directory.
        purpose: what it will be used for. ``training`` accepts the train split only, ``validation`` (choosing
            between models) the validation split too, and ``report`` every split.

    Raises:
        DataError: no data set there, a damaged file, or a split that must not be used for ``purpose``.
    """
    path = Path(path)
    if not _info_file(path).exists():
        raise DataError(f"No data set at {path}. Record one with `worldloop collect --out {path}`.")
    info = read_info(path)
    if purpose not in _ALLOWED:
        raise ValueError(f"purpose is one of {', '.join(_ALLOWED)}; got {purpose!r}.")
    if info.split not in _ALLOWED[purpose]:
        raise DataError(
            f"{path} is of the {info.split} split, which must not be used for {purpose} "
            f"(allowed: {', '.join(_ALLOWED[purpose])})."
        )
    files = [hdf5.read_index(file) for file in sorted(path.glob("[!.]*.h5"))]
    for file in files:
        if file.identity != info.identity:
            raise DataError(f"{file.path} was recorded for another data set than its directory's. Delete it.")
        if split_of(file.map_seed) != info.split:
            raise DataError(f"{file.path} holds map {file.map_seed}, not of the {info.split} split.")
    if not files:
        raise DataError(f"The data set {path} holds no episodes yet. Run the command that records it again.")
    if info.maps is not None and len(files) < info.maps:
        warnings.warn(
            f"{path} holds {len(files)} of {info.maps} maps: its recording was interrupted. "
            "The same `worldloop collect` command completes it.",
            stacklevel=2,
        )
    return RolloutDataset(path, info, files)


def read_info(path: Path) -> DatasetInfo:
    """The description of the data set ``path``.

    Raises:
        DataError: it is missing, damaged, or of another format version.
    """
    file = _info_file(path)
    try:
        return DatasetInfo.from_json(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {error}.") from error
    except DataError as error:
        raise DataError(
            f"{file} cannot be used: {error} Delete that file and run the `worldloop collect` command again, "
            "which keeps the finished maps."
        ) from error


_ELSEWHERE = "Choose another directory, or the settings it was recorded with."


def _info_file(path: Path) -> Path:
    return path / "dataset.json"


def difference_of(present: DatasetInfo, wanted: DatasetInfo) -> str:
    """In words, where the contents of two data sets differ; empty where they do not."""
    parts = []
    for key, new in wanted.content.items():
        old = present.content[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            inner = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            parts += [f"{key}.{k} is {old.get(k)!r} there and {new.get(k)!r} here" for k in inner]
        else:
            parts.append(f"{key} is {old!r} there and {new!r} here")
    return "; ".join(parts) + "." if parts else ""
