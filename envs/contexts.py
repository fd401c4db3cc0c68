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
from ..rollouts.store import RolloutDataset, open_dataset
from ..world_models.actions import ActionSpec
from ..world_models.config import WorldConfig
from ..world_models.pose import motion_between
from ..world_models.prediction.ways import in_vain
from ..world_models.storage import read_description

CONTEXTS_FILE = "contexts.safetensors"
"""Where a world's directory keeps the recorded starts that come with it."""

_FORMAT = "worldloop.contexts/1"
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
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    map_seeds: NDArray[np.int64]
    action_spec: ActionSpec
    split: str

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
        stopped: float = 0.0,
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

        Raises:
            DataError: no episode is long enough, or no step was in vain where pieces are to end at such.
            ValueError: ``n`` or ``length`` below 1, or ``beginnings`` and ``stopped`` outside 0 … 1, or their sum.
        """
        if n < 1 or length < 1 or min(beginnings, stopped) < 0 or not beginnings + stopped <= 1:
            told = f"got {n}, {length}, {beginnings} and {stopped}"
            raise ValueError(f"Contexts need n >= 1, length >= 1, and beginnings and stopped in 0 … 1, {told}.")
        rng = np.random.default_rng(seed)
        # One frame to spare: the last frame of an episode may be the one it terminated at.
        usable = np.flatnonzero(dataset.episode_lengths > length)
        if not len(usable):
            raise DataError(
                f"No episode of {dataset!r} is longer than {length} frames; "
                f"ask for contexts of at most {int(dataset.episode_lengths.max()) - 1}."
            )
        rounds = -(-n // len(usable))
        chosen = np.concatenate([rng.permutation(usable) for _ in range(rounds)])[:n]
        starts = rng.integers(dataset.episode_lengths[chosen] - length)
        kind = rng.random(n)
        starts[kind < beginnings] = 0
        bumped = np.flatnonzero(kind >= 1 - stopped)
        if len(bumped):
            moments = _moments_in_vain(dataset, usable, length)
            if not moments:
                raise DataError(f"Nobody was stopped in {dataset!r}; leave out pieces that end so.")
            where = np.array(list(moments))
            rounds = -(-len(bumped) // len(where))
            chosen[bumped] = np.concatenate([rng.permutation(where) for _ in range(rounds)])[: len(bumped)]
            starts[bumped] = [rng.choice(moments[int(i)]) + 1 - length for i in chosen[bumped]]
        pieces = [
            dataset.window(int(i), int(s), int(s) + length) for i, s in zip(chosen, starts, strict=True)
        ]
        return cls(
            frames=np.stack([p.frames for p in pieces]),
            actions=np.stack([p.actions for p in pieces]),
            poses=np.stack([p.poses for p in pieces]),
            map_seeds=np.array([p.map_seed for p in pieces], dtype=np.int64),
            action_spec=dataset.action_spec,
            split=dataset.split,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; its header holds action space and split."""
        header = {
            "format": _FORMAT,
            "split": self.split,
            "action_spec": json.dumps(self.action_spec.to_json()),
        }
        write_bytes(
            Path(path), save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}, header)
        )

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
            return cls(**{name: arrays[name] for name in _ARRAYS}, action_spec=spec, split=header["split"])
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


def _moments_in_vain(
    dataset: RolloutDataset, episodes: NDArray[np.int64], length: int
) -> dict[int, NDArray[np.int64]]:
    """Frames, by episode, that a step in vain led to, from frame ``length`` - 1 on and without the last."""
    spec, found = dataset.action_spec, {}
    unit = torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, dtype=torch.float32)
    for i in episodes.tolist():
        walk = dataset.episode(i)
        poses = torch.from_numpy(walk.poses)
        made = motion_between(poses[:-1], poses[1:]).to(torch.float32)
        asked = spec.nominal_motion(torch.from_numpy(walk.actions[1:]))
        frames = np.flatnonzero(in_vain(asked / unit, made / unit).numpy()) + 1
        frames = frames[(frames >= length - 1) & (frames < len(poses) - 1)]
        if len(frames):
            found[i] = frames
    return found
