"""`WorldState`: everything an imagined world is at one moment, as tensors with a leading batch dimension."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import WorldFormatError
from ..files import sealed, unsealed
from .memory.bank import Arena, Memory
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
        deviation: (B, 5) float32, the newest motion minus the one that was asked for.
        memory: everything seen or imagined so far, where the world has a long-term memory.
        carried: (B, ...) each, what else the world carries from step to step, by name.
        origin: digest of the autoencoder that made the latents, and after a stroke that of the state space that made
            the vectors carried, if any; to a world with others they mean nothing.
    """

    seeds: Tensor
    step: Tensor
    pose: Tensor
    latents: Tensor
    poses: Tensor
    motions: Tensor
    valid: Tensor
    deviation: Tensor
    memory: Memory | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    origin: str = ""

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
        cls,
        seeds: Tensor,
        context: int,
        latent_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        arena: Arena | None = None,
        origin: str = "",
    ) -> WorldState:
        """Worlds that have seen nothing, with room for ``context`` recent frames of ``latent_shape`` (C, h, w).

        Those given an ``arena`` remember all frames there.
        """
        b = seeds.shape[0]
        return cls(
            seeds=seeds.to(device=device, dtype=torch.int64),
            step=torch.zeros(b, dtype=torch.int64, device=device),
            pose=torch.zeros(b, POSE_DIM, dtype=torch.float64, device=device),
            latents=torch.zeros(b, context, *latent_shape, device=device),
            poses=torch.zeros(b, context, POSE_DIM, dtype=torch.float64, device=device),
            motions=torch.zeros(b, context, 5, device=device),
            valid=torch.zeros(b, context, dtype=torch.bool, device=device),
            deviation=torch.zeros(b, 5, device=device),
            memory=None if arena is None else arena.empty(b),
            origin=origin,
        )

    def append(
        self, latents: Tensor, pose: Tensor, motion: Tensor, deviation: Tensor, remember: bool = True
    ) -> WorldState:
        """The state after one more imagined frame: latents (B, C, h, w), pose, motion and its deviation (B, 5) each.
        The oldest slot goes. ``remember``: whether the frame is written to memory, where there is one."""
        return replace(
            self,
            step=self.step + 1,
            pose=pose.to(torch.float64),
            latents=torch.cat([self.latents[:, 1:], latents.to(self.latents.dtype).unsqueeze(1)], 1),
            poses=torch.cat([self.poses[:, 1:], pose.to(torch.float64).unsqueeze(1)], 1),
            motions=torch.cat([self.motions[:, 1:], motion.to(self.motions.dtype).unsqueeze(1)], 1),
            valid=torch.cat([self.valid[:, 1:], torch.ones_like(self.valid[:, :1])], 1),
            deviation=deviation.to(self.deviation.dtype),
            memory=self.memory.extend(latents.unsqueeze(1), pose.unsqueeze(1), True)
            if remember and self.memory is not None
            else self.memory,
        )

    def fork(self, n: int) -> WorldState:
        """n·B worlds: copies ``i·n … i·n + n - 1`` continue world ``i``, each with the same past and the same seed.

        Equal seeds and equal actions give equal futures; use `with_seeds` for futures that differ by chance.
        """
        if n < 1:
            raise ValueError(f"fork(n) needs n >= 1, got {n}.")
        # Forks of one world share its tensors; nothing ever writes into them.
        one = self.batch_size == 1
        return self._map(
            lambda t: t.expand(n, *t.shape[1:]) if one else t.repeat_interleave(n, 0), lambda m: m.fork(n)
        )

    def forget(self, unwanted: Callable[[Tensor, Tensor], Tensor]) -> WorldState:
        """The same worlds without some of what they remember; the recent frames stay.

        Args:
            unwanted: takes poses (B, N, 5) and times (B, N) of what is remembered, and says which to forget (B, N).

        Raises:
            ValueError: the worlds have no long-term memory, or the answer has another shape or type.
        """
        if self.memory is None:
            raise ValueError("This world has no long-term memory to forget from.")
        slots, _ = self.memory.slots()
        gone = unwanted(*self.memory.arena.read_places(slots))
        if gone.dtype != torch.bool or gone.shape != slots.shape:
            raise ValueError(
                f"What to forget is a bool tensor of shape {tuple(slots.shape)}; got {gone.dtype} {tuple(gone.shape)}."
            )
        return replace(self, memory=self.memory.keep(~gone))

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
        return self._map(lambda t: t[key], lambda m: m[key])

    def where(self, mask: Tensor, other: WorldState) -> WorldState:
        """World by world, this state where ``mask`` (B,) holds and ``other`` elsewhere."""
        if other.origin != self.origin:
            raise ValueError("States of worlds with different autoencoders make no batch.")
        theirs = _tensors(other)
        chosen = {k: torch.where(mask.view(-1, *[1] * (t.ndim - 1)), t, theirs[k]) for k, t in _tensors(self).items()}
        memory = None
        if self.memory is not None and other.memory is not None:
            memory = self.memory.where(mask, other.memory)
        return _state(chosen, memory, self.origin)

    @classmethod
    def cat(cls, states: list[WorldState]) -> WorldState:
        """One batch from several, in order."""
        if not states:
            raise ValueError("WorldState.cat needs at least one state.")
        parts = [_tensors(s) for s in states]
        memories = [s.memory for s in states if s.memory is not None]
        if (memories and len(memories) < len(states)) or any(p.keys() != parts[0].keys() for p in parts):
            raise ValueError("States of worlds that remember in different ways make no batch.")
        if len({s.origin for s in states}) > 1:
            raise ValueError("States of worlds with different autoencoders make no batch.")
        joined = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        return _state(joined, Memory.cat(memories) if memories else None, states[0].origin)

    def to(self, device: torch.device | str) -> WorldState:
        """The same worlds on another device."""
        return self._map(lambda t: t.to(device), lambda m: m.moved_to(m.arena.like(device)))

    def snapshot(self) -> bytes:
        """The state as bytes (safetensors), bit-exact, memory included, readable in any process by `restore`."""
        tensors: dict[str, Tensor] = _tensors(self)
        about: dict[str, Any] = {"format": _FORMAT, "origin": self.origin}
        if self.memory is not None:
            arena = self.memory.arena
            tensors |= {f"memory.{k}": t for k, t in self.memory.to_tensors().items()}
            kind = {"capacity": arena.capacity, "when_full": arena.when_full, "grow": arena.grow}
            about["memory"] = kind
        # One entry only: the order of several is not fixed, and equal states shall give equal bytes.
        metadata = {"worldloop": json.dumps(about, sort_keys=True)}
        return sealed(save({k: t.contiguous().cpu() for k, t in tensors.items()}, metadata=metadata))

    @classmethod
    def restore(cls, data: bytes, device: torch.device | str = "cpu") -> WorldState:
        """The inverse of `snapshot`.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
        """
        body = unsealed(data)
        if body is None:
            raise WorldFormatError("These bytes are no snapshot of a world, or they are damaged.")
        try:
            length = int.from_bytes(body[:8], "little")
            header = json.loads(body[8 : 8 + length]) if 0 < length <= len(body) else {}
            about = json.loads(header.get("__metadata__", {}).get("worldloop", "{}"))
            tensors = load(body)
        except Exception as error:
            raise WorldFormatError(f"These bytes are no snapshot of a world: {error}") from error
        remembered = {k.removeprefix("memory."): tensors.pop(k) for k in list(tensors) if k.startswith("memory.")}
        own = {k for k in tensors if not k.startswith(_CARRIED)}
        if about.get("format") != _FORMAT or own != set(_TENSORS) or ("memory" in about) != bool(remembered):
            raise WorldFormatError("These bytes are no snapshot of a world of this version of worldloop.")
        memory = _memory(remembered, about["memory"], device) if remembered else None
        if memory is not None and memory.batch_size != len(tensors["seeds"]):
            raise WorldFormatError("This snapshot's memory is of another number of worlds.")
        return _state({k: t.to(device) for k, t in tensors.items()}, memory, about.get("origin", ""))

    def _map(self, tensor: Callable[[Tensor], Tensor], memory: Callable[[Memory], Memory]) -> WorldState:
        mapped = {k: tensor(t) for k, t in _tensors(self).items()}
        return _state(mapped, None if self.memory is None else memory(self.memory), self.origin)


_CARRIED = "carried."
_TENSORS = tuple(f.name for f in fields(WorldState) if f.name not in ("memory", "carried", "origin"))


def _tensors(state: WorldState) -> dict[str, Tensor]:
    own = {name: getattr(state, name) for name in _TENSORS}
    return own | {_CARRIED + name: tensor for name, tensor in state.carried.items()}


def _state(tensors: dict[str, Tensor], memory: Memory | None, origin: str) -> WorldState:
    own = {name: tensors[name] for name in _TENSORS}
    carried = {k.removeprefix(_CARRIED): t for k, t in tensors.items() if k.startswith(_CARRIED)}
    return WorldState(**own, memory=memory, carried=carried, origin=origin)


def _memory(tensors: dict[str, Tensor], kind: dict[str, Any], device: torch.device | str) -> Memory:
    if "latents" not in tensors or tensors["latents"].ndim != 5:
        raise WorldFormatError("The memory in these bytes is damaged.")
    pages, page_frames, *shape = tensors["latents"].shape
    arena = Arena(
        (shape[0], shape[1], shape[2]), device, page_frames=page_frames, pages=max(1, pages),
        capacity=kind["capacity"], when_full=kind["when_full"], grow=kind["grow"], dtype=tensors["latents"].dtype,
    )  # fmt: skip
    return Memory.from_tensors(arena, tensors)
