"""`WorldState`: everything an imagined world is at one moment, as tensors with a leading batch dimension."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import WorldFormatError
from .pose import POSE_DIM

_FORMAT = "worldloop.state/1"


@dataclass(frozen=True)
class WorldState:
    """B imagined worlds at one moment. Immutable: `imagine` and `observe` return a new one.

    Attributes:
        seeds: (B,) int64, the seed that all noise of a world comes from.
        step: (B,) int64, frames seen or imagined so far; the time stamp of the next frame.
        pose: (B, 5) float64 canonical pose of the newest frame.
        latents: (B, K, C, h, w) float32, the K most recent frames, newest last.
        poses: (B, K, 5) float64, their poses.
        motions: (B, K, 5) float32, the motion that led to each of them.
        valid: (B, K) bool, which of the K slots hold a frame.
    """

    seeds: Tensor
    step: Tensor
    pose: Tensor
    latents: Tensor
    poses: Tensor
    motions: Tensor
    valid: Tensor

    @property
    def batch_size(self) -> int:
        """B, the number of worlds."""
        return int(self.seeds.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.seeds.device

    @classmethod
    def empty(
        cls, seeds: Tensor, context: int, latent_shape: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> WorldState:
        """Worlds that have seen nothing, with room for ``context`` recent frames of ``latent_shape`` (C, h, w)."""
        b = seeds.shape[0]
        return cls(
            seeds=seeds.to(device=device, dtype=torch.int64),
            step=torch.zeros(b, dtype=torch.int64, device=device),
            pose=torch.zeros(b, POSE_DIM, dtype=torch.float64, device=device),
            latents=torch.zeros(b, context, *latent_shape, device=device),
            poses=torch.zeros(b, context, POSE_DIM, dtype=torch.float64, device=device),
            motions=torch.zeros(b, context, 5, device=device),
            valid=torch.zeros(b, context, dtype=torch.bool, device=device),
        )

    def append(self, latents: Tensor, pose: Tensor, motion: Tensor) -> WorldState:
        """The state after one more frame: latents (B, C, h, w), pose (B, 5), motion (B, 5). The oldest slot goes."""
        return replace(
            self,
            step=self.step + 1,
            pose=pose.to(torch.float64),
            latents=torch.cat([self.latents[:, 1:], latents.to(self.latents.dtype).unsqueeze(1)], 1),
            poses=torch.cat([self.poses[:, 1:], pose.to(torch.float64).unsqueeze(1)], 1),
            motions=torch.cat([self.motions[:, 1:], motion.to(self.motions.dtype).unsqueeze(1)], 1),
            valid=torch.cat([self.valid[:, 1:], torch.ones_like(self.valid[:, :1])], 1),
        )

    def fork(self, n: int) -> WorldState:
        """n·B worlds: copies ``i·n … i·n + n - 1`` continue world ``i``, each with the same past and the same seed.

        Equal seeds and equal actions give equal futures; use `with_seeds` for futures that differ by chance.
        """
        if n < 1:
            raise ValueError(f"fork(n) needs n >= 1, got {n}.")
        return self._map(lambda t: t.repeat_interleave(n, 0))

    def with_seeds(self, seeds: Tensor) -> WorldState:
        """The same worlds with other noise from here on: seeds (B,) int64."""
        if tuple(seeds.shape) != (self.batch_size,):
            raise ValueError(f"Expected {self.batch_size} seeds, got shape {tuple(seeds.shape)}.")
        return replace(self, seeds=seeds.to(device=self.device, dtype=torch.int64))

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> WorldState:
        """Select and reorder worlds. An integer gives a batch of one; a boolean mask (B,) the worlds where it holds."""
        if isinstance(index, int):
            if not -self.batch_size <= index < self.batch_size:
                raise IndexError(f"World {index} does not exist in a batch of {self.batch_size}.")
            index = [index]
        key = index if isinstance(index, slice) else torch.as_tensor(index, device=self.device)
        return self._map(lambda t: t[key])

    def where(self, mask: Tensor, other: WorldState) -> WorldState:
        """World by world, this state where ``mask`` (B,) holds and ``other`` elsewhere."""
        mine, theirs = _tensors(self), _tensors(other)
        return WorldState(**{k: torch.where(mask.view(-1, *[1] * (t.ndim - 1)), t, theirs[k]) for k, t in mine.items()})

    @classmethod
    def cat(cls, states: list[WorldState]) -> WorldState:
        """One batch from several, in order."""
        if not states:
            raise ValueError("WorldState.cat needs at least one state.")
        parts = [_tensors(s) for s in states]
        return cls(**{k: torch.cat([p[k] for p in parts]) for k in parts[0]})

    def to(self, device: torch.device | str) -> WorldState:
        """The same worlds on another device."""
        return self._map(lambda t: t.to(device))

    def snapshot(self) -> bytes:
        """The state as bytes (safetensors), bit-exact, readable in any process by `restore`."""
        return save({k: t.contiguous().cpu() for k, t in _tensors(self).items()}, metadata={"format": _FORMAT})

    @classmethod
    def restore(cls, data: bytes, device: torch.device | str = "cpu") -> WorldState:
        """The inverse of `snapshot`.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length]) if 0 < length <= len(data) else {}
            tensors = load(data)
        except Exception as error:
            raise WorldFormatError(f"These bytes are no snapshot of a world: {error}") from error
        names = {f.name for f in fields(cls)}
        if header.get("__metadata__", {}).get("format") != _FORMAT or set(tensors) != names:
            raise WorldFormatError("These bytes are no snapshot of a world of this version of worldloop.")
        return cls(**{k: t.to(device) for k, t in tensors.items()})

    def _map(self, f: Any) -> WorldState:
        return WorldState(**{k: f(t) for k, t in _tensors(self).items()})


def _tensors(state: WorldState) -> dict[str, Tensor]:
    return {f.name: getattr(state, f.name) for f in fields(state)}
