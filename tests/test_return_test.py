"""The return test: on an exact world, where the answer is known, and its paths in the real engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.envs.doom_rooms.env import STEP_LENGTH, DoomRoomsEnv
from worldloop.errors import ConfigError
from worldloop.evaluation import ReturnConfig, ReturnReport, return_test
from worldloop.evaluation.metrics import PSNR_CEILING, bootstrap
from worldloop.evaluation.return_paths import TYPES, ReturnPath, choose_places, record_path, record_paths
from worldloop.evaluation.return_report import COPYING, MEAN, NEAREST, Score, Source
from worldloop.evaluation.return_test import imagine_returns
from worldloop.world_models.config import preset
from worldloop.world_models.world_model import WorldModel

ARENA = ToyArena(goal=(-1e6, 0.0), frame_size=(12, 16))
CONFIG = ReturnConfig(maps=3, radii=(10, 15), last=30, pictures=1, batch=4, seed=4)
MAPS = np.random.default_rng(4).choice(np.arange(100_000, 200_000), 3, replace=False).tolist()


class Open:
    """A map without walls."""

    goal, room_size = ARENA.goal, 200

    def random_position(self, rng: np.random.Generator, room: int | None = None) -> tuple[float, float]:
        x, y = rng.uniform(30, ARENA.size - 30, 2)
        return float(x), float(y)

    def route(self, start: Any, end: Any) -> list[Any]:
        return [end]

    def room_of(self, x: float, y: float) -> int:
        return 0


class OpenEnv(ToyEnv):
    """The toy arena, to be walked by its map; on ``bad_map`` every step collides."""

    action_spec, layout = KEYS, Open()

    def __init__(self, bad_map: int = -1, **arguments: Any) -> None:
        super().__init__(ARENA, **arguments)
        self._bad_map = bad_map

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._stuck = (options or {}).get("map_seed") == self._bad_map
        return super().reset(seed=seed, options=options)

    def _info(self) -> dict[str, Any]:
        return {**super()._info(), "collided": self._stuck}


class Grey(ToyWorld):
    """Imagines nothing but grey."""

    def render(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.full_like(super().render(latents), 128)


class Deaf(ToyWorld):
    """Believes that it never turns."""

    def imagine(self, state: Any, actions: Any, pose: Any = None) -> Any:
        actions = torch.as_tensor(actions).clone()
        actions[actions > 4] = 0
        return super().imagine(state, actions, pose)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("return")


@pytest.fixture(scope="module")
def report(out: Path) -> ReturnReport:
    """Two types, two radii, three maps, both kinds of poses; the first world is the grey one."""
    return run(out, grey=Grey(ARENA), exact=ToyWorld(ARENA), deaf=Deaf(ARENA))


@cache
def toy_paths() -> tuple[ReturnPath, ...]:
    """The paths of that report."""
    return record_paths(OpenEnv(), MAPS, CONFIG.types, CONFIG.radii, CONFIG.seed).paths


def run(out: Path, config: ReturnConfig = CONFIG, **worlds: ToyWorld) -> ReturnReport:
    return return_test(worlds or {"exact": ToyWorld(ARENA)}, config, out, make_env=OpenEnv)


def find(report: ReturnReport, source: Source, kind: str = "all", radius: int | None = None) -> Score:
    (found,) = (
        s
        for s in report.scores
        if (s.type, s.radius, s.measure, s.source) == (kind, radius, "psnr", source)
    )  # fmt: skip
    return found


def plain_psnr(predicted: np.ndarray, true: np.ndarray) -> float:
    error = np.mean((predicted.astype(np.float64) - true.astype(np.float64)) ** 2)
    return min(PSNR_CEILING, 10 * math.log10(255**2 / error)) if error else PSNR_CEILING


def test_an_exact_world_is_perfect_and_does_not_drift(report: ReturnReport) -> None:
    for mode in ("true", "predicted"):
        for cell in report.cells:
            score = find(report, Source("exact", mode), cell.type, cell.radius)
            assert score.whole.estimate == score.last_third.estimate == PSNR_CEILING
            assert {value for value in score.curve.mean if not math.isnan(value)} == {PSNR_CEILING}
    exact = [d for d in report.drifts if d.world == "exact"]
    assert len(exact) == len(report.cells) == 5
    assert all(d.distance.estimate == 0 and d.heading.estimate < 1e-4 for d in exact)
    assert all(find(report, Source(name)).whole.high < PSNR_CEILING for name in (COPYING, MEAN, NEAREST))


def test_averages_curves_and_intervals_are_those_of_a_plain_loop(report: ReturnReport) -> None:
    paths = [p for p in toy_paths() if (p.type, p.radius) == ("ABCA", 15)]
    exploration = np.concatenate([p.frames[: p.begin] for p in toy_paths()]).astype(np.float64)
    mean_frame = np.round(exploration.mean(0)).astype(np.uint8)
    grey = np.full(paths[0].frames.shape[1:], 128, np.uint8)

    def nearest(path: ReturnPath, pose: np.ndarray) -> np.ndarray:
        def apart(seen: np.ndarray) -> float:
            turn = abs((pose[3] - seen[3] + math.pi) % (2 * math.pi) - math.pi)
            return (math.dist(pose[:3], seen[:3]) / 25) ** 2 + (turn / (math.pi / 8)) ** 2

        distances = [apart(seen) for seen in path.poses[: path.begin]]
        best = np.flatnonzero(np.array(distances) <= min(distances) + 1e-9)
        frames = path.frames[best]
        assert (frames == frames[0]).all()  # where two are equally near, they show the same
        return frames[0]

    shows = {
        Source("grey", "true"): lambda path, t: grey,
        Source("grey", "predicted"): lambda path, t: grey,
        Source(COPYING): lambda path, t: path.frames[path.begin - 1],
        Source(MEAN): lambda path, t: mean_frame,
        Source(NEAREST): lambda path, t: nearest(path, path.poses[t]),
    }
    values = {
        source: [[plain_psnr(show(p, t), p.frames[t]) for t in range(p.begin, len(p.frames))] for p in paths]
        for source, show in shows.items()
    }
    greys = values[Source("grey", "true")]
    for source, rows in values.items():
        score = find(report, source, "ABCA", 15)
        thirds = [row[-math.ceil(len(row) / 3) :] for row in rows]
        assert score.whole.estimate == pytest.approx(np.mean([np.mean(row) for row in rows]), abs=1e-4)
        assert score.last_third.estimate == pytest.approx(np.mean([np.mean(row) for row in thirds]), abs=1e-4)
        expected = bootstrap([np.mean(row) for row in rows], [p.map_seed for p in paths], seed=4)
        assert (score.whole.low, score.whole.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
        for k in range(1, 31):
            there = [row[-k] for row in rows if len(row) >= k]
            assert score.curve.mean[-k] == pytest.approx(np.mean(there) if there else np.nan, abs=1e-4, nan_ok=True)
        if source.poses is None:
            gaps = [np.mean(row) - np.mean(other) for row, other in zip(rows, greys, strict=True)]
            assert score.whole_difference and score.whole_difference.estimate == pytest.approx(np.mean(gaps), abs=1e-4)
        else:
            assert score.whole_difference is score.last_third_difference is None
    better = find(report, Source("exact", "predicted"), "ABCA", 15).whole_difference
    assert better and better.estimate == pytest.approx(
        PSNR_CEILING - np.mean([np.mean(row) for row in greys]), abs=1e-4
    )


def test_a_world_that_cannot_turn_is_lost_unless_it_is_told_where_it_is(report: ReturnReport) -> None:
    assert find(report, Source("deaf", "true")).whole.estimate == PSNR_CEILING
    assert find(report, Source("deaf", "predicted")).whole.high < PSNR_CEILING - 10
    true_end = [path.poses[-1] for path in toy_paths()]
    left_at = [path.poses[path.begin - 1] for path in toy_paths()]
    turned = [abs((a[3] - b[3] + math.pi) % (2 * math.pi) - math.pi) for a, b in zip(true_end, left_at, strict=True)]
    (drift,) = (d for d in report.drifts if d.world == "deaf" and d.radius is None)
    assert drift.heading.estimate == pytest.approx(np.degrees(np.mean(turned)), abs=1e-4)


def test_the_batch_size_changes_no_frame() -> None:
    assert len({path.length for path in toy_paths()}) > 3
    world = ToyWorld(ARENA, noise=3.0)

    def imagined(batch: int, paths: tuple[ReturnPath, ...]) -> dict[tuple[int, str], Any]:
        config = replace(CONFIG, batch=batch)
        return {(paths[i].index, mode): rest for i, mode, *rest in imagine_returns(world, paths, config)}

    together, few, alone = (imagined(batch, toy_paths()) for batch in (64, 5, 1))
    # Nor does it matter which other paths came back.
    some = imagined(2, toy_paths()[5:8])
    assert together.keys() == few.keys() == alone.keys() > some.keys()
    for other in (few, alone, some):
        for key, (frames, poses) in other.items():
            assert (frames == together[key][0]).all() and (poses == together[key][1]).all()
    # Noise there is, and a path's place gives it.
    path = toy_paths()[0]
    other = imagined(1, (replace(path, index=99),))[99, "predicted"][1]
    assert (together[path.index, "predicted"][1] != path.poses[path.begin :]).any()
    assert (together[path.index, "predicted"][1] != other).any()


def test_the_return_legs_share_their_batches() -> None:
    world, lengths = ToyWorld(ARENA), [path.length for path in toy_paths()]
    list(imagine_returns(world, toy_paths(), replace(CONFIG, batch=64, poses="true")))
    assert world.imagined_batches == [sum(n > t for n in lengths) for t in range(max(lengths))]


def test_walks_that_get_stuck_are_counted(tmp_path: Path) -> None:
    report = return_test(
        {"exact": ToyWorld(ARENA)}, replace(CONFIG, pictures=0), tmp_path, make_env=lambda: OpenEnv(bad_map=MAPS[1])
    )  # fmt: skip
    assert [(cell.paths, cell.dropped) for cell in report.cells] == [(2, 1)] * 4 + [(8, 4)]
    assert "8 paths on 3 validation maps (4 walks got stuck)" in str(report)
    with pytest.raises(ConfigError, match="None of the 4 walks came back"):
        one = replace(CONFIG, maps=1)
        bad = int(np.random.default_rng(4).choice(np.arange(100_000, 200_000), 1, replace=False)[0])
        return_test({"exact": ToyWorld(ARENA)}, one, tmp_path, make_env=lambda: OpenEnv(bad_map=bad))


def test_the_report_is_json_with_its_pictures_beside_it(report: ReturnReport, out: Path) -> None:
    data = json.loads((out / "return.json").read_text(), parse_constant=pytest.fail)
    assert {p.name for p in out.iterdir()} == {*report.files, "return.json"}
    assert {"curves.png", "cells.png", "path-0.mp4", "path-0.gif", "strip-0.png", "map-0.png"} == set(data["files"])
    assert data["measures"]["psnr"] == "dB" and set(data["provenance"]) == {"grey", "exact", "deaf"}
    for name, reason in data["reasons"].items():
        assert data["measures"][name] == "unavailable" and f"{name.upper()}: unavailable. {reason}" in str(report)
    assert len(data["scores"]) == 5 * 9 * sum(unit != "unavailable" for unit in data["measures"].values())
    assert "another data set" in data["published_note"] and data["published_note"] in str(report)
    assert {"radius": 15, "model": "WorldPack", "aba": 0.57, "abca": 0.55} in data["published"]
    assert "WorldPack: range 5: ABA 0.52, ABCA 0.56" in str(report)
    assert len(iio.imread(out / "path-0.mp4", plugin="pyav")) == toy_paths()[0].length


def test_a_seed_repeats_the_report_and_another_does_not(tmp_path: Path) -> None:
    config = replace(CONFIG, pictures=0, maps=2, types=("ABA",), radii=(10,))
    first, second = (run(tmp_path, config, noisy=ToyWorld(ARENA, noise=3.0)) for _ in range(2))
    assert replace(first, provenance={}) == replace(second, provenance={})
    assert run(tmp_path, replace(config, seed=5)).cells != first.cells


def test_what_makes_no_test_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"types": ("ABA", "ABBA")}, "A path is 'ABA' or 'ABCA', not 'ABBA'"),
        ({"radii": (5, 0)}, "whole number of blocks, at least 1; got 0"),
        ({"radii": (-5,)}, "at least 1; got -5"),
        ({"radii": ()}, "radii needs at least one entry"),
        ({"types": ("ABA", "ABA")}, "none of them twice"),
        ({"split": "train"}, "not on 'train'"),
        ({"poses": "guessed"}, "not 'guessed'"),
        ({"maps": 0}, "maps must be at least 1"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigError, match=message):
            ReturnConfig(**arguments)
    with pytest.raises(ConfigError, match="not 'ABBA'"):
        record_path(OpenEnv(), "ABBA", 5, 100_000)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs worlds"):
        return_test({}, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="named otherwise"):
        run(tmp_path, **{MEAN: ToyWorld(ARENA)})
    with pytest.raises(ConfigError, match="ended after 9 frames"):
        record_path(OpenEnv(max_episode_steps=8), "ABA", 10, 100_000)
    with pytest.raises(ConfigError, match="draws frames"):
        run(tmp_path, small=ToyWorld(ToyArena(frame_size=(40, 40))))


def test_places_lie_at_the_radius_and_apart() -> None:
    for kind in TYPES:
        for distance in (50.0, 150.0):
            a, *others = choose_places(Open(), kind, distance, np.random.default_rng(3))
            assert len(others) == len(kind) - 2
            assert math.dist(a, others[0]) == pytest.approx(distance, rel=0.02)
            assert all(math.dist(a, place) == pytest.approx(distance, rel=0.15) for place in others)
            if kind == "ABCA":
                assert math.dist(*others) > distance


@pytest.fixture(scope="module")
def rooms() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(split="validation", max_steps=100_000)
    yield env
    env.close()


@pytest.mark.parametrize(
    ("kind", "radius", "map_seed"), [("ABA", 30, 100_003), ("ABCA", 15, 100_004), ("ABA", 5, 100_005)]
)
def test_real_paths_leave_and_come_back(rooms: DoomRoomsEnv, kind: Any, radius: int, map_seed: int) -> None:
    path = record_path(rooms, kind, radius, map_seed, seed=1)
    assert path and path.map_seed == map_seed and path.rooms == pytest.approx(radius / 20, rel=0.05)
    places, there = np.array(path.places), path.poses[:, :2]
    # It begins and ends at A, looking the same way, and turns once around there at both ends.
    assert np.allclose(there[0], places[0]) and math.dist(there[-1], places[0]) <= STEP_LENGTH
    assert math.cos(path.poses[-1, 3] - path.poses[0, 3]) == pytest.approx(1, abs=1e-6)
    for around in (path.poses[:16], path.poses[-16:]):
        assert np.ptp(around[:, :2], axis=0).max() < 1e-3
        assert len({round(float(yaw), 3) for yaw in around[:, 3]}) == 16
    # The exploration leg ends at the last place with a turn around, the return leg begins there.
    assert len(set(path.actions[path.begin - 16 : path.begin].tolist())) == 1
    assert math.cos(path.poses[path.begin - 17, 3] - path.poses[path.begin - 1, 3]) == pytest.approx(1, abs=1e-6)
    assert path.actions[path.begin - 1] in (5, 6) and path.actions[path.begin - 17] not in (5, 6)
    assert math.dist(there[path.begin - 1], places[-1]) <= STEP_LENGTH
    for place in places:
        assert np.linalg.norm(there[: path.begin] - place, axis=1).min() <= STEP_LENGTH
    assert np.linalg.norm(there[path.begin :] - places[-1], axis=1).max() > 0.5 * radius / 20 * 320
    if kind == "ABA":
        gaps = np.linalg.norm(there[path.begin :, None] - there[None, : path.begin], axis=-1).min(1)
        assert gaps.max() <= 1.5 * STEP_LENGTH and np.median(gaps) <= 0.6 * STEP_LENGTH
    # Frames, poses and actions belong together: the actions lead along the poses, from which the frames are seen.
    rooms.reset(seed=0, options={"map_seed": map_seed, "pose": path.poses[0]})
    for t in range(1, len(path.frames)):
        frame, _, _, _, info = rooms.step(int(path.actions[t]))
        assert np.allclose(info["pose"], path.poses[t]) and (frame == path.frames[t]).all()


def test_a_real_path_repeats_and_its_seed_matters(rooms: DoomRoomsEnv) -> None:
    first, second, other = (record_path(rooms, "ABCA", 5, 100_001, seed=seed) for seed in (0, 0, 1))
    assert first and second and other
    assert (first.frames == second.frames).all() and (first.actions == second.actions).all()
    assert first.begin == second.begin and first.places == second.places != other.places


def test_the_nearest_seen_frame_is_the_one_a_search_finds(rooms: DoomRoomsEnv) -> None:
    path = record_path(rooms, "ABCA", 15, 100_002)
    assert path
    found = path.nearest_seen(rooms.action_spec)
    assert found.shape == (path.length,) and found.max() < path.begin

    def apart(t: int, i: int) -> float:
        a, b = path.poses[t], path.poses[i]
        angle = math.acos(max(-1.0, min(1.0, math.cos(a[3] - b[3]))))
        return math.hypot(math.dist(a[:3], b[:3]) / 25, angle / (math.pi / 8))

    for t in range(path.begin, len(path.frames)):
        best = min(apart(t, i) for i in range(path.begin))
        assert apart(t, int(found[t - path.begin])) == pytest.approx(best, abs=1e-6)


def test_a_world_that_knows_nothing_is_tested_in_the_real_rooms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    world = WorldModel(preset("tiny", DoomRoomsEnv().action_spec))
    config = ReturnConfig(maps=1, types=("ABA",), radii=(5,), poses="true", pictures=1)
    report = return_test({"untrained": world}, config, tmp_path)
    assert report.cells[-1].paths == 1 and not report.drifts
    ours, memory = (find(report, source).whole.estimate for source in (Source("untrained", "true"), Source(NEAREST)))
    assert ours < memory and math.isnan(find(report, Source(NEAREST)).whole.low)  # one map tells no interval
    assert (tmp_path / "map-0.png").exists()
