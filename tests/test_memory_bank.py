"""The memory bank: a value, whatever is shared underneath, held against plain lists of frames."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloop.errors import ConfigError, WorldFormatError
from worldloop.world_models.memory.bank import Arena, Memory, MemoryFull

SHAPE = (1, 2, 2)
ACTIONS = ["append", "fork", "select", "join", "keep", "forget", "bytes"]
History = list[tuple[float, int, bool]]


def frames(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, *SHAPE)


def grown(memory: Memory, histories: list[History], value: int) -> tuple[Memory, list[History]]:
    """One more frame for every world, unlike all others, in the memory and in plain lists."""
    values = [value + i for i in range(len(histories))]
    times = [max(int(last), -1) + 1 for last in memory.last_time]
    imagined = value % 3 == 0
    poses = torch.tensor(values, dtype=torch.float64).view(-1, 1).expand(-1, 5)
    after = memory.append(frames(values), poses, times, imagined)
    return after, [[*h, (float(v), t, imagined)] for h, v, t in zip(histories, values, times, strict=True)]


def shown(memory: Memory) -> list[History]:
    slots, exist = memory.slots()
    latents, poses, times = memory.arena.read(slots)
    result = []
    for b in range(memory.batch_size):
        here = exist[b]
        assert (latents[b, here].flatten(1) == poses[b, here, :1]).all(), "a frame and its pose went apart"
        imagined = memory.arena.imagined.flatten()[slots[b, here]]
        frames = zip(poses[b, here, 0].tolist(), times[b, here].tolist(), imagined.tolist(), strict=True)
        result.append(list(frames))
    return result


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), min_size=5, max_size=60), st.integers(1, 3))
def test_whatever_happens_every_state_shows_its_own_past(actions: list[tuple[str, int]], page: int) -> None:
    arena = Arena(SHAPE, page_frames=page, pages=2)
    arena.tail_pages = 3
    memory, histories, value = arena.empty(2), [[], []], 1
    kept: list[tuple[Memory, list[History]]] = []
    for action, number in actions:
        b = len(histories)
        if action == "append":
            memory, histories = grown(memory, histories, value)
            value += b
        elif action == "fork" and b < 8:
            memory, histories = memory.fork(2), [h for h in histories for _ in range(2)]
        elif action == "select":
            index = [(number + i) % b for i in range(max(1, b - 1))]
            memory, histories = memory[index], [histories[i] for i in index]
        elif action == "join" and kept:
            other, theirs = kept[number % len(kept)]
            memory, histories = Memory.cat([memory, other])[:6], (histories + theirs)[:6]
        elif action == "forget":
            slots, _ = memory.slots()
            memory = memory.keep(memory.arena.read_places(slots)[0][..., 0] % 4 != number % 4)
            histories = [[frame for frame in h if frame[0] % 4 != number % 4] for h in histories]
        elif action == "bytes":
            arena = memory.arena if number % 2 else Arena(SHAPE, page_frames=page, pages=1)
            arena.tail_pages = 3
            kept = kept if arena is memory.arena else []
            memory = Memory.from_tensors(arena, memory.to_tensors())
        else:
            kept.append((memory, histories))
        assert shown(memory) == histories
        assert memory.lengths.tolist() == [len(h) for h in histories]
    for old, past in kept:
        assert shown(old) == past


def long_memory(arena: Arena, n: int) -> tuple[Memory, list[History]]:
    memory, histories = arena.empty(1), [[]]
    for i in range(n):
        memory, histories = grown(memory, histories, i % 2000)
    return memory, histories


def test_a_fork_of_a_long_memory_costs_less_than_a_hundredth_of_it() -> None:
    arena = Arena((16, 6, 8))
    memory = arena.empty(1)
    latents, poses = torch.zeros(1, 16, 6, 8), torch.zeros(1, 5)
    for time in range(10_000):
        memory = memory.append(latents, poses, [time])
    before = arena.pages_in_use * arena.page_frames * (16 * 6 * 8 * 2 + 5 * 8 + 8)
    forked = memory.fork(512)
    tables = (forked.row, forked.tail_pages, forked.tail_counts, forked.last_time)
    assert forked.trunk_pages is memory.trunk_pages
    assert sum(table.nbytes for table in tables) < 0.01 * before
    assert forked.lengths.tolist() == [10_000] * 512


def test_what_nobody_remembers_makes_room() -> None:
    arena = Arena(SHAPE, page_frames=4, pages=80)
    memory, histories = long_memory(arena, 9)
    for _ in range(200):
        branch, pasts = memory.fork(64), histories * 64
        for i in range(3):
            branch, pasts = grown(branch, pasts, i)
        del branch
        gc.collect(0)
    assert arena.pages == 80
    assert shown(memory) == histories


def test_storage_grows_or_refuses() -> None:
    fixed = Arena(SHAPE, page_frames=2, pages=2, grow=False)
    memory, histories = long_memory(fixed, 4)
    with pytest.raises(MemoryFull, match="2 pages"):
        grown(memory, histories, 9)
    assert shown(memory) == histories
    growing = Arena(SHAPE, page_frames=2, pages=1)
    memory, histories = long_memory(growing, 100)
    assert shown(memory) == histories and growing.pages >= 50


def test_a_full_memory_forgets_the_oldest_but_the_first() -> None:
    arena = Arena(SHAPE, page_frames=2, capacity=20)
    memory, histories = arena.empty(2), [[], []]
    for i in range(200):
        memory, histories = grown(memory, histories, 10 * i)
        for now, past in zip(shown(memory), histories, strict=True):
            assert len(now) <= 20 and len(now) >= min(len(past), 12)
            sink, newest = now[:2], now[2:]
            assert sink == past[: len(sink)] and newest == past[len(past) - len(newest) :]
    strict = Arena(SHAPE, page_frames=2, capacity=8, when_full="error")
    memory, histories = long_memory(strict, 8)
    with pytest.raises(MemoryFull, match="8 frames"):
        grown(memory, histories, 1)


def test_where_chooses_world_by_world() -> None:
    arena = Arena(SHAPE)
    a, first = grown(arena.empty(3), [[], [], []], 10)
    b, second = grown(*grown(arena.empty(3), [[], [], []], 20), 30)
    chosen = a.where(torch.tensor([True, False, True]), b)
    assert shown(chosen) == [first[0], second[1], first[2]]
    grown(chosen, [first[0], second[1], first[2]], 40)
    assert shown(a) == first and shown(b) == second


def test_bad_frames_are_refused_and_change_nothing() -> None:
    arena = Arena(SHAPE)
    memory, histories = long_memory(arena, 3)
    pose = torch.zeros(1, 5)
    for latents, poses, times, message in (
        (frames([1, 2]), pose, [3], r"\(1, 1, 2, 2\)"),
        (frames([1]), torch.zeros(1, 4), [3], "poses"),
        (frames([1]), pose * float("nan"), [3], "finite"),
        (frames([1]), pose, [2], "in order"),
        (frames([1]), pose, [3, 4], "as many times"),
    ):
        with pytest.raises(ValueError, match=message):
            memory.append(latents, poses, times)
    assert shown(memory) == histories
    for wrong in ({"capacity": 0}, {"page_frames": 0}, {"pages": 0}, {"when_full": "cry"}):
        with pytest.raises(ConfigError):
            Arena(SHAPE, **wrong)  # type: ignore[arg-type]
    tensors = memory.to_tensors()
    with pytest.raises(WorldFormatError, match=r"\(16, 1, 2, 2\).*\(16, 2, 2, 2\)"):
        Memory.from_tensors(Arena((2, 2, 2)), tensors)
    for name, value in (("tail_pages", tensors["tail_pages"] + 99), ("row", tensors["row"] + 5)):
        with pytest.raises(WorldFormatError, match="page tables"):
            Memory.from_tensors(arena, tensors | {name: value})
    with pytest.raises(WorldFormatError, match="made of"):
        Memory.from_tensors(arena, {})


def test_stored_latents_survive_as_half_precision() -> None:
    arena = Arena((2, 3, 4))
    latents = torch.randn(5, 2, 3, 4)
    memory = arena.empty(5).append(latents, torch.zeros(5, 5), np.zeros(5))
    slots, exist = memory.slots()
    read, _, _ = arena.read(slots)
    assert read.dtype == torch.float32
    assert torch.equal(read[exist], latents.half().float())


def test_memory_made_in_inference_mode_can_be_written_outside_and_back() -> None:
    with torch.inference_mode():
        arena = Arena((1, 1, 1), page_frames=2, pages=1)
        memory = arena.empty(1).extend(torch.zeros(1, 5, 1, 1, 1), torch.zeros(1, 5, 5, dtype=torch.float64))
    memory = memory.extend(torch.ones(1, 20, 1, 1, 1), torch.zeros(1, 20, 5, dtype=torch.float64))
    with torch.inference_mode():
        memory = memory.extend(torch.ones(1, 20, 1, 1, 1), torch.zeros(1, 20, 5, dtype=torch.float64))
    assert memory.lengths.tolist() == [45]


def test_worlds_that_are_replaced_again_and_again_leave_nothing_behind() -> None:
    """As environments do whose worlds imagine in state space, where nothing is ever written to memory."""
    arena = Arena(SHAPE, page_frames=2)
    memory, histories = long_memory(arena, 6)
    many, told = memory.fork(4), histories * 4
    for i in range(40):
        new, seen = long_memory(arena, 3 + i % 3)
        mask = np.arange(4) == i % 4
        many = many.where(~mask, new.fork(4))
        told = [seen[0] if gone else known for gone, known in zip(mask, told, strict=True)]
        assert len(many.trunk_numbers) <= 4 and shown(many) == told
    assert len(many[2].to_tensors()["latents"]) == -(-len(told[2]) // 2)
