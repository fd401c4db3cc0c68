"""`Contexts`: short pieces of real experience that imagined episodes continue from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ..errors import DataError
from ..files import write_bytes
from ..rollouts.cache import TrainingCache
from ..rollouts.store import RolloutDataset, open_dataset
from ..world_models.actions import ActionSpec
from ..world_models.config import WorldConfig
from ..world_models.pose import POSE_DIM, motion_between
from ..world_models.prediction.ways import in_vain
from ..world_models.state import WorldState
from ..world_models.storage import read_description
from ..world_models.world import World

CONTEXTS_FILE = "contexts.safetensors"
"""Where a world's directory keeps the recorded starts that come with it."""

_FORMAT = "worldloop.contexts/1"
_LENGTHS = 1
"""Number of the random stream that lengths are drawn from."""
_ARRAYS = {"frames": "uint8", "actions": "int64 or float32", "poses": "float64", "map_seeds": "int64"}


@dataclass(frozen=True)
class Contexts:
    """N recorded starts of K frames each.

    Attributes:
        frames: (N, K, H, W, 3) uint8.
        actions: (N, K, ...) in the world's action space; ``actions[:, k]`` led to frame k, the first means
            nothing.
        poses: (N, K, 5) float64 canonical, of every frame.
        map_seeds: (N,) int64, the map each piece was recorded in.
        action_spec: the action space.
        split: the split that the maps belong to.
        lengths: (N,) int64 in 1 … K, how many of its frames, the last ones, a start really has; what is before them is
            filled in and never observed. None where all have K.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    map_seeds: NDArray[np.int64]
    action_spec: ActionSpec
    split: str
    lengths: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n, k = self.frames.shape[:2]
        expected = {
            "frames": (n, k, *self.frame_size, 3),
            "actions": (n, k, *self.action_spec.shape),
            "poses": (n, k, 5),
            "map_seeds": (n,),
        }
        for name, dtypes in _ARRAYS.items():
            array = getattr(self, name)
            if array.shape != expected[name] or str(array.dtype) not in dtypes:
                raise DataError(
                    f"Contexts need {name} of shape {expected[name]} and type {dtypes}, "
                    f"got {array.shape} {array.dtype}."
                )
        if n < 1 or k < 1:
            raise DataError(f"Contexts need at least one start of at least one frame, got {n} of {k}.")
        if self.lengths is not None and not (
            self.lengths.shape == (n,)
            and self.lengths.dtype == np.int64
            and ((self.lengths > 0) & (self.lengths <= k)).all()
        ):
            raise DataError(f"Contexts need lengths of shape {(n,)} and type int64 between 1 and {k}.")

    def __len__(self) -> int:
        """N, the number of starts."""
        return len(self.frames)

    @property
    def length(self) -> int:
        """K, the frames of one start."""
        return int(self.frames.shape[1])

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return int(self.frames.shape[2]), int(self.frames.shape[3])

    @classmethod
    def from_dataset(
        cls, dataset: RolloutDataset, n: int, length: int, seed: int = 0, beginnings: float = 0.0,
        stopped: float = 0.0, shortest: int | None = None, unpacked: TrainingCache | None = None,
    ) -> Contexts:
        """``n`` pieces of ``length`` frames from as many different episodes as there are.

        Episodes are visited in random order, again from the first when all have been used, and a piece may
        begin at any of an episode's frames with equal probability, or at its first, or end where a step has just been
        in vain. A piece never holds the frame an episode terminated at.

        Args:
            dataset: recorded experience.
            n: number of starts, N.
            length: frames of each, K.
            seed: of the choice; equal seeds give equal contexts.
            beginnings: probability that a piece begins where its episode does, as tasks do, instead of anywhere.
            stopped: probability that its last step was asked for and moved nothing. Such moments come from as many
                different episodes as have any.
            shortest: pieces have from so many frames on up to ``length``, each number with equal probability where the
                episode has as many, so that worlds begin with little and with much to remember; default: all have
                ``length``.
            unpacked: the same experience, which is read faster there.

        Raises:
            DataError: no episode is long enough, or no step was in vain where pieces are to end at such.
            ValueError: ``n`` or ``length`` below 1, ``shortest`` not between 1 and ``length``, or ``beginnings`` and
                ``stopped`` outside 0 … 1, or their sum; ``unpacked`` of another data set.
        """
        if unpacked is not None and unpacked.fingerprint != dataset.fingerprint:
            raise ValueError(f"{unpacked.path} is not the unpacked experience of {dataset.path}.")
        if n < 1 or length < 1 or min(beginnings, stopped) < 0 or not beginnings + stopped <= 1:
            told = f"got {n}, {length}, {beginnings} and {stopped}"
            raise ValueError(f"Contexts need n >= 1, length >= 1, and beginnings and stopped in 0 … 1, {told}.")
        least = length if shortest is None else shortest
        if not 1 <= least <= length:
            raise ValueError(f"The shortest pieces have between 1 and {length} frames; got {least}.")
        rng = np.random.default_rng(seed)
        # One frame to spare: the last frame of an episode may be the one it terminated at.
        usable = np.flatnonzero(dataset.episode_lengths > least)
        if not len(usable):
            raise DataError(
                f"No episode of {dataset!r} is longer than {least} frames; "
                f"ask for contexts of at most {int(dataset.episode_lengths.max()) - 1}."
            )
        rounds = -(-n // len(usable))
        chosen = np.concatenate([rng.permutation(usable) for _ in range(rounds)])[:n]
        # Other numbers than those below, which so stay what they are where all pieces have one length.
        uniform = np.random.default_rng([seed, _LENGTHS]).random(n)

        def lengths_within(most: NDArray[np.int64], part: Any) -> NDArray[np.int64]:
            """From the least on, up to as many frames as there are, at most ``length``."""
            more: NDArray[np.int64] = (uniform[part] * (np.minimum(most, length) - least + 1)).astype(np.int64)
            return least + more

        lengths = lengths_within(dataset.episode_lengths[chosen] - 1, slice(None))
        starts = rng.integers(dataset.episode_lengths[chosen] - lengths)
        kind = rng.random(n)
        starts[kind < beginnings] = 0
        bumped = np.flatnonzero(kind >= 1 - stopped)
        if len(bumped):
            moments = _moments_in_vain(dataset, unpacked, usable, least)
            if not moments:
                raise DataError(f"Nobody was stopped in {dataset!r}; leave out pieces that end so.")
            where = np.array(list(moments))
            rounds = -(-len(bumped) // len(where))
            chosen[bumped] = np.concatenate([rng.permutation(where) for _ in range(rounds)])[: len(bumped)]
            ends = np.array([rng.choice(moments[int(i)]) + 1 for i in chosen[bumped]])
            lengths[bumped] = lengths_within(ends, bumped)
            starts[bumped] = ends - lengths[bumped]
        frames, actions, poses = _pieces(dataset, unpacked, chosen, starts, lengths, length)
        return cls(
            frames=frames,
            actions=actions,
            poses=poses,
            map_seeds=dataset.map_seeds[chosen],
            action_spec=dataset.action_spec,
            split=dataset.split,
            lengths=None if least == length else lengths,
        )

    def observed(self, world: World, state: WorldState, rows: NDArray[np.int64]) -> WorldState:
        """B worlds that have seen nothing yet, once each has observed its start: ``rows`` (B,) of these."""
        first = np.zeros(len(rows), np.int64) if self.lengths is None else self.length - self.lengths[rows]
        parts, order = [], []
        for begin in np.unique(first):
            at = np.flatnonzero(first == begin)
            seen = (torch.from_numpy(array[rows[at], begin:]) for array in (self.frames, self.actions, self.poses))
            parts.append(world.observe(state if len(at) == len(rows) else state[torch.from_numpy(at)], *seen))
            order.append(at)
        if len(parts) == 1:
            return parts[0]
        return WorldState.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(order)))]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; its header holds action space and split."""
        header = {
            "format": _FORMAT,
            "split": self.split,
            "action_spec": json.dumps(self.action_spec.to_json()),
        }
        write_bytes(
            Path(path), save({name: np.ascontiguousarray(array) for name, array in self.arrays().items()}, header)
        )

    def experience(self) -> tuple[NDArray[Any], ...]:
        """What worlds observe: frames, actions and poses, and lengths where they differ."""
        return (self.frames, self.actions, self.poses, *(() if self.lengths is None else (self.lengths,)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there are, by name."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return arrays if self.lengths is None else arrays | {"lengths": self.lengths}

    @classmethod
    def load(cls, path: str | Path) -> Contexts:
        """The inverse of `save`.

        Raises:
            DataError: there is no such file, or it is damaged, or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"There is no file of recorded contexts at {path}.")
        data = path.read_bytes()
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if header["format"] != _FORMAT:
                raise ValueError(f"it is of format {header['format']!r}, not {_FORMAT!r}")
            spec = ActionSpec.from_json(json.loads(header["action_spec"]))
            kept = {name: arrays[name] for name in _ARRAYS}
            return cls(**kept, action_spec=spec, split=header["split"], lengths=arrays.get("lengths"))
        except Exception as error:
            raise DataError(f"{path} holds no recorded contexts that can be read: {error}.") from error


def add_contexts(world: Path, data: Path, n: int = 128, seed: int = 0) -> Path:
    """Give a world on disk ``n`` recorded starts from the data it was trained on, so that it can be imagined by name.

    Args:
        world: directory of the world.
        data: the data set.
        n: number of starts.
        seed: of their choice.

    Returns:
        The file written.

    Raises:
        WorldFormatError: no world there.
        DataError: no data there, or no episode long enough.
    """
    context = WorldConfig.from_json(read_description(world)["config"]).context
    Contexts.from_dataset(open_dataset(data), n, context, seed).save(world / CONTEXTS_FILE)
    return world / CONTEXTS_FILE


def _pieces(
    dataset: RolloutDataset,
    unpacked: TrainingCache | None,
    episodes: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    length: int,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.float64]]:
    """Frames, actions and poses, each (N, length, ...), of pieces of ``episodes`` (N,) with ``lengths`` (N,) frames
    from ``starts`` on; what a piece has too little is its first entry again, in front."""
    within = np.maximum(np.arange(length) - (length - lengths)[:, None], 0)
    if unpacked is not None:
        at = (unpacked.episode_start[episodes] + starts)[:, None] + within
        return np.asarray(unpacked.frames[at]), np.asarray(unpacked.actions[at]), np.asarray(unpacked.poses[at])
    spec, n = dataset.action_spec, len(episodes)
    frames = np.empty((n, length, *dataset.frame_size, 3), np.uint8)
    actions = np.empty((n, length, *spec.shape), np.int64 if spec.kind == "discrete" else np.float32)
    poses = np.empty((n, length, POSE_DIM))
    for row, (i, s, k) in enumerate(zip(episodes.tolist(), starts.tolist(), lengths.tolist(), strict=True)):
        piece = dataset.window(i, s, s + k)
        for filled, given in ((frames, piece.frames), (actions, piece.actions), (poses, piece.poses)):
            filled[row] = given[within[row]]
    return frames, actions, poses


def _moments_in_vain(
    dataset: RolloutDataset, unpacked: TrainingCache | None, episodes: NDArray[np.int64], length: int
) -> dict[int, NDArray[np.int64]]:
    """Frames, by episode, that a step in vain led to, from frame ``length`` - 1 on and without the last."""
    spec, found, sizes = dataset.action_spec, {}, dataset.episode_lengths
    unit = torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, dtype=torch.float32)
    for i in episodes.tolist():
        if unpacked is None:
            walk = dataset.episode(i)
            at, actions = walk.poses, walk.actions
        else:
            rows = slice(int(unpacked.episode_start[i]), int(unpacked.episode_start[i] + sizes[i]))
            at, actions = np.array(unpacked.poses[rows]), np.array(unpacked.actions[rows])
        poses = torch.from_numpy(at)
        made = motion_between(poses[:-1], poses[1:]).to(torch.float32)
        asked = spec.nominal_motion(torch.from_numpy(actions[1:]))
        frames = np.flatnonzero(in_vain(asked / unit, made / unit).numpy()) + 1
        frames = frames[(frames >= length - 1) & (frames < len(poses) - 1)]
        if len(frames):
            found[i] = frames
    return found
