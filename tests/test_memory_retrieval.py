"""Retrieval: every strategy against a slow, obvious version, on random walks with gaps and short histories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worldloop.errors import ConfigError
from worldloop.world_models.memory.bank import Arena
from worldloop.world_models.memory.recall import TREE_FROM, recall
from worldloop.world_models.memory.retrieval import (
    STRATEGIES,
    Coverage,
    Exclusion,
    Frustum,
    Nearest,
    NoRetrieval,
    Query,
    Random,
    Remembered,
    ViewOverlap,
    WorldPack,
    ball,
    retrieve,
    strategy_named,
)
from worldloop.world_models.pose import camera_axes

Pose = np.ndarray


def walk(seed: int, b: int, n: int, gaps: float = 0.2) -> tuple[Query, Remembered]:
    """Walks in steps and turns, with gaps, and a query a little further on."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(-1, 2, (b, n + 3)) * math.pi / 8
    yaw = turns.cumsum(1) + rng.uniform(-3, 3, (b, 1))
    steps = 25 * rng.integers(0, 2, (b, n + 3))
    poses = np.zeros((b, n + 3, 5))
    poses[..., 0], poses[..., 1] = (steps * np.cos(yaw)).cumsum(1), (steps * np.sin(yaw)).cumsum(1)
    poses[..., 2], poses[..., 3] = 41, (yaw + math.pi) % (2 * math.pi) - math.pi
    times = np.arange(n + 3)[None] + rng.integers(0, 9, (b, 1))
    exist = rng.random((b, n)) >= gaps
    now = torch.from_numpy(times[:, n + 2] - rng.integers(0, 5))
    query = Query(torch.from_numpy(poses[:, n + 2]), now, torch.arange(b) + seed)
    return query, Remembered(*(torch.from_numpy(x) for x in (poses[:, :n], times[:, :n], exist)))


def per_world(query: Query, remembered: Remembered) -> list[tuple[Pose, int, list[int], np.ndarray, np.ndarray]]:
    """For every world: query pose, query time, visible columns, poses, times."""
    out = []
    for b in range(len(query.time)):
        poses, times = remembered.poses[b].numpy(), remembered.times[b].numpy()
        now = int(query.time[b])
        there = [i for i in range(len(times)) if remembered.exist[b, i] and times[i] < now]
        out.append((query.pose[b].numpy(), now, there, poses, times))
    return out


def forward(pose: Pose) -> np.ndarray:
    return np.array([math.cos(pose[4]) * math.cos(pose[3]), math.cos(pose[4]) * math.sin(pose[3]), math.sin(pose[4])])


def log_score(pose: Pose, other: Pose, s: WorldPack) -> float:
    offset, d = (other[:3] - pose[:3]) * s.pose_scale, forward(pose)
    along = offset @ d
    across2 = max(offset @ offset - along**2, 0.0)
    c = forward(other) @ d
    weight, share, shift = (s.weight_view, c, along) if c > 0 else (s.weight_back, -c, along - s.mu)
    if weight * share <= 1e-12:  # A right angle, but for rounding.
        return -math.inf
    return math.log(weight * share) - shift**2 / (2 * s.sigma_along**2) - across2 / (2 * s.sigma_across**2)


def slow_choice(
    scores: dict[int, float], there: list[int], times: np.ndarray, now: int, k: int, window: int, mode: Exclusion
) -> list[int]:
    ranked = sorted(there, key=lambda i: (-scores[i], -i))
    if mode == "recent":
        return ([i for i in ranked if times[i] < now - window] + [i for i in ranked if times[i] >= now - window])[:k]
    picked: list[int] = []
    while len(picked) < min(k, len(there)):
        left = [i for i in ranked if i not in picked]
        apart = [i for i in left if all(abs(times[i] - times[j]) >= window for j in picked)]
        picked.append((apart or left)[0])
    return picked


def assert_chooses(strategy: Callable, query: Query, remembered: Remembered, k: int, slow: list[list[int]]) -> None:
    found = retrieve(strategy, query, remembered, k)
    assert found.columns.shape == found.valid.shape == found.score.shape == (len(slow), k)
    for b, expected in enumerate(slow):
        assert found.columns[b][found.valid[b]].tolist() == expected
        assert found.valid[b].tolist() == [True] * len(expected) + [False] * (k - len(expected))
        assert (remembered.times[b, expected] < query.time[b]).all()


cases = given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 12))
modes = pytest.mark.parametrize("mode", ["recent", "spacing"])


@modes
@settings(max_examples=25, deadline=None)
@cases
@example(seed=7, n=14, k=11)  # At right angles rounding once decided, not nearness.
def test_worldpack_ranks_as_its_formula_does(mode: Exclusion, seed: int, n: int, k: int) -> None:
    query, remembered = walk(seed, 3, n)
    made_up = torch.from_numpy(np.random.default_rng(seed).random((3, n)) < 0.5)
    remembered = replace(remembered, imagined=made_up)
    usual = WorldPack(exclusion=6, exclusion_mode=mode, weight_imagined=0.3)
    for strategy in (usual, WorldPack(5, 3, 40, 1, 1, 0.1, 4, mode)):
        slow = []
        for b, (pose, now, there, poses, times) in enumerate(per_world(query, remembered)):
            less = math.log(strategy.weight_imagined)
            scores = {i: log_score(pose, poses[i], strategy) + (less if made_up[b, i] else 0) for i in there}
            # Equal poses score equally in exact arithmetic: keep rounding from deciding.
            scores = {i: round(s, 9) if s > -math.inf else s for i, s in scores.items()}
            near = {i: -1e15 - float(np.linalg.norm(poses[i][:3] - pose[:3])) for i in there}
            scores = {i: near[i] if s == -math.inf else s for i, s in scores.items()}
            slow.append((scores, there, times, now))
        found = retrieve(strategy, query, remembered, k)
        for b, (scores, there, times, now) in enumerate(slow):
            chosen = found.columns[b][found.valid[b]].tolist()
            expected = slow_choice(scores, there, times, now, k, strategy.exclusion, mode)
            if mode == "recent":
                assert [scores[i] for i in chosen] == pytest.approx([scores[i] for i in expected], abs=1e-8)
            else:
                assert len(chosen) == len(expected) == len(set(chosen))


def test_log_space_keeps_the_order_that_exact_numbers_have() -> None:
    """With the printed constants every score underflows float64; exact arithmetic still ranks them."""
    query, remembered = walk(3, 1, 60, gaps=0)
    # Turned a little, so that no view is at a right angle to it: those score zero, whatever their place.
    query = Query(query.pose + torch.tensor([0, 0, 0, 0.1, 0]), query.time + 100, query.seeds)
    strategy = WorldPack.printed()
    pose = query.pose[0].numpy()
    naive, exact = [], []
    for other in remembered.poses[0].numpy():
        score = log_score(pose, other, strategy)
        naive.append(math.exp(score))
        offset, d = [Fraction(float(x)) for x in other[:3] - pose[:3]], [Fraction(float(x)) for x in forward(pose)]
        along = sum(a * b for a, b in zip(offset, d, strict=True))
        across2 = sum(a * a for a in offset) - along**2
        back = float(forward(other) @ forward(pose)) < 0
        exact.append(((along - 1 if back else along) ** 2 / (2 * Fraction(1, 10_000)) + across2 / 200, -len(exact)))
    assert sum(x == 0 for x in naive) > 50, "this case does not underflow; it proves nothing"
    found = retrieve(strategy, query, remembered, 10)
    ideal = sorted(range(60), key=lambda i: exact[i])[:10]
    order = [float(exact[i][0]) for i in found.columns[0].tolist()]
    assert order == pytest.approx([float(exact[i][0]) for i in ideal], rel=1e-3)


@modes
@settings(max_examples=25, deadline=None)
@cases
def test_nearest_is_nearest(mode: Exclusion, seed: int, n: int, k: int) -> None:
    query, remembered = walk(seed, 2, n)
    jitter = torch.from_numpy(np.random.default_rng(seed).normal(size=remembered.poses.shape)) * 1e-3
    remembered = Remembered(remembered.poses + jitter, remembered.times, remembered.exist)
    strategy = Nearest(70, 0.5, exclusion=5, exclusion_mode=mode)
    slow = []
    for pose, now, there, poses, times in per_world(query, remembered):
        scores = {
            i: -((np.linalg.norm(poses[i][:3] - pose[:3]) / 70) ** 2)
            - (math.acos(np.clip(forward(poses[i]) @ forward(pose), -1, 1)) / 0.5) ** 2
            for i in there
        }
        slow.append(slow_choice(scores, there, times, now, k, 5, mode))
    assert_chooses(strategy, query, remembered, k, slow)


def sees(view: Frustum, pose: Pose, points: np.ndarray) -> np.ndarray:
    axes = camera_axes(torch.from_numpy(pose)).numpy()
    out = []
    for point in points:
        ahead, left, up = axes @ point - axes @ pose[:3]
        inside = abs(left) <= ahead * math.tan(view.horizontal / 2) and abs(up) <= ahead * math.tan(view.vertical / 2)
        out.append(ahead > 0 and inside and ahead**2 + left**2 + up**2 <= view.reach**2)
    return np.array(out)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 25), st.integers(0, 6), st.sampled_from([0, 7]))
def test_coverage_is_greedy(seed: int, n: int, k: int, window: int) -> None:
    query, remembered = walk(seed, 2, n)
    strategy = Coverage(points=64, radius=200, view=Frustum(reach=150), exclusion=window)
    slow = []
    for pose, now, there, poses, times in per_world(query, remembered):
        points = pose[:3] + 200 * ball(64).numpy()
        wanted = sees(strategy.view, pose, points)
        total, left = max(1, wanted.sum()), [i for i in there if times[i] < now - window]
        oldest, picked = max([now - times[i] for i in there], default=1), []
        while left and len(picked) < k:
            gains = {
                i: (wanted & sees(strategy.view, poses[i], points)).sum() / total - 0.2 * (now - times[i]) / oldest
                for i in left
            }
            best = max(left, key=lambda i: (gains[i], i))
            picked.append(best)
            left.remove(best)
            wanted = wanted & ~sees(strategy.view, poses[best], points)
        slow.append(picked)
    assert_chooses(strategy, query, remembered, k, slow)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 25), st.integers(0, 12), st.booleans())
def test_view_overlap_takes_whole_chunks_and_the_first(seed: int, n: int, k: int, sink: bool) -> None:
    query, remembered = walk(seed, 2, n)
    strategy = ViewOverlap(points=64, radius=200, view=Frustum(reach=150), sink=sink, exclusion=6)
    slow = []
    for pose, now, there, poses, times in per_world(query, remembered):
        points = pose[:3] + 200 * ball(64).numpy()
        wanted = sees(strategy.view, pose, points)
        chunks = [there[i : i + 4] for i in range(0, len(there), 4)]

        def key(number: int) -> tuple[bool, float, int]:
            members = chunks[number]  # noqa: B023
            shares = [(wanted & sees(strategy.view, poses[i], points)).sum() / max(1, wanted.sum()) for i in members]  # noqa: B023
            return any(times[i] >= now - 6 for i in members), -sum(shares) / len(members), -number  # noqa: B023

        order = sorted(range(len(chunks)), key=key)
        if sink and order:
            order = [0, *(c for c in order if c != 0)]
        slow.append([i for c in order for i in chunks[c]][:k])
    assert_chooses(strategy, query, remembered, k, slow)


def test_random_depends_on_seed_and_time_alone() -> None:
    query, remembered = walk(1, 4, 30, gaps=0)
    alone = [
        retrieve(Random(), Query(*(x[b : b + 1] for x in (query.pose, query.time, query.seeds))),
                 Remembered(*(x[b : b + 1] for x in (remembered.poses, remembered.times, remembered.exist))), 5)
        for b in range(4)
    ]  # fmt: skip
    together = retrieve(Random(), query, remembered, 5)
    assert torch.equal(torch.cat([a.columns for a in alone]), together.columns)
    later = retrieve(Random(), Query(query.pose, query.time + 1, query.seeds), remembered, 5)
    assert not torch.equal(later.columns, together.columns)


def test_the_preset_finds_what_was_seen_from_here() -> None:
    """A walker crosses a room, looks around far away, comes back: the picks look at the same place."""
    there = [(25.0 * i, 0.0, 0.0) for i in range(8)]
    around = [(3000.0, 300.0, a * math.pi / 8) for a in range(16)]
    poses = torch.tensor([[x, y, 41.0, math.remainder(a, 2 * math.pi), 0.0] for x, y, a in there + around * 3]).double()
    n = len(poses)
    remembered = Remembered(poses[None], torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool))
    query = Query(torch.tensor([[80.0, 10.0, 41.0, 0.2, 0.0]]).double(), torch.tensor([n + 1]), torch.tensor([0]))
    for name in ("worldpack", "nearest", "coverage"):
        found = retrieve(strategy_named(name), query, remembered, 4)
        assert found.valid.all()
        picks = poses[found.columns[0]]
        first = 1 if name == "coverage" else 4
        assert (picks[:first, 0] < 200).all() and (picks[:first, 3].abs() < 0.1).all(), name


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_is_not_there_or_not_yet_seen_is_never_chosen(name: str) -> None:
    strategy = strategy_named(name)
    for seed in range(6):
        query, remembered = walk(seed, 3, 25, gaps=0.5)
        query = Query(query.pose, torch.tensor([0, 10, 1000]) + remembered.times[:, 0], query.seeds)
        found = retrieve(strategy, query, remembered, 30)
        for b in range(3):
            chosen = found.columns[b][found.valid[b]]
            assert remembered.exist[b, chosen].all() and (remembered.times[b, chosen] < query.time[b]).all()
            assert len(chosen.unique()) == len(chosen)
        assert not found.valid[0].any()
        blind = Remembered(remembered.poses, remembered.times, torch.zeros_like(remembered.exist))
        assert not retrieve(strategy, query, blind, 3).valid.any()
        again = retrieve(strategy, query, remembered, 30)
        assert torch.equal(again.columns, found.columns)


def test_constants_can_be_given_with_the_name() -> None:
    assert strategy_named("worldpack:sigma_along=40,exclusion=3") == WorldPack(sigma_along=40, exclusion=3)
    assert strategy_named("view_overlap:sink=False,chunk=2") == ViewOverlap(sink=False, chunk=2)
    for wrong in ("worldpack:sigma=3", "worldpack:sigma_along=wide", "none:k=2", "coverage:view=3", "nearest:length"):
        with pytest.raises(ConfigError, match="its constants are"):
            strategy_named(wrong)


def test_bad_questions_are_refused() -> None:
    query, remembered = walk(0, 2, 5)
    with pytest.raises(ConfigError, match="worldpack, "):
        strategy_named("magic")
    with pytest.raises(ConfigError):
        WorldPack(sigma_along=0)
    with pytest.raises(ValueError, match="at least 0"):
        retrieve(NoRetrieval(), query, remembered, -1)
    with pytest.raises(ValueError, match="NaN"):
        retrieve(Nearest(), Query(query.pose * float("nan"), query.time, query.seeds), remembered, 2)
    with pytest.raises(ValueError, match=r"query\.pose of shape \(2, 5\)"):
        retrieve(Nearest(), Query(query.pose[:1], query.time, query.seeds), remembered, 2)


@pytest.mark.parametrize("mode", ["recent", "spacing"])
@pytest.mark.parametrize("kind", [WorldPack, Nearest])
def test_a_tree_changes_nothing(kind: type, mode: Exclusion) -> None:
    """Q queries of one long history, by tree and by scoring every frame."""
    _, long = walk(5, 1, 20_000, gaps=0)
    rng, q = np.random.default_rng(0), 24
    jitter = torch.from_numpy(rng.normal(size=long.poses.shape)) * 1e-3
    poses, times = (long.poses + jitter)[0], torch.arange(20_000)
    some = torch.from_numpy(rng.integers(0, 20_000, q))
    moved = poses[some] + torch.from_numpy(rng.normal(size=(q, 5)) * [30, 30, 0, 0.5, 0])
    now = times[some] + torch.tensor([1, 50, 40_000] * (q // 3))
    query = Query(moved, now, torch.zeros(q, dtype=torch.int64))
    every = Remembered(poses.expand(q, -1, -1), times.expand(q, -1), torch.ones(q, 20_000, dtype=torch.bool))
    arena = Arena((1, 1, 1), pages=1300)
    memory = arena.empty(1).extend(torch.zeros(1, 20_000, 1, 1, 1), poses[None]).fork(q)
    assert memory.trunk_counts.sum() >= TREE_FROM
    for window in (0, 20):
        strategy = kind(exclusion=window, exclusion_mode=mode)
        slow = retrieve(strategy, query, every, 16)
        fast = recall(memory, strategy, query, 16)
        assert torch.equal(fast.valid, slow.valid)
        assert torch.equal(fast.times, torch.where(slow.valid, slow.columns, now[:, None]))
    assert len(arena.indices) == 2, "a tree for each strategy"
