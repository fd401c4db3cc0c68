"""DoomRooms on the real engine: the promises of an environment, exact revisits, tasks, and clean ends."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from patience import PATIENCE, wait_until
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import worldloop  # noqa: F401
from worldloop.envs.doom_rooms import engine as engine_module
from worldloop.envs.doom_rooms import tasks
from worldloop.envs.doom_rooms.env import EYE_HEIGHT, STEP_ANGLE, STEP_LENGTH, DoomRoomsEnv
from worldloop.envs.doom_rooms.frames import AreaFilter
from worldloop.envs.doom_rooms.home import sweep
from worldloop.envs.doom_rooms.layout import generate
from worldloop.errors import ConfigError, DataError, EngineError, WorldloopError

NOOP, FORWARD, BACK, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT = range(7)


@pytest.fixture(scope="module")
def env() -> Iterator[DoomRoomsEnv]:
    env = DoomRoomsEnv(task="explore")
    yield env
    env.close()


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([x, y, EYE_HEIGHT, yaw, 0.0])


def open_place(env: DoomRoomsEnv, map_seed: int, room: float) -> np.ndarray:
    """A pose with ``room`` units of free floor on every side."""
    env.reset(options={"map_seed": map_seed})
    rng = np.random.default_rng(0)
    while True:
        x, y = env.layout.random_position(rng)
        offsets = [(dx, dy) for dx in (-room, 0, room) for dy in (-room, 0, room)]
        if all(env.layout.clear(x + dx, y + dy, 2.0) for dx, dy in offsets):
            return pose(x, y, rng.uniform(-3, 3))


def play(env: DoomRoomsEnv, seed: int, steps: int = 12) -> str:
    """Hash of all that an episode shows."""
    env.action_space.seed(seed)
    frame, info = env.reset(seed=seed)
    digest = hashlib.sha256(frame.tobytes() + info["pose"].tobytes())
    for _ in range(steps):
        frame, reward, *_, info = env.step(env.action_space.sample())
        digest.update(frame.tobytes() + info["pose"].tobytes() + np.float64(reward).tobytes())
    return digest.hexdigest()


# An environment


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_gymnasium_and_sb3_accept_it(actions: str) -> None:
    env = gym.make("worldloop/DoomRooms-v0", task="find", level="near", actions=actions)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_sb3(env.unwrapped)
    env.close()


def test_the_same_seed_gives_the_same_episode_here_and_in_another_process(env: DoomRoomsEnv) -> None:
    here = [play(env, seed) for seed in (9, 11, 9)]
    assert here[0] == here[2] != here[1]
    code = "import test_doom_rooms as t; env = t.DoomRoomsEnv(); print(t.play(env, 11), t.play(env, 9)); env.close()"
    there = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert there.stdout.split() == [here[1], here[0]], there.stderr


def test_asking_for_what_does_not_exist_is_one_clear_sentence(env: DoomRoomsEnv) -> None:
    for wrong in (
        {"task": "fly"}, {"level": "here"}, {"split": "all"}, {"frame_size": (0, 64)}, {"max_steps": 0},
        {"render_mode": "ansi"}, {"rows": 0}, {"room_size": 100}, {"actions": "both"}, {"map_seeds": [150_000]},
        {"map_seeds": []}, {"frame_size": 64}, {"frame_size": (1201, 64)}, {"render_size": (48.5, 64)}, {"props": 7},
        {"task": "find", "level": "next", "rows": 1, "cols": 1},
    ):  # fmt: skip
        with pytest.raises(WorldloopError, match=r"^[A-Za-z].*\.$"):
            DoomRoomsEnv(**wrong)  # type: ignore[arg-type]
    env.reset(seed=0)
    with pytest.raises(ValueError, match="does not fit"):
        env.set_pose(pose(-500, 0, 0))
    with pytest.raises(ValueError, match="five finite numbers"):
        env.set_pose([0, 0, math.nan, 0, 0])
    with pytest.raises(ValueError, match="level"):
        env.render_at([160, 160, EYE_HEIGHT, 0, 0.5])
    for action in (7, -1, 1.5, None):
        with pytest.raises(ValueError, match=r"0 … 6 \(noop"):
            env.step(action)
    for options, says in (
        ({"map": 3}, "'map_seed' and 'pose'"), ({"map_seed": 300_000}, "0 … 299999"),
        ({"map_seed": 7, "pose": pose(-500, 0, 0)}, "does not fit"),
    ):  # fmt: skip
        with pytest.raises((ValueError, DataError), match=says):
            env.reset(options=options)
        with pytest.raises(ResetNeeded):
            env.step(NOOP)  # rather than go on with half of an old episode


def test_there_is_nothing_to_do_before_reset_and_after_close() -> None:
    env = DoomRoomsEnv(render_mode="rgb_array")
    calls = (
        lambda: env.step(NOOP), env.render, env.save_state, lambda: env.pose, lambda: env.render_at(pose(0, 0, 0))
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    env.reset(seed=0)
    state = env.save_state()
    env.close()
    env.close()
    for call in (*calls, env.reset, lambda: env.load_state(state)):
        with pytest.raises(ClosedEnvironmentError, match="make another one"):
            call()


# Exact motion


def test_steps_and_turns_are_as_long_as_they_say_and_undo_each_other(env: DoomRoomsEnv) -> None:
    start = open_place(env, 12, 60)
    for there, back, forward, left, turn in (
        (FORWARD, BACK, 1, 0, 0), (LEFT, RIGHT, 0, 1, 0), (TURN_LEFT, TURN_RIGHT, 0, 0, 1), (NOOP, NOOP, 0, 0, 0),
    ):  # fmt: skip
        before = env.set_pose(start)
        first = env.pose
        info = env.step(there)[4]
        c, s = math.cos(first[3]), math.sin(first[3])
        moved = [forward * c - left * s, forward * s + left * c, 0, 0, 0]
        expected = first + STEP_LENGTH * np.array(moved) + [0, 0, 0, turn * STEP_ANGLE, 0]
        np.testing.assert_allclose(info["pose"], expected, atol=1e-3)
        assert not info["collided"]
        frame, *_, info = env.step(back)
        assert np.array_equal(info["pose"], first) and np.array_equal(frame, before)


def test_sixteen_turns_close_exactly(env: DoomRoomsEnv) -> None:
    first, before = env.reset(seed=3)
    for _ in range(16):
        frame, _, _, _, after = env.step(TURN_LEFT)
    assert np.array_equal(first, frame)
    np.testing.assert_allclose(before["pose"], after["pose"], atol=1e-6)


def test_continuous_actions_scale_the_same_motion() -> None:
    env = DoomRoomsEnv(task="explore", actions="continuous")
    start = open_place(env, 12, 60)
    env.set_pose(start)
    env.step(np.array([0.5, -0.25, 0.75], np.float32))
    moved = env.pose - start
    c, s = math.cos(start[3]), math.sin(start[3])
    wanted = STEP_LENGTH * np.array([0.5 * c + 0.25 * s, 0.5 * s - 0.25 * c])
    np.testing.assert_allclose(moved[:2], wanted, atol=1e-3)
    np.testing.assert_allclose(moved[3], 0.75 * STEP_ANGLE, atol=1e-3)
    for action in ([0.0, 0.0], [2.0, 0.0, 0.0], [math.nan, 0.0, 0.0]):
        with pytest.raises(ValueError, match=r"each in \[-1, 1\]"):
            env.step(np.array(action))
    # Sliding along a wall must not depend on how long the map has been shown.
    slide, ends = np.array([0.3647037, -0.89235795, -0.5592803]), []
    for _ in range(3):
        env.reset(options={"map_seed": 1544, "pose": pose(631, 143, 1.73771261)})
        info = env.step(slide)[4]
        ends.append(info["pose"])
        assert info["collided"]
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[0], ends[2])
    assert not np.array_equal(ends[0][:2], [631, 143]), "stuck instead of sliding"
    env.close()


def test_walls_stop_the_player(env: DoomRoomsEnv) -> None:
    env.reset(seed=12)
    for heading in np.arange(4) * math.pi / 2:
        env.set_pose(pose(*env.layout.random_position(np.random.default_rng(1)), heading))
        for _ in range(40):
            x, y = env.pose[:2]
            collided = env.step(FORWARD)[4]["collided"]
            moved = math.dist((x, y), env.pose[:2])
            assert collided == (moved < STEP_LENGTH - 0.01) and env.layout.clear(*env.pose[:2], -0.5)
        assert collided and moved < 0.01


def test_a_pose_looks_the_same_whenever_it_is_seen(env: DoomRoomsEnv) -> None:
    env.reset(seed=4)
    seen = []
    for action in (FORWARD, TURN_LEFT, FORWARD, FORWARD, TURN_RIGHT, LEFT, BACK, TURN_LEFT):
        frame, _, _, _, info = env.step(action)
        seen.append((info["pose"], frame))
    for where, frame in seen:
        assert np.array_equal(env.render_at(where), frame)
    again = env.step(NOOP)[0]
    assert np.array_equal(again, seen[-1][1]), "render_at disturbed the episode"


def test_a_saved_state_continues_to_the_last_bit(env: DoomRoomsEnv) -> None:
    find = DoomRoomsEnv(task="find", level="far", shaping=True)
    find.reset(seed=5)
    for action in (FORWARD, TURN_LEFT, FORWARD):
        find.step(action)
    saved = find.save_state()

    def future(env: DoomRoomsEnv) -> list[Any]:
        steps = [env.step(a) for a in (FORWARD, LEFT, TURN_RIGHT, FORWARD)]
        return [*((f.tobytes(), r, done, cut) for f, r, done, cut, _ in steps), env.reset()[0].tobytes(), len(env.path)]

    first = future(find)
    other = DoomRoomsEnv(task="find", level="far", shaping=True)
    for continued in (find, other):
        frame, info = continued.load_state(saved)
        assert np.array_equal(info["pose"], continued.pose) and frame.shape == (48, 64, 3)
        assert future(continued) == first
    flipped = saved[:-9] + bytes([saved[-9] ^ 1]) + saved[-8:]
    for damaged in (b"", saved[:-5], saved + b" ", flipped, b"{}", b"\xff\xfe"):
        with pytest.raises(DataError, match="no state"):
            other.load_state(damaged)
    assert np.array_equal(other.step(NOOP)[0], find.step(NOOP)[0]), "a refused state left a trace"
    for stranger in (
        DoomRoomsEnv(task="find", level="far", shaping=True, cols=3),
        DoomRoomsEnv(),
        DoomRoomsEnv("return"),
    ):
        with pytest.raises(DataError, match="state is of an environment with"):
            stranger.load_state(saved)
    find.close()
    other.close()


# Tasks


@pytest.mark.parametrize(("level", "doors"), [("near", {0}), ("next", {1}), ("far", {0, 1, 2, 3})])
def test_find_starts_as_far_from_the_goal_as_its_level_says(level: str, doors: set[int]) -> None:
    env = DoomRoomsEnv(task="find", level=level)  # type: ignore[arg-type]
    seen = set()
    for seed in range(12):
        where = env.reset(seed=seed)[1]["pose"]
        away = env.layout.doors_away(env.layout.room_of(*env.layout.goal))
        seen.add(away[env.layout.room_of(*where[:2])])
        assert math.dist(where[:2], env.layout.goal) >= tasks.START_DISTANCE
    env.close()
    assert seen <= doors and (level != "far" or len(seen) > 1)


def test_reaching_the_goal_ends_the_episode_and_shaping_telescopes() -> None:
    plain, shaped = (DoomRoomsEnv(task="find", level="near", shaping=s) for s in (False, True))
    way = approach(plain)
    rewards: list[list[float]] = []
    for env in (plain, shaped):
        env.reset(options={"map_seed": 21, "pose": way})
        rewards.append([])
        terminated = False
        while not terminated:
            _, reward, terminated, truncated, info = env.step(FORWARD)
            rewards[-1].append(reward)
            assert not truncated and isinstance(terminated, bool) and isinstance(reward, float)
        assert info["success"]
        with pytest.raises(ResetNeeded):
            env.step(FORWARD)
    n = len(rewards[0])
    assert rewards[0] == [-tasks.STEP_COST] * (n - 1) + [1 - tasks.STEP_COST]
    extra = np.subtract(rewards[1], rewards[0])
    distance = math.dist(way[:2], plain.layout.goal) / plain.layout.room_size
    assert (extra * tasks.SHAPING_DISCOUNT ** np.arange(n)).sum() == pytest.approx(distance, abs=1e-6)
    plain.close()
    shaped.close()


def approach(env: DoomRoomsEnv) -> np.ndarray:
    """A pose 130 to 200 units from the goal, looking at it, with nothing between."""
    env.reset(options={"map_seed": 21})
    rng, (gx, gy) = np.random.default_rng(0), env.layout.goal
    while True:
        away, yaw = rng.uniform(130, 200), rng.uniform(-math.pi, math.pi)
        line = [(gx - d * math.cos(yaw), gy - d * math.sin(yaw)) for d in np.arange(60, away + 1, 5)]
        room = env.layout.room_of(gx, gy)
        if all(env.layout.clear(x, y, 12.0) and env.layout.room_of(x, y) == room for x, y in line):
            return pose(*line[-1], yaw)


def test_return_asks_to_leave_and_to_come_back_to_the_first_pose() -> None:
    env = DoomRoomsEnv(task="return", shaping=True)
    start = env.reset(seed=2)[1]["pose"]
    turned, around = tasks.RETURN_HEADING, np.arange(0, 2 * math.pi, 0.05)
    extras = []
    for distance, heading, done in (
        (tasks.RETURN_LEAVE - 2, 0.0, False), (0.0, 0.0, False),
        (tasks.RETURN_LEAVE + 2, 0.0, False), (0.0, math.pi, False), (tasks.RETURN_REACH + 2, 0.0, False),
        (tasks.RETURN_REACH - 2, turned + 0.02, False), (tasks.RETURN_REACH - 2, 0.02 - turned, True),
    ):  # fmt: skip
        ring = [start[:2] + distance * np.array([math.cos(a), math.sin(a)]) for a in around]
        x, y = next(place for place in ring if env.layout.clear(*place))
        env.set_pose(pose(x, y, start[3] + heading))
        _, reward, terminated, truncated, info = env.step(NOOP)
        assert (terminated, truncated, info["success"]) == (done, False, done)
        extras.append(reward - done + tasks.STEP_COST)
    assert extras[:2] == pytest.approx([0, 0]) and extras[2] < -0.5, "shaped only once the player has left"
    assert (extras * tasks.SHAPING_DISCOUNT ** np.arange(7)).sum() == pytest.approx(0), "a loop gains nothing"
    env.close()


def test_time_runs_out() -> None:
    env = DoomRoomsEnv(task="explore", max_steps=3)
    env.reset(seed=0)
    assert [env.step(NOOP)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    env.close()


# Pictures


def test_other_sizes_show_the_same_scene() -> None:
    small, large = DoomRoomsEnv(), DoomRoomsEnv(frame_size=(96, 128))
    a, b = (env.reset(seed=6)[0] for env in (small, large))
    assert b.shape == (96, 128, 3) and large.observation_space.contains(b)
    halved = b.astype(float).reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(halved - a).mean() < 6, "the same view at another size"
    small.close()
    large.close()


@pytest.mark.parametrize(("source", "target"), [((120, 160), (48, 64)), ((7, 9), (3, 5)), ((240, 320), (64, 64))])
def test_pixels_are_the_mean_of_their_area(source: tuple[int, int], target: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    height, width = source
    cut_h = min(height, max(target[0], round(width * target[0] / target[1])))
    cut_w = min(width, max(target[1], round(height * target[1] / target[0])))
    top, left = (height - cut_h) // 2, (width - cut_w) // 2
    part = picture[top : top + cut_h, left : left + cut_w].astype(float)

    def shares(n: int, m: int) -> np.ndarray:
        edges = list(itertools.pairwise(np.arange(m + 1) * n / m))
        return np.array([[max(0, min(b, i + 1) - max(a, i)) * m / n for i in range(n)] for a, b in edges])

    exact = np.einsum("yi,xj,ijc->yxc", shares(cut_h, target[0]), shares(cut_w, target[1]), part)
    assert np.abs(AreaFilter(source, target)(picture) - exact).max() <= 0.5 + 1e-9


def test_the_goal_cannot_be_missed(env: DoomRoomsEnv) -> None:
    find = DoomRoomsEnv(task="find", level="near")
    way = approach(find)
    frame = find.reset(options={"map_seed": 21, "pose": way})[0].astype(int)
    magenta = (frame[..., 0] > 200) & (frame[..., 1] < 80) & (frame[..., 2] > 200)
    assert magenta.sum() >= 30
    away = find.render_at(pose(*way[:2], way[3] + math.pi)).astype(int)
    assert not ((away[..., 0] > 200) & (away[..., 1] < 80) & (away[..., 2] > 200)).any()
    find.close()


def test_rendering_and_the_map_leave_the_observation_alone() -> None:
    env = DoomRoomsEnv(render_mode="rgb_array", render_size=(240, 320))
    frame = env.reset(seed=8)[0]
    picture = env.render()
    assert picture is not None and picture.shape == (240, 320, 3)
    shrunk = picture.astype(float).reshape(48, 5, 64, 5, 3).mean((1, 3))
    assert np.abs(shrunk - frame).mean() < 6
    first = env.map_picture((200, 300))
    assert first.shape == (200, 300, 3) and first.dtype == np.uint8
    while not env.step(FORWARD)[4]["collided"]:
        pass
    assert (env.map_picture((200, 300)) != first).any(), "the path is not on the map"
    assert np.array_equal(env.step(NOOP)[0], env.render_at(env.pose))
    env.close()


def test_a_window_shows_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    env = DoomRoomsEnv(render_mode="human")
    frame = env.reset(seed=0)[0]
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert shown.shape == (480, 640, 3) and np.array_equal(shown[5::10, 5::10], frame)
    frame = env.step(TURN_LEFT)[0]
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert np.array_equal(shown[5::10, 5::10], frame)
    env.close()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    env = DoomRoomsEnv(render_mode="human")
    with pytest.raises(ConfigError, match="screen"):
        env.reset(seed=0)
    env.close()


# Ends, clean and otherwise


def test_a_broken_map_and_a_dead_engine_are_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    env = DoomRoomsEnv()
    env.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "textmap", lambda layout: b'namespace="ZDoom"; linedef{v1=5;v2=6;')
        with pytest.raises(EngineError, match=r"map seed \d+"):
            env.reset(seed=1)
        with pytest.raises(EngineError):
            DoomRoomsEnv().reset(seed=1)
    frame = env.reset(seed=1)[0]
    engine = env._engine
    assert engine is not None and engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="reset"):
        for _ in range(20):
            env.step(FORWARD)
    assert np.array_equal(env.reset(seed=1)[0], frame)
    env.close()


CHILD = """
import json, sys, time
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.doom_rooms.home import EngineHome

def wait(home):
    print(json.dumps([str(home.path), json.loads((home.path / "engine.json").read_text())]), flush=True)
    if end.startswith("SIG"):
        time.sleep(60)

end = sys.argv[1]
if end == "SIGKILL at start":
    EngineHome.hide_shared_memory = wait
env = DoomRoomsEnv()
env.reset(seed=0)
try:
    wait(env._engine._home)
except KeyboardInterrupt:
    env.step(0)
if end == "error":
    raise RuntimeError("on purpose")
env.close()
"""
ENDS = {"close": 0, "error": 1, "SIGINT": 0, "SIGTERM": -15, "SIGKILL": -9, "SIGKILL at start": -9}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc and /dev/shm")
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_behind(end: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path,
        start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        home, engine = json.loads(child.stdout.readline())
        if end.startswith("SIG"):
            os.killpg(child.pid, getattr(signal, end.split()[0]))  # as a terminal does on Ctrl-C
        assert child.wait(PATIENCE) == ENDS[end]
    wait_until(lambda: not running(engine["pid"]))
    if end != "SIGKILL at start":
        assert not shared_memory(engine)
    if end in ("SIGTERM", "SIGKILL", "SIGKILL at start"):
        sweep()  # what the next engine's start does
    assert not Path(home).exists() and not shared_memory(engine)
    assert not any(tmp_path.iterdir()), "files in the working directory"


def shared_memory(engine: dict[str, Any]) -> list[Path]:
    return list(Path("/dev/shm").glob(f"ViZDoom*{engine['instance']}"))


FORK = """
import os, sys
import numpy as np
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
env = DoomRoomsEnv()
frame = env.reset(seed=0)[0]
child = os.fork()
if not child:
    same = np.array_equal(env.reset(seed=0)[0], frame)
    del env
    sys.exit(0 if same else 1)
status = os.waitpid(child, 0)[1]
env.step(0)
engine, home = env._engine.pid, env._engine._home.path
del env
print(status, os.path.exists(f"/proc/{engine}"), home.exists())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_forked_child_gets_an_engine_of_its_own_and_a_dropped_one_ends() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split() == ["0", "False", "False"], done.stderr


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# Maps


def test_every_room_can_be_reached_and_seeds_make_different_maps() -> None:
    layouts = [generate(seed, rows=2, cols=3) for seed in range(40)]
    for layout in layouts:
        assert sorted(layout.doors_away(0)) == list(range(6))
        assert layout.clear(*layout.random_position(np.random.default_rng(0)))
    assert len({layout.goal for layout in layouts}) > 30
    assert generate(7) == generate(7) != generate(8)
