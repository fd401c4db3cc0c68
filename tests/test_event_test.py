"""The return test with events: its paths are what they claim on the real engine, its numbers those of a plain loop."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.doom_rooms.layout import Item
from worldloop.errors import ConfigError
from worldloop.evaluation import EventConfig, EventReport, event_test
from worldloop.evaluation.event_paths import EventPath, record_event_path, unchanged
from worldloop.evaluation.event_report import ALL, KNOWN, SINCE
from worldloop.evaluation.event_test import false_change, judge, look_again, since, squared_error
from worldloop.evaluation.return_report import MEAN, NEAREST
from worldloop.world_models.config import preset
from worldloop.world_models.world_model import WorldModel

CONFIG = EventConfig(maps=2, pictures=1, seed=3)
MAPS = range(100_003, 100_005)


@pytest.fixture(scope="module")
def rooms() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(split="validation", events=True, max_steps=10_000)
    yield env
    env.close()


@pytest.fixture(scope="module")
def paths(rooms: DoomRoomsEnv) -> list[EventPath]:
    walked = [record_event_path(rooms, kind, m, CONFIG) for m in MAPS for kind in CONFIG.kinds]
    found = [path for path in walked if isinstance(path, EventPath)]
    assert {path.kind for path in found} == {"item", "door"}
    return found


def test_a_thing_is_seen_before_and_after_left_alone_and_seen_again(paths: list[EventPath]) -> None:
    for path in paths:
        many = path.region.sum((1, 2)) >= CONFIG.pixels
        assert many[: path.change].any() and many[path.change : path.begin].any() and many[path.begin :].any()
        assert not path.region[path.begin - CONFIG.away : path.begin].any()
        assert isinstance(path.layout.things[path.thing], Item) == (path.kind == "item")  # type: ignore[attr-defined]
        assert math.dist(path.poses[-1, :2], path.poses[0, :2]) < 25, "it is back at A"


def test_truth_and_its_other_state_are_what_a_second_engine_shows(paths: list[EventPath]) -> None:
    """The walk is done again, step by step, in an engine of its own; there the one thing is put back by hand."""
    env = DoomRoomsEnv(split="validation", events=True, max_steps=10_000)
    for path in paths[:2]:
        frame, _ = env.reset(options={"map_seed": path.map_seed, "pose": path.poses[0]})
        for t in range(len(path.frames)):
            if t:
                frame = env.step(path.actions[t].item())[0]
            assert np.array_equal(frame, path.frames[t])
            assert (path.thing in env.changed) == (t >= path.change)
            if t >= path.begin and t % 9 == 0 and path.region[t].any():
                other = env.render_at(path.poses[t], env.changed - {path.thing})
                assert np.array_equal(other, path.other[t])
                pixels = [(y, x) for y in range(48) for x in range(64) if differ(frame[y, x], other[y, x])]
                assert pixels == list(map(tuple, np.argwhere(path.region[t]).tolist()))
    env.close()


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return any(abs(int(p) - int(q)) > CONFIG.threshold for p, q in zip(a, b, strict=True))


def test_the_same_arguments_walk_the_same_path_and_another_seed_does_not(rooms: DoomRoomsEnv) -> None:
    def walked(seed: int) -> Any:
        path = record_event_path(rooms, "item", MAPS[0], EventConfig(seed=seed))
        return path.poses.tobytes() + path.frames.tobytes() if isinstance(path, EventPath) else path

    assert walked(3) == walked(3) != walked(4)


def test_showing_the_present_is_remembering_and_showing_the_past_is_not(paths: list[EventPath]) -> None:
    spec = DoomRoomsEnv().action_spec
    for path in paths:
        look = look_again(path, spec, CONFIG)
        now, past = path.frames[path.begin :], path.other[path.begin :]
        assert judge(look, now)["remembered"].all() and (judge(look, now)["region"] == 60).all()
        assert not judge(look, past)["remembered"].any()
        assert (judge(look, past)["outside"] > judge(look, past)["region"]).all()


def test_the_control_is_the_walk_with_the_one_thing_left_alone(paths: list[EventPath]) -> None:
    """Where it exists it is what a second engine shows; where it does not, the walk leads through the shut door."""
    env = DoomRoomsEnv(split="validation", events=True, max_steps=10_000)
    controls = {path.kind: unchanged(path) for path in paths}
    assert controls["item"] is not None
    for path in paths:
        env.reset(options={"map_seed": path.map_seed, "pose": path.poses[0]})
        changed, blocked, control = [env.changed], 0, unchanged(path)
        for action in path.actions[1:]:
            env.step(action.item())
            changed.append(env.changed)
        for t in range(0, len(path.frames), 7 if control else 1):
            try:
                left_alone = env.render_at(path.poses[t], changed[t] - {path.thing})
            except ValueError:
                blocked += 1
                continue
            if control is not None:
                assert np.array_equal(left_alone, control.frames[t])
        assert (control is None) == (blocked > 0)
    env.close()


def test_a_change_is_false_where_the_control_shows_it(paths: list[EventPath]) -> None:
    spec = DoomRoomsEnv().action_spec
    for path in paths:
        look, control = look_again(path, spec, CONFIG), unchanged(path)
        if control is None:
            continue
        assert not false_change(look, control, control.frames[path.begin :]).any()
        assert false_change(look, control, path.frames[path.begin :]).all()


def test_quantities_are_those_of_a_plain_loop(paths: list[EventPath]) -> None:
    path, rng = paths[0], np.random.default_rng(0)
    look = look_again(path, DoomRoomsEnv().action_spec, CONFIG)
    shown = rng.integers(0, 256, path.frames[path.begin :].shape, dtype=np.uint8)
    found = judge(look, shown)
    for k, t in enumerate(look.times[:3].tolist()):
        errors: dict[str, list[int]] = {"now": [], "before": [], "outside": []}
        for y in range(48):
            for x in range(64):
                now, past = (
                    sum((int(a) - int(b)) ** 2 for a, b in zip(shown[t, y, x], true[path.begin + t, y, x], strict=True))
                    for true in (path.frames, path.other)
                )
                if path.region[path.begin + t, y, x]:
                    errors["now"].append(now)
                    errors["before"].append(past)
                else:
                    errors["outside"].append(now)
        mean = {name: sum(all_) / len(all_) / 3 for name, all_ in errors.items()}
        assert found["remembered"][k] == (mean["now"] < mean["before"])
        assert found["region"][k] == pytest.approx(10 * math.log10(255**2 / mean["now"]))
        assert found["outside"][k] == pytest.approx(10 * math.log10(255**2 / mean["outside"]))


def test_where_nothing_is_there_is_no_error_to_tell() -> None:
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    assert math.isnan(squared_error(frames, frames, np.zeros((1, 2, 2), np.bool_))[0])


def test_a_view_is_known_if_it_was_seen_since_the_change(paths: list[EventPath]) -> None:
    spec = DoomRoomsEnv().action_spec
    known: list[bool] = []
    for path in paths:
        look = look_again(path, spec, CONFIG)
        for t, is_known in zip(look.times.tolist(), look.known.tolist(), strict=True):
            x, y, _, yaw, _ = path.poses[path.begin + t]
            near = [
                math.hypot(math.dist((x, y), p[:2]) / 25, math.remainder(yaw - p[3], 2 * math.pi) / (math.pi / 8))
                for p in path.poses[path.change : path.begin]
            ]
            assert is_known == (min(near) <= 1 + 1e-3)
            known.append(is_known)
        assert since(path).nearest_seen(spec).max() < path.begin - path.change
    assert any(known) and not all(known)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def report(out: Path) -> EventReport:
    torch.manual_seed(0)
    world = WorldModel(preset("tiny", DoomRoomsEnv().action_spec))
    return event_test({"untrained": world, "again": world}, CONFIG, out)


def test_a_world_that_knows_nothing_is_tested_in_the_real_rooms(report: EventReport, out: Path) -> None:
    cells = {cell.kind: cell for cell in report.cells}
    assert cells[ALL].frames == cells["item"].frames + cells["door"].frames >= cells[KNOWN].frames > 0
    assert cells[ALL].paths + len(report.dropped) == 2 * CONFIG.maps
    values = {(s.kind, s.quantity, s.source): s.value for s in report.scores}
    assert values[ALL, "remembered", SINCE].estimate > values[ALL, "remembered", NEAREST].estimate
    assert 0 < cells["item"].controls == cells["item"].paths
    assert values["item", "false_change", SINCE].n == cells["item"].frames > 0
    assert values["item", "false_change", SINCE].estimate < values["item", "remembered", SINCE].estimate
    assert cells["door"].controls or values["door", "false_change", SINCE].n == 0
    assert values[ALL, "region", "untrained"].estimate < values[ALL, "region", SINCE].estimate
    assert {source for _, _, source in values} == {"untrained", "again", MEAN, NEAREST, SINCE}
    same = [s.difference for s in report.scores if s.source == "again"]
    assert all(d is not None and (d.estimate == 0 or math.isnan(d.estimate)) for d in same)
    written = json.loads((out / "events.json").read_text())
    assert written["files"] == ["strip-0.png"] and (out / "strip-0.png").exists()
    assert "share of frames nearer to now" in str(report)


def test_what_makes_no_test_is_refused(tmp_path: Path) -> None:
    for wrong in (
        {"maps": 0}, {"away": 0}, {"pixels": 0}, {"batch": 0}, {"threshold": 255}, {"split": "train"},
        {"kinds": ()}, {"kinds": ("item", "item")}, {"kinds": ("wall",)},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            EventConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="named otherwise"):
        event_test({}, CONFIG, tmp_path)
    world = WorldModel(preset("tiny", DoomRoomsEnv().action_spec))
    with pytest.raises(ConfigError, match="named otherwise"):
        event_test({SINCE: world}, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="events=True"):
        event_test({"world": world}, CONFIG, tmp_path, make_env=lambda: DoomRoomsEnv(split="validation"))
