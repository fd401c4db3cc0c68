"""Retention against time away: on an exact world, where the answer is known, and on one real map."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_return_test import ARENA, Grey, Open, OpenEnv
from toy_world import KEYS, ToyWorld

from worldloop.envs.doom_rooms.env import STEP_LENGTH, DoomRoomsEnv
from worldloop.errors import ConfigError
from worldloop.evaluation import RetentionConfig, RetentionReport, retention
from worldloop.evaluation.metrics import PSNR_CEILING, bootstrap, psnr
from worldloop.evaluation.retention import RetentionPath, imagine_turn, record_retention_path
from worldloop.evaluation.retention_report import Retained
from worldloop.evaluation.return_report import COPYING, MEAN, NEAREST
from worldloop.world_models.config import preset
from worldloop.world_models.memory.packing import PACKINGS
from worldloop.world_models.world_model import WorldModel

CONFIG = RetentionConfig(maps=3, away=(60, 120), seed=4, lately_distance=60)
MAPS = np.random.default_rng(4).choice(np.arange(100_000, 200_000), 3, replace=False).tolist()


class Halves(Open):
    """A map of two rooms without a wall between them."""

    def room_of(self, x: float, y: float) -> int:
        return int(x > ARENA.size / 2)


class HalvesEnv(OpenEnv):
    layout = Halves()


class Counting(ToyWorld):
    """Counts the frames it is shown."""

    def __init__(self) -> None:
        super().__init__(ARENA)
        self.chunks: list[int] = []

    def observe(self, state: Any, frames: Any, actions: Any, poses: Any) -> Any:
        self.chunks.append(len(frames[0]))
        return super().observe(state, frames, actions, poses)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retention")


@pytest.fixture(scope="module")
def report(out: Path) -> RetentionReport:
    return run(out, grey=Grey(ARENA), exact=ToyWorld(ARENA))


def run(out: Path, config: RetentionConfig = CONFIG, **worlds: ToyWorld) -> RetentionReport:
    return retention(worlds or {"exact": ToyWorld(ARENA)}, config, out, make_env=HalvesEnv)


def toy_path(map_seed: int, away: int, arrival: Any = "backward", index: int = 0) -> RetentionPath:
    path = record_retention_path(HalvesEnv(), away, map_seed, arrival, seed=4, index=index)
    assert path is not None
    return path


def find(report: RetentionReport, source: str, away: int, measure: str = "psnr") -> Retained:
    (found,) = (s for s in report.scores if (s.away, s.measure, s.source) == (away, measure, source))
    return found


def plainly_unseen(path: RetentionPath, config: RetentionConfig) -> list[bool]:
    """Frame by frame: the nearest of the last real frames looks elsewhere or is far."""
    unseen = []
    for pose in path.poses[path.begin :]:
        apart = []
        for seen in path.poses[max(0, path.begin - config.lately) : path.begin]:
            angle = abs((pose[3] - seen[3] + math.pi) % (2 * math.pi) - math.pi)
            distance = math.dist(pose[:3], seen[:3])
            apart.append((math.hypot(distance / 25, angle / (math.pi / 8)), angle, distance))
        _, angle, distance = min(apart)
        unseen.append(math.degrees(angle) > config.lately_angle or distance > config.lately_distance)
    return unseen


def test_an_exact_world_is_perfect_however_long_it_was_away(report: RetentionReport) -> None:
    for away in CONFIG.away:
        score = find(report, "exact", away)
        assert score.turn.estimate == score.unseen.estimate == PSNR_CEILING
        assert find(report, "exact", away, "ssim").turn.estimate == pytest.approx(1, abs=1e-3)
        assert all(find(report, name, away).turn.high < PSNR_CEILING for name in ("grey", COPYING, MEAN))
    assert report.sources == ("grey", "exact", COPYING, MEAN, NEAREST)


def test_scores_are_those_of_a_plain_loop(report: RetentionReport) -> None:
    for away in CONFIG.away:
        paths = [toy_path(m, away) for m in MAPS]
        masks = [np.array(plainly_unseen(path, CONFIG)) for path in paths]
        assert all(mask.any() for mask in masks) and not all(mask.all() for mask in masks)
        turns = [path.frames[path.begin :] for path in paths]
        copied = [psnr(p.frames[[p.begin - 1] * p.length], true) for p, true in zip(paths, turns, strict=True)]
        grey = [psnr(np.full_like(true, 128), true) for true in turns]
        for source, values in ((COPYING, copied), ("grey", grey)):
            score = find(report, source, away)
            assert score.turn == bootstrap([v.mean() for v in values], MAPS, seed=4)
            rest = [v[mask].mean() for v, mask in zip(values, masks, strict=True)]
            assert score.unseen == bootstrap(rest, MAPS, seed=4)
        gains = find(report, COPYING, away).turn_difference
        assert gains and gains.estimate == pytest.approx(
            np.mean([c.mean() - g.mean() for c, g in zip(copied, grey, strict=True)])
        )
        assert find(report, "grey", away).turn_difference is find(report, "grey", away).unseen_difference is None
        (cell,) = (c for c in report.cells if c.away == away)
        assert (cell.paths, cell.dropped) == (3, 0) and cell.frames == 16
        assert cell.unseen == pytest.approx(np.mean([mask.sum() for mask in masks]))
        assert cell.gap == pytest.approx(np.mean([len(p.frames) - 33 for p in paths])) and cell.gap >= away


def test_a_path_turns_at_a_stays_away_so_long_and_turns_at_a_again() -> None:
    for map_seed in MAPS:
        path = toy_path(map_seed, 120)
        assert path.length == 16 and path.away == 120 and path.begin >= 17 + 120
        for around in (path.poses[:17], path.poses[path.begin - 1 :]):
            assert np.ptp(around[:, :2], axis=0).max() == 0
            assert len({round((yaw - around[0, 3]) / (math.pi / 8)) % 16 for yaw in around[:, 3]}) == 16
        assert math.dist(path.poses[-1, :2], path.places[0]) <= 0.6 * 25 + 1e-6
        home = path.places[0][0] > ARENA.size / 2
        away = path.poses[17 : path.begin, 0] > ARENA.size / 2
        assert path.elsewhere == pytest.approx(np.mean(away != home)) and path.elsewhere > 0.5
        # Every heading of the second turn was seen in the first.
        gaps = [min(abs(math.sin((a - b) / 2)) for b in path.poses[:17, 3]) for a in path.poses[path.begin :, 3]]
        assert max(gaps) < 1e-6


def test_one_may_come_back_backward_or_forward() -> None:
    for arrival, sign in (("backward", -1), ("forward", 1)):
        path = toy_path(MAPS[0], 120, arrival)
        moved = path.poses[path.begin - 1, :2] - path.poses[path.begin - 3, :2]
        ahead = np.array([math.cos(path.poses[path.begin - 1, 3]), math.sin(path.poses[path.begin - 1, 3])])
        assert sign * float(moved @ ahead) > 0


def test_times_away_share_the_place_and_differ_in_the_walk() -> None:
    short, long, again, other = (toy_path(MAPS[k], away) for k, away in ((0, 60), (0, 120), (0, 120), (1, 120)))
    assert short.places[0] == long.places[0] != other.places[0]
    assert (long.poses == again.poses).all() and (long.frames == again.frames).all()
    assert (short.poses[0] == long.poses[0]).all() and len(short.frames) < len(long.frames)


def test_all_that_was_real_is_observed_in_chunks() -> None:
    world, path = Counting(), toy_path(MAPS[0], 120)
    imagine_turn(world, path, replace(CONFIG, chunk=50))
    assert sum(world.chunks) == path.begin and set(world.chunks[:-1]) == {50}
    whole, parts = (imagine_turn(ToyWorld(ARENA, noise=3.0), path, replace(CONFIG, chunk=n)) for n in (1000, 7))
    assert (whole == parts).all()


def test_the_report_is_json_with_its_figure_beside_it(report: RetentionReport, out: Path) -> None:
    data = json.loads((out / "retention.json").read_text(), parse_constant=pytest.fail)
    assert {p.name for p in out.iterdir()} == {"retention.json", "retention.png"}
    assert len(data["scores"]) == 2 * 5 * sum(unit != "unavailable" for unit in data["measures"].values())
    assert set(data["provenance"]) == {"grey", "exact"}
    text = str(report)
    assert "PSNR (dB), unseen lately" in text and "  120 steps away: 3 paths (0 walks got stuck)" in text
    assert str(find(report, "exact", 60).unseen_difference) in text


def test_where_nothing_was_unseen_lately_the_table_says_so(report: RetentionReport) -> None:
    nothing = bootstrap([math.nan], [0])
    soon = tuple(
        replace(score, unseen=nothing, unseen_difference=score.unseen_difference and nothing)
        if score.away == 60
        else score
        for score in report.scores
    )
    lines = str(replace(report, scores=soon)).splitlines()
    assert "nan" not in "".join(lines) and lines[-1].startswith("–: nothing")
    table = lines[lines.index(next(line for line in lines if line.startswith("PSNR (dB), unseen lately"))) + 1 :]
    assert table[0].startswith("  grey") and table[0].split()[1] == "–" and len(table[0].split()) == 5
    assert not str(report).splitlines()[-1].startswith("–")


def test_what_makes_no_test_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"maps": 0}, "maps must be at least 1"),
        ({"away": ()}, "at least one number of steps"),
        ({"away": (5, 0)}, "none below 1"),
        ({"away": (5, 5)}, "twice"),
        ({"split": "train"}, "not on 'train'"),
        ({"arrival": "flying"}, "not 'flying'"),
        ({"lately_angle": -1.0}, "at least 0"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigError, match=message):
            RetentionConfig(**arguments)
    with pytest.raises(ConfigError, match="needs worlds"):
        retention({}, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="named otherwise"):
        run(tmp_path, **{MEAN: ToyWorld(ARENA)})
    with pytest.raises(ConfigError, match="ended after 9 frames"):
        record_retention_path(OpenEnv(max_episode_steps=8), 60, 100_000)
    with pytest.raises(ConfigError, match="None of the 1 walks of 60 steps came back"):
        one = replace(CONFIG, maps=1, away=(60,))
        bad = int(np.random.default_rng(4).choice(np.arange(100_000, 200_000), 1, replace=False)[0])
        retention({"exact": ToyWorld(ARENA)}, one, tmp_path, make_env=lambda: OpenEnv(bad_map=bad))


@pytest.fixture(scope="module")
def rooms() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(split="validation", max_steps=100_000)
    yield env
    env.close()


def test_a_real_walk_stays_out_of_the_room_it_left(rooms: DoomRoomsEnv) -> None:
    path = record_retention_path(rooms, 200, 100_003, seed=1)
    assert path is not None
    layout = path.layout
    there = [layout.room_of(*p) for p in path.poses[17 : 17 + 200, :2]]
    home = layout.room_of(*path.places[0])
    first_out = next(i for i, room in enumerate(there) if room != home)
    assert first_out < 60 and home not in there[first_out:]
    # It comes back backward, and the turn shows more than that did.
    unseen = path.unseen(rooms.action_spec, RetentionConfig())
    assert unseen.tolist() == plainly_unseen(path, RetentionConfig()) and 6 <= unseen.sum() < 16
    assert math.dist(path.poses[-1, :2], path.places[0]) <= STEP_LENGTH
    # Nothing seen on the way is as near to the turn as what was seen at the beginning.
    assert (path.nearest_seen(rooms.action_spec)[unseen] <= 16).all()


def test_a_world_that_knows_nothing_is_tested_in_the_real_rooms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = preset("tiny", KEYS)
    packed = PACKINGS["tiny"]
    memory = replace(shape, cdit=replace(shape.cdit, context=packed.recent, retrieved=packed.retrieved))
    config = RetentionConfig(maps=1, away=(50,))
    report = retention({"untrained": WorldModel(memory)}, config, tmp_path)
    (cell,) = report.cells
    assert cell.paths == 1 and cell.gap >= 50 and cell.elsewhere > 0
    ours, real = (find(report, name, 50) for name in ("untrained", NEAREST))
    assert ours.turn.estimate < real.turn.estimate and math.isnan(real.turn.low)  # one map tells no interval
    assert ours.unseen.estimate < real.unseen.estimate
