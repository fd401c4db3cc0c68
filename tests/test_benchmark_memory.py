"""The memory benchmark: every section at small sizes, and its arithmetic against plain computations."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from worldloop.benchmarks.memory import (
    MemoryBenchmark,
    buffers,
    filled,
    fork,
    memory_world,
    packed_step,
    run,
    walk_poses,
)
from worldloop.benchmarks.timing import bar, ratios, spread, take_turns
from worldloop.errors import ConfigError
from worldloop.world_models.config import preset
from worldloop.world_models.memory.bank import Arena
from worldloop.world_models.memory.packing import PACKINGS
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

CONFIG = MemoryBenchmark(
    depth=1, width=8, heads=1, grid=(4, 8), denoising_steps=1, histories=(20, 5000), poses=(300, 5000), queries=4,
    fork_frames=700, forks=16, repeats=3, seconds=0.01, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory") / "memory.json"


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def data(out: Path, told: list[str]) -> Any:
    run(replace(CONFIG, out=out), told.append)
    return json.loads(out.read_text(), parse_constant=pytest.fail)


def test_every_section_is_written_down(data: Any, told: list[str]) -> None:
    assert {"packing", "history", "retrieval", "fork", "machine", "provenance"} < set(data)
    bars = {name: b for section in CONFIG.sections for name, b in data[section]["bars"].items()}
    assert len(bars) == len(told) == 1 + 1 + 2 + 2
    for line in told:
        (b,) = (b for name, b in bars.items() if line.startswith(name))
        assert b["met"] == (b["value"] <= b["limit"]) == ("NOT" not in line)
    packed, base = data["packing"]["reference"], data["packing"]["raw"]
    assert (packed["frames"], base["frames"]) == (19, 4)
    assert packed["step_s"]["low"] <= packed["step_s"]["median"] <= packed["step_s"]["high"]
    assert data["packing"]["peak_mb_ratio"] == pytest.approx(packed["peak_mb"] / base["peak_mb"])
    assert 0 <= packed["step_mb"] < packed["peak_mb"]
    history = data["history"]["histories"]
    assert set(history) == {"20", "5000"} and history["20"]["ratio"]["median"] == 1
    assert history["5000"]["with_tree"] > 0 and history["5000"]["tree_ms"] >= 0
    for row in data["retrieval"]["poses"].values():
        assert row["same_answers"] and row["build_s"] > 0
        recall, step = (row["microseconds"][name] for name in ("recall", "step"))
        share = row["share_of_step"]
        # Of one and the same repeat both sides may be the same quotient, rounded differently.
        least, most = recall["low"] / step["high"], recall["high"] / step["low"]
        assert least * (1 - 1e-9) <= share["low"] <= share["high"] <= most * (1 + 1e-9)


def test_one_section_runs_alone() -> None:
    assert set(run(replace(CONFIG, sections=("fork",)), lambda line: None)) == {
        "config", "machine", "provenance", "fork"
    }  # fmt: skip


def test_token_budgets_are_those_of_the_reference_grid() -> None:
    def plain(name: str) -> int:
        """Squares of tokens of a 22 x 40 grid padded to 24 x 40, frame by frame."""
        frames = (*PACKINGS[name].recent, *PACKINGS[name].retrieved)
        return sum(22 * 40 if pool == 1 else (24 // pool) * (40 // pool) for pool in frames)

    config = replace(CONFIG, grid=(22, 40))
    packed, base = (packed_step(config, name)[1] for name in ("reference", "raw"))
    assert (packed, base) == (plain("reference"), plain("raw")) == (2500, 3520)
    assert round(packed / 880, 3) == 2.841 and base / 880 == 4


def test_bytes_of_forks_are_those_really_allocated() -> None:
    found = fork(CONFIG)
    world = memory_world(CONFIG)
    c, h, w = world.config.latent_shape
    n = CONFIG.forks
    pages, width = -(-CONFIG.fork_frames // 16), 16
    # Tables: page and count of a tail's pages, trunk row and newest time. Everything else forks of one world share.
    assert 0 < found["page_table_bytes"] <= n * (width * 8 * 2 + 8 + 8)
    assert found["recent_frame_bytes"] == 0
    page = 16 * (2 * c * h * w + 8 * 5 + 8 + 1)
    assert found["memory_bytes"] >= pages * page
    # One fork goes on on the shared page, each other one opens its own; the arena's own tables have two numbers a page.
    assert found["first_frame_bytes"] == (n - 1) * (page + 16)
    assert not any("arena" in name for name in found["added_bytes"])
    tables, everything = (b["value"] * found["memory_bytes"] for b in found["bars"].values())
    assert tables == pytest.approx(found["page_table_bytes"])
    assert everything == pytest.approx(sum(found["added_bytes"].values()))
    # The interpreter's own account of what numpy allocates agrees.
    memory = Arena((1, 1, 1)).empty(1).extend(torch.zeros(1, 700, 1, 1, 1), torch.zeros(1, 700, 5))
    old = {address for address, _ in buffers(memory).values()}
    tracemalloc.start()
    forks = memory.fork(4096)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    counted = sum(size for address, size in buffers(forks).values() if address not in old)
    assert counted == pytest.approx(allocated, rel=0.02)


def test_shared_and_viewed_memory_is_counted_where_it_is() -> None:
    whole, table = torch.zeros(100, dtype=torch.float64), np.zeros(50)
    assert buffers({"a": whole[:3], "b": table[10:20], "c": torch.zeros(0), "d": "text"}) == {
        "a": (whole.data_ptr(), 800), "b": (table.ctypes.data, 400)
    }  # fmt: skip


def test_ratios_are_of_repeats_of_one_turn() -> None:
    values, base = [2.0, 9.0, 4.0], [1.0, 3.0, 4.0]
    each = [v / b for v, b in zip(values, base, strict=True)]
    assert ratios(values, base) == {"median": median(each), "low": 1.0, "high": 3.0}
    assert spread(values, 10) == {"median": 40.0, "low": 20.0, "high": 90.0}
    assert bar(1.0, 1.0)["met"] and not bar(1.1, 1.0)["met"]


def test_works_take_turns() -> None:
    calls: list[str] = []
    config = replace(CONFIG, seconds=1e-9)
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, config.repeats, config.seconds)
    assert calls[-6:] == ["a", "b"] * 3 and {len(s) for s in seconds.values()} == {3}


@pytest.mark.parametrize("n", [1, 16, 100, 257, 1000])
def test_a_memory_filled_in_bulk_is_one_filled_frame_by_frame(n: int) -> None:
    poses = walk_poses(n, 656, 0)
    bulk = filled(Arena((1, 1, 1)), poses)
    slow = Arena((1, 1, 1)).empty(1).extend(torch.zeros(1, n, 1, 1, 1), torch.from_numpy(poses)[None])
    places = []
    for memory in (bulk, slow):
        slots, exist = memory.slots()
        places.append([x[exist] for x in memory.arena.read_places(slots)])
    assert torch.equal(places[0][0], places[1][0]) and torch.equal(places[0][1], places[1][1])
    assert bulk.next_time.tolist() == slow.next_time.tolist() == [n]
    assert (bulk.tail_counts > 0).sum() <= 16
    more = bulk.append(torch.ones(1, 1, 1, 1), torch.zeros(1, 5), bulk.next_time)
    assert more.lengths.tolist() == [n + 1]


def test_the_walk_stays_inside_and_looks_where_it_goes() -> None:
    poses = walk_poses(5000, 656, 3)
    assert poses[:, :2].min() >= 0 and poses[:, :2].max() <= 656 and not poses[:, [2, 4]].any()
    moved = np.diff(poses[:, :2], axis=0)
    length = np.linalg.norm(moved, axis=1)
    straight = np.isclose(length, 25)
    assert straight.mean() > 0.25 and (straight | (length < 25)).all()  # shorter where a wall reflected it
    heading = np.arctan2(moved[straight, 1], moved[straight, 0])
    assert np.allclose(np.cos(heading - poses[1:][straight, 3]), 1)
    assert len(np.unique(np.round(np.mod(poses[:, 3], 2 * math.pi), 6) % round(2 * math.pi, 6))) <= 17
    assert (walk_poses(5000, 656, 3) == poses).all() and (walk_poses(5000, 656, 4) != poses).any()


def test_a_world_without_memory_is_refused(tmp_path: Path) -> None:
    world = memory_world(CONFIG)
    assert world.config.remembers and world.config.cdit.retrieved == PACKINGS["tiny"].retrieved
    save_world(WorldModel(preset("tiny", world.config.actions)), tmp_path, {})
    with pytest.raises(ConfigError, match="has no memory"):
        memory_world(replace(CONFIG, world=str(tmp_path)))
