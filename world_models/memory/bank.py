"""The memory bank: all that worlds have seen, in pages of one shared arena.

A `Memory` is a value, like the rest of a `WorldState`: `Memory.append` returns another one and the old one still shows
what it showed. Frames themselves are written once, into an `Arena` that many memories share. A fork shares its past
and copies nothing: when two worlds go on from the same page, the first may fill it, the other opens a page of its own.

Page tables live on the host, for they depend on what is asked and never on what a device computes; frames live on the
device. A world's table is a shared immutable `trunk` and a short tail of its own, so that a fork of a long memory costs
its tail's table only.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ConfigError, WorldFormatError, WorldloopError
from ..pose import POSE_DIM
from .pose_index import PoseIndex

WhenFull = Literal["oldest", "error"]

_TAIL_PAGES = 16
_numbers = itertools.count(1)
_Table = NDArray[np.int64]
_STORED = ("latents", "poses", "times", "imagined")
_TENSORS = (*_STORED, "trunk_pages", "trunk_counts", "row", "tail_pages", "tail_counts", "last_time")


class MemoryFull(WorldloopError):
    """No room for another frame, and the policy is not to make any."""


class Arena:
    """Storage for frames, in pages that are written once and shared.

    Attributes:
        latents: (P, S, C, h, w) on the device, in ``dtype``.
        poses: (P, S, 5) float64.
        times: (P, S) int64.
        imagined: (P, S) bool, which frames the world made up; the others were observed.
        page_frames: S.
        indices: trees over the frames of long trunks, see `recall`.

    Args:
        latent_shape: (C, h, w).
        device: where frames live.
        page_frames: S, frames of a page.
        pages: P to begin with.
        capacity: most frames a world remembers; None for no limit.
        when_full: what happens at the limit: ``"oldest"`` forgets the oldest pages but the very first, ``"error"``
            refuses the frame.
        grow: double the storage when no page is free; otherwise refuse the frame, so that addresses stay fixed.
        dtype: of stored latents.

    Raises:
        ConfigError: sizes below one.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        *,
        page_frames: int = 16,
        pages: int = 64,
        capacity: int | None = None,
        when_full: WhenFull = "oldest",
        grow: bool = True,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        if page_frames < 1 or pages < 1 or (capacity is not None and capacity < 4 * page_frames):
            raise ConfigError(
                f"A memory needs pages of at least one frame and a capacity of at least four pages; got {pages} pages "
                f"of {page_frames} frames and a capacity of {capacity} frames."
            )
        if when_full not in ("oldest", "error"):
            raise ConfigError(f"A full memory forgets the 'oldest' frames or is an 'error'; got {when_full!r}.")
        self.latent_shape, self.page_frames, self.capacity = latent_shape, page_frames, capacity
        self.when_full, self.grow = when_full, grow
        self.tail_pages = _TAIL_PAGES if capacity is None else min(_TAIL_PAGES, capacity // (4 * page_frames))
        # Storage outlives the mode it was made in: inference tensors could not be written to outside of it.
        with torch.inference_mode(False):
            self.latents = torch.zeros(pages, page_frames, *latent_shape, device=device, dtype=dtype)
            self.poses = torch.zeros(pages, page_frames, POSE_DIM, device=device, dtype=torch.float64)
            self.times = torch.zeros(pages, page_frames, device=device, dtype=torch.int64)
            self.imagined = torch.zeros(pages, page_frames, device=device, dtype=torch.bool)
        self._fill: _Table = np.zeros(pages, np.int64)
        self._free: _Table = np.arange(pages)[::-1].copy()
        self._live: weakref.WeakSet[Memory] = weakref.WeakSet()
        self.indices: dict[Any, tuple[PoseIndex, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        """Where frames live."""
        return self.latents.device

    @property
    def pages(self) -> int:
        """P, pages of storage."""
        return len(self._fill)

    @property
    def pages_in_use(self) -> int:
        """Pages that hold frames, or held frames that nobody remembers and that were not collected yet."""
        return self.pages - len(self._free)

    def empty(self, batch_size: int) -> Memory:
        """The memories of ``batch_size`` worlds that have seen nothing."""
        none: _Table = np.zeros((1, 0), np.int64)
        tail: _Table = np.zeros((batch_size, 0), np.int64)
        start: _Table = np.full(batch_size, np.iinfo(np.int64).min)
        return Memory(self, none, none, (0,), np.zeros(batch_size, np.int64), tail, tail, start)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames of slots (…) int64, from `Memory.slots`: latents (…, C, h, w) float32, poses (…, 5), times (…)."""
        return self.latents.flatten(0, 1)[slots].to(torch.float32), *self.read_places(slots)

    def read_places(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Poses (…, 5) and times (…) of frames of slots (…) int64."""
        return self.poses.flatten(0, 1)[slots], self.times.flatten(0, 1)[slots]

    def like(self, device: torch.device | str | None = None) -> Arena:
        """An empty arena of the same kind, on another device where one is named."""
        return Arena(
            self.latent_shape, device or self.device, page_frames=self.page_frames, pages=self.pages,
            capacity=self.capacity, when_full=self.when_full, grow=self.grow, dtype=self.latents.dtype,
        )  # fmt: skip

    def take(self, n: int) -> _Table:
        """``n`` free pages; those that no live memory shows are freed first, and storage grows if it may.

        Raises:
            MemoryFull: it may not.
        """
        if len(self._free) < n:
            self._collect()
            if self.grow and len(self._free) < max(n, self.pages // 8):
                self._double(n)
        if len(self._free) < n:
            raise MemoryFull(
                f"All {self.pages} pages of the memory are in use and it may not grow; give it more pages, or drop "
                "states that are no longer needed."
            )
        taken, self._free = self._free[len(self._free) - n :], self._free[: len(self._free) - n]
        self._fill[taken] = 0
        return taken

    def _collect(self) -> None:
        used = np.zeros(self.pages, bool)
        for memory in self._live:
            used[memory.trunk_pages[memory.trunk_counts > 0]] = True
            used[memory.tail_pages[memory.tail_counts > 0]] = True
        self._free = np.flatnonzero(~used)[::-1].copy()

    def _double(self, n: int) -> None:
        old = self.pages
        more = max(old, n)
        with torch.inference_mode(False):
            for name in _STORED:
                tensor: Tensor = getattr(self, name)
                setattr(self, name, torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])]))
        self._fill = np.concatenate([self._fill, np.zeros(more, np.int64)])
        self._free = np.concatenate([np.arange(old, old + more)[::-1], self._free])


@dataclass(frozen=True, eq=False)
class Memory:
    """What B worlds remember, oldest frame first.

    Attributes:
        arena: where the frames are.
        trunk_pages, trunk_counts: (R, L) pages of shared pasts and how many frames of each are seen, 0 for none.
        trunk_numbers: R numbers that no other trunk ever has, for caches of what was computed from one.
        row: (B,) the trunk that each world continues.
        tail_pages, tail_counts: (B, T) the same of what each world has seen since.
        last_time: (B,) time of the newest frame.
    """

    arena: Arena
    trunk_pages: _Table
    trunk_counts: _Table
    trunk_numbers: tuple[int, ...]
    row: _Table
    tail_pages: _Table
    tail_counts: _Table
    last_time: _Table

    def __post_init__(self) -> None:
        self.arena._live.add(self)

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.row)

    @property
    def lengths(self) -> _Table:
        """(B,) frames each world remembers."""
        lengths: _Table = self.trunk_counts.sum(1)[self.row] + self.tail_counts.sum(1)
        return lengths

    def append(self, latents: Tensor, poses: Tensor, times: Any, imagined: bool = False) -> Memory:
        """The memories after one more frame each.

        Args:
            latents: (B, C, h, w).
            poses: (B, 5) canonical.
            times: (B,) int64 on the host, later than every frame before.
            imagined: whether the world made them up.

        Raises:
            ValueError: another shape, a pose that is not finite, or a frame out of order.
            MemoryFull: no room, and the arena's policy is not to make any.
        """
        arena, b = self.arena, np.arange(self.batch_size)
        when = np.asarray(times, np.int64)
        self._check(latents, poses, when)
        memory = self._with_room()
        used = (memory.tail_counts > 0).sum(1)
        last = used - 1
        page = np.where(used > 0, memory.tail_pages[b, last], -1) if memory.tail_pages.shape[1] else used - 1
        seen = np.where(used > 0, memory.tail_counts[b, last], 0) if memory.tail_pages.shape[1] else used
        first = np.zeros(len(b), bool)
        first[np.unique(page, return_index=True)[1]] = True
        goes_on = first & (used > 0) & (seen < arena.page_frames) & (arena._fill[page] == seen)
        opens = ~goes_on
        page = page.copy()
        page[opens] = arena.take(int(opens.sum()))
        offset = np.where(goes_on, seen, 0)
        arena._fill[page] = offset + 1
        column = np.where(goes_on, last, used)
        width = max(memory.tail_pages.shape[1], int(column.max(initial=-1)) + 1)
        pages, counts = _widened(memory.tail_pages, width), _widened(memory.tail_counts, width)
        pages[b, column], counts[b, column] = page, offset + 1
        slots = torch.from_numpy(page * arena.page_frames + offset).to(arena.device)
        arena.latents.flatten(0, 1)[slots] = latents.to(arena.device, arena.latents.dtype)
        arena.poses.flatten(0, 1)[slots] = poses.to(arena.device, torch.float64)
        arena.times.flatten(0, 1)[slots] = torch.from_numpy(when).to(arena.device)
        arena.imagined.flatten(0, 1)[slots] = imagined
        return replace(memory, tail_pages=pages, tail_counts=counts, last_time=when)

    def fork(self, n: int) -> Memory:
        """n·B memories: those numbered ``i·n … i·n + n - 1`` continue that of world ``i``."""
        return self[np.repeat(np.arange(self.batch_size), n)]

    def __getitem__(self, index: Any) -> Memory:
        """Memories of selected or reordered worlds, by slice, numbers or mask; an integer gives a batch of one."""
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        key = np.arange(self.batch_size)[np.atleast_1d(index) if not isinstance(index, slice) else index]
        # Trunks that no world continues are dropped here: joined batches bring along all of both.
        used, row = np.unique(self.row[key], return_inverse=True)
        whole = len(used) == len(self.trunk_numbers)
        return replace(
            self,
            trunk_pages=self.trunk_pages if whole else self.trunk_pages[used],
            trunk_counts=self.trunk_counts if whole else self.trunk_counts[used],
            trunk_numbers=self.trunk_numbers if whole else tuple(self.trunk_numbers[u] for u in used),
            row=row,
            tail_pages=self.tail_pages[key],
            tail_counts=self.tail_counts[key],
            last_time=self.last_time[key],
        )

    @staticmethod
    def cat(memories: list[Memory]) -> Memory:
        """One batch from several, in order; those of another arena than the first one's are copied into that one.

        Raises:
            ValueError: none given.
        """
        if not memories:
            raise ValueError("Memories are joined when there is at least one.")
        memories = [m.moved_to(memories[0].arena) for m in memories]
        starts = np.cumsum([0, *(len(m.trunk_numbers) for m in memories)])
        trunk, tail = (max(getattr(m, f"{part}_pages").shape[1] for m in memories) for part in ("trunk", "tail"))
        return Memory(
            memories[0].arena,
            np.concatenate([_widened(m.trunk_pages, trunk) for m in memories]),
            np.concatenate([_widened(m.trunk_counts, trunk) for m in memories]),
            tuple(number for m in memories for number in m.trunk_numbers),
            np.concatenate([m.row + start for m, start in zip(memories, starts, strict=False)]),
            np.concatenate([_widened(m.tail_pages, tail) for m in memories]),
            np.concatenate([_widened(m.tail_counts, tail) for m in memories]),
            np.concatenate([m.last_time for m in memories]),
        )

    def where(self, mask: Any, other: Memory) -> Memory:
        """World by world, this memory where ``mask`` (B,) holds and ``other`` elsewhere."""
        chosen = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask, bool)
        b = np.arange(self.batch_size)
        return Memory.cat([self, other])[np.where(chosen, b, b + self.batch_size)]

    def moved_to(self, arena: Arena) -> Memory:
        """The same memories with their frames in ``arena``; these themselves where they are there already."""
        return self if self.arena is arena else Memory.from_tensors(arena, self.to_tensors())

    @property
    def next_time(self) -> _Table:
        """(B,) the time of each world's next frame: one after the newest, 0 for the first."""
        return np.where(self.last_time < 0, 0, self.last_time + 1)

    def extend(self, latents: Tensor, poses: Tensor, imagined: bool = False) -> Memory:
        """The memories after T more frames each, in consecutive steps: latents (B, T, C, h, w), poses (B, T, 5)."""
        memory = self
        for t in range(latents.shape[1]):
            memory = memory.append(latents[:, t], poses[:, t], memory.next_time, imagined)
        return memory

    def keep(self, wanted: Tensor) -> Memory:
        """The memories with those frames only where ``wanted`` (B, N) holds, columns as in `slots`.

        The kept frames are copied; worlds that shared a past share it no longer.
        """
        arena, (slots, exist) = self.arena, self.slots()
        chosen = (exist & wanted.to(exist.device)).cpu().numpy()
        size, lengths = arena.page_frames, chosen.sum(1)
        counts = np.clip(lengths[:, None] - size * np.arange(-(-lengths.max(initial=0) // size)), 0, size)
        pages = np.zeros_like(counts)
        pages[counts > 0] = arena.take(int((counts > 0).sum()))
        arena._fill[pages[counts > 0]] = counts[counts > 0]
        there = np.arange(size) < counts[..., None]
        target = torch.from_numpy((pages[..., None] * size + np.arange(size))[there]).to(arena.device)
        source = slots[torch.from_numpy(chosen).to(arena.device)]
        for name in _STORED:
            stored: Tensor = getattr(arena, name).flatten(0, 1)
            stored[target] = stored[source]
        none, b = np.zeros((self.batch_size, 0), np.int64), self.batch_size
        numbers = tuple(next(_numbers) for _ in range(b))
        return Memory(arena, pages, counts, numbers, np.arange(b), none, none, self.last_time)

    def slots(self) -> tuple[Tensor, Tensor]:
        """Where all frames are: slots (B, N) int64 for `Arena.read`, oldest first, and which of them exist (B, N)."""
        pages = np.concatenate([self.trunk_pages[self.row], self.tail_pages], 1)
        counts = np.concatenate([self.trunk_counts[self.row], self.tail_counts], 1)
        return self._slots(pages, counts)

    def tail_slots(self) -> tuple[Tensor, Tensor]:
        """`slots` of the frames since the trunk."""
        return self._slots(self.tail_pages, self.tail_counts)

    def trunk_slots(self, row: int) -> Tensor:
        """Slots (N,) of the frames of trunk ``row``, oldest first."""
        slots, exist = self._slots(self.trunk_pages[row : row + 1], self.trunk_counts[row : row + 1])
        return slots[exist]

    def to_tensors(self) -> dict[str, Tensor]:
        """All of these memories and nothing else, each shared frame once; `from_tensors` is the inverse."""
        arena = self.arena
        tables = ((self.trunk_pages, self.trunk_counts), (self.tail_pages, self.tail_counts))
        visible = np.zeros(arena.pages, np.int64)
        for pages, counts in tables:
            np.maximum.at(visible, pages[counts > 0], counts[counts > 0])
        kept = np.flatnonzero(visible)
        number = np.zeros(arena.pages, np.int64)
        number[kept] = np.arange(len(kept))
        shown = torch.arange(arena.page_frames) < torch.from_numpy(visible[kept])[:, None]
        index = torch.from_numpy(kept).to(arena.device)
        data: dict[str, Tensor] = {}
        for name in _STORED:
            stored = getattr(arena, name)[index].cpu()
            data[name] = stored * shown.view(*shown.shape, *[1] * (stored.ndim - 2)).to(stored.dtype)
        for name, (pages, counts) in zip(("trunk", "tail"), tables, strict=True):
            data[f"{name}_pages"] = torch.from_numpy(np.where(counts > 0, number[pages], 0))
            data[f"{name}_counts"] = torch.from_numpy(counts.copy())
        return data | {"row": torch.from_numpy(self.row.copy()), "last_time": torch.from_numpy(self.last_time.copy())}

    @staticmethod
    def from_tensors(arena: Arena, data: dict[str, Tensor]) -> Memory:
        """Memories from `to_tensors`, their frames put into ``arena``.

        Raises:
            WorldFormatError: tensors missing or damaged, or latents of another shape than the arena's.
            MemoryFull: no room.
        """
        if set(data) != set(_TENSORS):
            raise WorldFormatError(f"A memory is made of {', '.join(_TENSORS)}; got {', '.join(sorted(data))}.")
        shape = (arena.page_frames, *arena.latent_shape)
        if tuple(data["latents"].shape[1:]) != shape:
            raise WorldFormatError(
                f"This memory holds pages of shape {tuple(data['latents'].shape[1:])}, this world's have {shape}."
            )
        tables = {k: data[k].cpu().numpy().astype(np.int64) for k in _TENSORS[len(_STORED) :]}
        n, b = len(data["latents"]), len(tables["row"])
        for part, rows in (("trunk", len(tables["trunk_pages"])), ("tail", b)):
            pages, counts = tables[f"{part}_pages"], tables[f"{part}_counts"]
            sound = pages.ndim == 2 and pages.shape == counts.shape and len(pages) == rows
            if not sound or (counts < 0).any() or (counts > arena.page_frames).any():
                raise WorldFormatError("The page tables of this memory are damaged.")
            if ((pages < 0) | (pages >= n))[counts > 0].any():
                raise WorldFormatError("The page tables of this memory name pages that it does not hold.")
        row = tables["row"]
        if ((row < 0) | (row >= len(tables["trunk_pages"]))).any() or len(tables["last_time"]) != b:
            raise WorldFormatError("The page tables of this memory are damaged.")
        taken = arena.take(n)
        index = torch.from_numpy(taken).to(arena.device)
        for name in _STORED:
            getattr(arena, name)[index] = data[name].to(arena.device, getattr(arena, name).dtype)
        parts = {}
        for part in ("trunk", "tail"):
            pages, counts = tables[f"{part}_pages"], tables[f"{part}_counts"]
            parts[part] = taken[pages] if n else pages
            np.maximum.at(arena._fill, parts[part][counts > 0], counts[counts > 0])
        numbers = tuple(next(_numbers) for _ in tables["trunk_pages"])
        return Memory(
            arena, parts["trunk"], tables["trunk_counts"], numbers, row, parts["tail"], tables["tail_counts"],
            tables["last_time"],
        )  # fmt: skip

    def _check(self, latents: Tensor, poses: Tensor, times: _Table) -> None:
        expected = {"latents": (self.batch_size, *self.arena.latent_shape), "poses": (self.batch_size, POSE_DIM)}
        for name, tensor in (("latents", latents), ("poses", poses)):
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(f"A memory of {self.batch_size} worlds takes {name} {expected[name]}, got "
                                 f"{tuple(tensor.shape)}.")  # fmt: skip
        if times.shape != (self.batch_size,):
            raise ValueError(f"A memory of {self.batch_size} worlds takes as many times, got shape {times.shape}.")
        if not bool(torch.isfinite(poses).all()):
            raise ValueError("A pose to remember must be finite.")
        if (late := times <= self.last_time).any():
            i = int(late.argmax())
            raise ValueError(
                f"Frames are remembered in order: world {i} has seen time {self.last_time[i]}, got {times[i]}."
            )

    def _with_room(self) -> Memory:
        """These memories with full tails made trunks, and old pages forgotten where the capacity asks for it."""
        arena = self.arena
        if arena.capacity is not None and arena.when_full == "error" and (self.lengths >= arena.capacity).any():
            raise MemoryFull(
                f"World {int((self.lengths >= arena.capacity).argmax())} remembers {arena.capacity} frames, as many as "
                "it may; allow more, or let it forget the oldest."
            )
        used = (self.tail_counts > 0).sum(1)
        full = used >= arena.tail_pages
        if full.any():
            full &= self.tail_counts[np.arange(self.batch_size), used - 1] == arena.page_frames
        if not full.any():
            return self
        kept, row = np.unique(self.row, return_inverse=True)
        who = np.flatnonzero(full)
        pages = np.concatenate([self.trunk_pages[self.row[who]], self.tail_pages[who]], 1)
        counts = np.concatenate([self.trunk_counts[self.row[who]], self.tail_counts[who]], 1)
        pages, counts = self._trimmed(pages, counts)
        width = max(self.trunk_pages.shape[1], pages.shape[1])
        trunk_pages = np.concatenate([_widened(self.trunk_pages[kept], width), _widened(pages, width)])
        trunk_counts = np.concatenate([_widened(self.trunk_counts[kept], width), _widened(counts, width)])
        row[who] = len(kept) + np.arange(len(who))
        numbers = (*(self.trunk_numbers[k] for k in kept), *(next(_numbers) for _ in who))
        tail_pages, tail_counts = self.tail_pages.copy(), self.tail_counts.copy()
        tail_counts[who] = 0
        still, row = np.unique(row, return_inverse=True)
        return Memory(
            arena, trunk_pages[still], trunk_counts[still], tuple(numbers[s] for s in still), row, tail_pages,
            tail_counts, self.last_time,
        )  # fmt: skip

    def _trimmed(self, pages: _Table, counts: _Table) -> tuple[_Table, _Table]:
        """Tables packed to the left; over capacity, without the oldest pages but the first."""
        arena = self.arena
        if arena.capacity is not None and arena.when_full == "oldest":
            room = arena.capacity - arena.tail_pages * arena.page_frames
            newer = counts[:, ::-1].cumsum(1)[:, ::-1]
            first = (counts > 0).cumsum(1) == 1
            sink = np.where(first & (counts > 0), counts, 0).max(1, keepdims=True)
            counts = np.where(first | (newer <= room - sink), counts, 0)
        order = np.argsort(counts == 0, axis=1, kind="stable")
        longest = int((counts > 0).sum(1).max())
        return np.take_along_axis(pages, order, 1)[:, :longest], np.take_along_axis(counts, order, 1)[:, :longest]

    def _slots(self, pages: _Table, counts: _Table) -> tuple[Tensor, Tensor]:
        size = self.arena.page_frames
        offsets = np.arange(size)
        slots = (pages[..., None] * size + offsets).reshape(len(pages), -1)
        exist = (offsets < counts[..., None]).reshape(len(pages), -1)
        return torch.from_numpy(slots).to(self.arena.device), torch.from_numpy(exist).to(self.arena.device)


def _widened(table: _Table, width: int) -> _Table:
    """A copy of (N, L) with zeros up to ``width`` columns."""
    wide = np.zeros((len(table), width), np.int64)
    wide[:, : table.shape[1]] = table
    return wide
