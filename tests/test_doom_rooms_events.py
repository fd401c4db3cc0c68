"""Events in DoomRooms: things change by walking and by nothing else, stay changed, and a reset restores them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldloop.envs.collecting import CollectConfig, record_map
from worldloop.envs.doom_rooms.env import EYE_HEIGHT, DoomRoomsEnv
from worldloop.envs.doom_rooms.events import ITEM_REACH, OPEN_REACH, add_things
from worldloop.envs.doom_rooms.layout import Item, Leaf, generate
from worldloop.envs.doom_rooms.wad import textmap
from worldloop.envs.event_explorer import EventExplorer, things_of
from worldloop.envs.explorers import WaypointExplorer
from worldloop.errors import ConfigError, DataError

NOOP, FORWARD = 0, 1
MAP = 3


@pytest.fixture(scope="module")
def env() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(events=True)
    yield env
    env.close()


def before(env: DoomRoomsEnv, index: int, distance: float) -> np.ndarray:
    """A pose so far west or south of a thing (as one passes through a door) and facing it, with free floor ahead."""
    thing = env.layout.things[index]
    door = env.layout.doors[thing.door] if isinstance(thing, Leaf) else None
    for yaw in (0.0, math.pi / 2, math.pi, -math.pi / 2):
        x, y = thing.x - distance * math.cos(yaw), thing.y - distance * math.sin(yaw)
        along = door is None or abs(math.cos(yaw)) == pytest.approx(float(env.layout.is_vertical(door)), abs=1e-9)
        ahead = [distance - 25 * i for i in range(int((distance - 20) // 25) + 1)]
        clear = all(env.layout.clear(thing.x - d * math.cos(yaw), thing.y - d * math.sin(yaw), 1.0) for d in ahead)
        if along and clear:
            return np.array([x, y, EYE_HEIGHT, yaw, 0.0])
    raise AssertionError("no way to the thing")


def reachable(env: DoomRoomsEnv, kind: type, distance: float) -> tuple[int, np.ndarray]:
    for index, thing in enumerate(env.layout.things):
        if isinstance(thing, kind):
            try:
                return index, before(env, index, distance)
            except AssertionError:
                continue
    raise AssertionError("no such thing can be reached")


# Worlds without events are what they were


def test_maps_without_events_are_written_as_ever() -> None:
    """Hashes of the text that the engine was given before there were events."""
    for seed, digest in ((0, "7020ff1a5b35e12b"), (7, "1488bf1176ef4129"), (100_003, "a01c631043f4d510")):
        assert hashlib.sha256(textmap(generate(seed))).hexdigest()[:16] == digest


def test_events_add_things_and_change_nothing_else(env: DoomRoomsEnv) -> None:
    plain = DoomRoomsEnv()
    _, info = plain.reset(seed=1, options={"map_seed": MAP})
    assert "events" not in info and plain.layout.things == () and plain.generator_version == "1"
    env.reset(seed=1, options={"map_seed": MAP})
    assert env.layout.rooms == plain.layout.rooms and env.layout.props == plain.layout.props
    assert env.layout.doors == plain.layout.doors and env.layout.goal == plain.layout.goal
    # The slab's line stays in the map, so that edges may fall on other pixels; nothing else may differ.
    everything = range(len(env.layout.things))
    for _ in range(10):
        pose = np.array([*plain.layout.random_position(plain.np_random), EYE_HEIGHT, plain.np_random.uniform(-3, 3), 0])
        difference = np.abs(plain.render_at(pose).astype(int) - env.render_at(pose, everything)).max(-1)
        assert (difference > 48).mean() < 0.01 and (difference > 0).mean() < 0.05
    plain.close()


# Where things are


def test_things_lie_where_one_can_walk_and_depend_on_the_seed_alone() -> None:
    doors = shut = 0
    for seed in range(60):
        layout = add_things(generate(seed))
        assert layout == add_things(generate(seed))
        assert layout.things != add_things(generate(seed + 1)).things
        for thing in layout.things:
            if isinstance(thing, Item):
                assert layout.clear(thing.x, thing.y), "one can stand on it"
                assert all(math.dist((thing.x, thing.y), (d.x, d.y)) > 90 for d in layout.doors)
        items = [layout.room_of(t.x, t.y) for t in layout.things if isinstance(t, Item)]
        assert all(items.count(room) >= 2 for room in range(4))
        doors, shut = doors + len(layout.doors), shut + len(layout.things) - len(items)
    assert 0.55 < shut / doors < 0.78


def test_an_item_and_a_shut_door_fill_pixels_and_their_change_shows(env: DoomRoomsEnv) -> None:
    env.reset(seed=0, options={"map_seed": MAP})
    for kind, least in ((Item, 80), (Leaf, 150)):
        index, pose = reachable(env, kind, 125.0)
        shown, gone = env.render_at(pose), env.render_at(pose, {index})
        assert (np.abs(shown.astype(int) - gone).max(-1) > 24).sum() > least


# How they change


@pytest.mark.parametrize(("kind", "reach"), [(Item, ITEM_REACH), (Leaf, OPEN_REACH)])
def test_walking_there_changes_it_once_and_it_stays_so(env: DoomRoomsEnv, kind: type, reach: float) -> None:
    env.reset(seed=0, options={"map_seed": MAP})
    index, pose = reachable(env, kind, 125.0)
    _, info = env.reset(seed=0, options={"map_seed": MAP, "pose": pose})
    first = env.render_at(pose)
    thing = env.layout.things[index]
    assert info["events"] == 0 and env.changed == frozenset()
    while index not in env.changed:
        assert max(abs(env.pose[:2] - (thing.x, thing.y))) > reach
        frame, *_, info = env.step(FORWARD)
    assert max(abs(env.pose[:2] - (thing.x, thing.y))) <= reach + 1e-3
    assert info["events"] == len(env.changed) and env.layout.things[index].changed
    assert np.array_equal(frame, env.render_at(info["pose"])), "the frame returned shows the change"
    for _ in range(8):
        collided = env.step(2)[4]["collided"]
        if collided:
            break
    assert index in env.changed and not np.array_equal(env.render_at(pose), first)
    again = env.reset(seed=0, options={"map_seed": MAP, "pose": pose})
    assert np.array_equal(again[0], first) and again[1]["events"] == 0


def test_a_shut_door_bars_the_way_until_it_opens(env: DoomRoomsEnv) -> None:
    env.reset(seed=0, options={"map_seed": MAP})
    index, pose = reachable(env, Leaf, 125.0)
    thing = env.layout.things[index]
    inside = np.array([thing.x, thing.y, *pose[2:]])
    for refused in (env.set_pose, env.render_at):
        with pytest.raises(ValueError, match="does not fit"):
            refused(inside)
    assert env.render_at(inside, {index}).shape == (48, 64, 3), "open, one can stand in it"
    engine = env._live()
    assert not engine.place((round(thing.x * 65536), round(thing.y * 65536), 0)), "the engine itself bars it"
    env.set_pose(pose)
    for _ in range(6):
        collided = env.step(FORWARD)[4]["collided"]
        assert not collided, "it opens before one bumps into it"
    assert math.dist(env.pose[:2], pose[:2]) == pytest.approx(150, abs=0.1), "25 units past it"


def test_looking_from_a_pose_and_being_put_there_change_nothing(env: DoomRoomsEnv) -> None:
    env.reset(seed=0, options={"map_seed": MAP})
    start = env.pose
    saved, shown = env.save_state(), env.render_at(start)
    for index, thing in enumerate(env.layout.things):
        on_it = np.array([thing.x, thing.y, EYE_HEIGHT, 0.3, 0.0])
        if isinstance(thing, Item):
            env.render_at(on_it)
            env.set_pose(on_it)
        env.render_at(start, {index})
        env.render_path([start, start], range(index))
        assert env.changed == frozenset()
    env.set_pose(start)
    assert np.array_equal(env.render_at(start), shown)
    env.load_state(saved)
    assert env.save_state() == saved
    with pytest.raises(ValueError, match="things 0"):
        env.render_at(start, {99})
    assert env.save_state() == saved, "a refused look left a trace"


def test_a_twin_in_which_nothing_changed_shows_what_was_before(env: DoomRoomsEnv) -> None:
    """A picture of any state of things is that of an engine that came to that state by walking, to the last bit."""
    twin = DoomRoomsEnv(events=True)
    twin.reset(options={"map_seed": MAP})
    frame, info = env.reset(seed=3, options={"map_seed": MAP})
    explorer = EventExplorer()
    explorer.reset(env, np.random.default_rng(0))
    seen = []
    for _ in range(90):
        frame, *_, info = env.step(explorer.act(frame, info))
        seen.append((frame, info["pose"], env.changed))
    assert len(seen[-1][2]) >= 2
    for frame, pose, changed in seen[::6]:
        assert np.array_equal(twin.render_at(pose, changed), frame)
        if twin.layout.clear(*pose[:2], -0.1):
            assert np.array_equal(env.render_at(pose, ()), twin.render_at(pose))
    assert twin.changed == frozenset()
    twin.close()


def test_saved_states_carry_what_changed_and_episodes_repeat(env: DoomRoomsEnv) -> None:
    other = DoomRoomsEnv(events=True)
    runs = []
    for one in (env, other):
        frame, info = one.reset(seed=3, options={"map_seed": MAP})
        explorer = EventExplorer()
        explorer.reset(one, np.random.default_rng(1))
        digest = hashlib.sha256()
        for _ in range(60):
            frame, *_, info = one.step(explorer.act(frame, info))
            digest.update(frame.tobytes() + bytes([info["events"]]))
        runs.append(digest.hexdigest())
    assert runs[0] == runs[1] and env.changed == other.changed != frozenset()
    saved, changed = env.save_state(), env.changed
    other.reset(options={"map_seed": MAP + 1})
    frame, info = other.load_state(saved)
    assert other.changed == changed and info["events"] == len(changed)
    for action in (FORWARD, 5, FORWARD, FORWARD, NOOP):
        assert np.array_equal(env.step(action)[0], other.step(action)[0])
    plain = DoomRoomsEnv()
    with pytest.raises(DataError, match="environment with"):
        plain.load_state(saved)
    other.close()


def test_gymnasium_accepts_it() -> None:
    env = DoomRoomsEnv(events=True)
    check_env(env, skip_render_check=True)
    env.close()


# Walkers that make events worth remembering


def test_the_event_explorer_changes_more_than_a_walker_and_comes_back_to_look(env: DoomRoomsEnv) -> None:
    revisits, changes = 0, {"event": 0, "waypoint": 0}
    for map_seed in range(4):
        for explorer in (EventExplorer(), WaypointExplorer()):
            frame, info = env.reset(seed=map_seed, options={"map_seed": map_seed})
            explorer.reset(env, np.random.default_rng(map_seed))
            poses, changed = [info["pose"]], [env.changed]
            for _ in range(249):
                frame, *_, info = env.step(explorer.act(frame, info))
                poses.append(info["pose"])
                changed.append(env.changed)
            changes[explorer.name] += len(changed[-1])
            if explorer.name == "event":
                revisits += sum(came_back(env, poses, changed, i) for i in changed[-1])
    assert revisits >= 4, "about one a walk"
    assert changes["event"] >= changes["waypoint"]


def came_back(env: DoomRoomsEnv, poses: list[np.ndarray], changed: list[frozenset[int]], index: int) -> bool:
    """Whether the thing was in view before its change, and after 20 frames out of view since."""
    thing = env.layout.things[index]

    def in_view(pose: np.ndarray) -> bool:
        dx, dy = thing.x - pose[0], thing.y - pose[1]
        same_room = env.layout.room_of(*pose[:2]) == env.layout.room_of(thing.x, thing.y) or isinstance(thing, Leaf)
        turned = abs(math.remainder(math.atan2(dy, dx) - pose[3], 2 * math.pi))
        return same_room and 60 < math.hypot(dx, dy) < 320 and turned < math.pi / 5

    change = next(t for t, c in enumerate(changed) if index in c)
    views = [t for t, pose in enumerate(poses) if in_view(pose)]
    away = [b - a > 20 for a, b in zip([change, *views], views, strict=False) if a >= change]
    return any(t < change for t in views) and any(away)


def test_worlds_without_events_have_no_event_explorer() -> None:
    plain = DoomRoomsEnv()
    plain.reset(seed=0)
    with pytest.raises(ConfigError, match="events=True"):
        EventExplorer().reset(plain, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="events=True"):
        things_of(plain)
    plain.close()


def test_a_recording_with_events_says_so_and_one_without_is_described_as_ever(tmp_path: Path) -> None:
    plain = CollectConfig(tmp_path)
    assert set(plain.recipe) == {
        "first_map", "steps", "policy", "epsilon", "seed", "waypoint", "loop", "roam", "random", "goal_fraction"
    }  # fmt: skip
    assert plain.kwargs == {"task": "find", "level": "far"}
    config = CollectConfig(tmp_path, events=True, steps=60, waypoint=0, loop=0, roam=0, random=0, event=1)
    assert config.kwargs == plain.kwargs | {"events": True} and config.recipe["event"] == 1
    env = DoomRoomsEnv(**config.kwargs)
    (episode, *_) = record_map(env, config, 5)
    assert episode.policy == "event" and env.generator_version == "1+events-1"
    env.close()
