"""`Episodes`: everything an imagined environment is at one moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import WorldFormatError
from ..files import sealed, unsealed
from ..world_models.state import WorldState

_FORMAT = "worldloop.episodes/1"


@dataclass(frozen=True)
class Episodes:
    """B imagined episodes at one moment.

    Attributes:
        world: their B worlds.
        seed: (B,) int64, what the choice of context and all noise of this and later episodes come from.
        episode: (B,) int64, episodes begun with this seed before this one.
        elapsed: (B,) int64, steps since the episode began.
        context: (B,) int64, index of the recorded start, or -1.
        uncertainty: (B,) float32 of the newest frame; 0 at the start, which is real.
        retrieved_times: (B, R) int64, when the frames that memory gave for the newest one were seen; -1 for none.
        retrieved_poses: (B, R, 5) float64, from where.
        done: (B,) bool, the episode has terminated or was truncated.
    """

    world: WorldState
    seed: Tensor
    episode: Tensor
    elapsed: Tensor
    context: Tensor
    uncertainty: Tensor
    retrieved_times: Tensor
    retrieved_poses: Tensor
    done: Tensor

    def __len__(self) -> int:
        """B, the number of episodes."""
        return self.world.batch_size

    def __getitem__(self, index: Tensor | list[int]) -> Episodes:
        """Select and reorder episodes: indices, or a boolean mask (B,)."""
        key = torch.as_tensor(index, device=self.world.device)
        return Episodes(self.world[key], **{name: getattr(self, name)[key] for name in _ROWS})

    def put(self, mask: Tensor, rows: Episodes) -> Episodes:
        """The same episodes with those where ``mask`` (B,) holds replaced, in order, by ``rows``."""
        order = torch.empty(len(self), dtype=torch.int64, device=mask.device)
        order[~mask] = torch.arange(len(self) - len(rows), device=mask.device)
        order[mask] = torch.arange(len(self) - len(rows), len(self), device=mask.device)
        return Episodes.cat(self[~mask], rows)[order]

    @classmethod
    def cat(cls, *parts: Episodes) -> Episodes:
        """One batch from several, in order."""
        tensors = {name: torch.cat([getattr(p, name) for p in parts]) for name in _ROWS}
        return cls(WorldState.cat([p.world for p in parts]), **tensors)

    def snapshot(self) -> bytes:
        """The episodes as bytes, bit-exact, noise included; `restore` reads them in any process."""
        world = torch.frombuffer(bytearray(self.world.snapshot()), dtype=torch.uint8)
        rows = {name: getattr(self, name).contiguous().cpu() for name in _ROWS}
        return sealed(save({"world": world, **rows}, metadata={"format": _FORMAT}))

    @classmethod
    def restore(cls, data: bytes, device: torch.device | str = "cpu") -> Episodes:
        """The inverse of `snapshot`.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
        """
        body = unsealed(data)
        if body is None:
            raise WorldFormatError("These bytes are no snapshot of an environment, or they are damaged.")
        try:
            tensors = load(body)
            header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            if header["__metadata__"]["format"] != _FORMAT:
                raise ValueError("another format")
            world = WorldState.restore(tensors.pop("world").numpy().tobytes(), device)
            return cls(world, **{name: tensors[name].to(device) for name in _ROWS})
        except WorldFormatError:
            raise
        except Exception as error:
            raise WorldFormatError(
                f"These bytes are no snapshot of an environment of this version of worldloop: {error!r}."
            ) from error


def read_snapshot(snapshot: bytes | str | Path) -> bytes:
    """The bytes of a snapshot, given as they are or as the file that holds them."""
    return snapshot if isinstance(snapshot, bytes) else Path(snapshot).read_bytes()


_ROWS = tuple(f.name for f in fields(Episodes) if f.name != "world")
