"""Minecraft through MineDojo: its real Python stack, from action to picture, against a game of its protocol."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import collected, collected_after_a_kill, train_and_imagine
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from minedojo_server import GROUND, ITEMS, LAG, SNEAK, SPRINT, WALK, MineDojoServer
from patience import PATIENCE
from rollout_data import same
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from worldloop.envs.collecting import CollectConfig, record_map
from worldloop.envs.minedojo import MineDojoEnv
from worldloop.envs.minedojo_actions import CELLS, DISCRETE, Function, Gait, MineDojoAction, decode, encode, from_motion
from worldloop.envs.minedojo_game import MINECRAFT
from worldloop.envs.recording import RecordEpisodes
from worldloop.errors import ConfigError, DataError, EngineError
from worldloop.world_models.actions import key_class
from worldloop.world_models.pose import forward_vector, motion_between, move

NOOP_CELLS = (0, 0, 0, 12, 12, 0, 0, 0)
STANDING = GROUND + 1.62
KEYS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "use", "attack", "drop")


def cells(**changes: int) -> np.ndarray:
    """The no-op with some of its eight numbers changed, ``at3=7`` being the fourth."""
    vector = np.array(NOOP_CELLS)
    for name, value in changes.items():
        vector[int(name[2:])] = value
    return vector


def pressed(command: dict[str, str]) -> set[str]:
    return {key for key in KEYS if command[key] == "1"}


def act(env: MineDojoEnv, *names: str) -> np.ndarray:
    """Do the named actions; the pose after them."""
    for name in names:
        info = env.step(env.action_names.index(name))[4]
    return np.asarray(info["pose"])


@pytest.fixture
def server() -> Iterator[MineDojoServer]:
    with MineDojoServer() as server:
        yield server


# The codec and the frames of reference: MineDojo itself is not needed


@pytest.mark.parametrize("coordinate", range(len(CELLS)))
def test_every_cell_survives_decoding_and_encoding(coordinate: int) -> None:
    for value in range(CELLS[coordinate]):
        vector = cells(**{f"at{coordinate}": value})
        assert encode(decode(vector)).tolist() == vector.tolist()


def test_combinations_survive_decoding_and_encoding() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, CELLS, (3000, len(CELLS)))
    assert all(encode(decode(vector)).tolist() == vector.tolist() for vector in vectors)
    actions = {decode(vector) for vector in vectors}
    assert len(actions) == len({tuple(vector) for vector in vectors.tolist()})


@pytest.mark.parametrize(
    "vector",
    [np.zeros(7, int), np.array([3, *NOOP_CELLS[1:]]), np.array([-1, *NOOP_CELLS[1:]]), np.array(NOOP_CELLS, float)],
)
def test_what_is_no_action_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(ValueError, match="MineDojo action"):
        decode(vector)


@pytest.mark.parametrize("field", [{"forward": 2}, {"left": -2}, {"turn_left": 10}, {"look_up": 195}, {"item": 244}])
def test_fields_outside_their_range_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        MineDojoAction(**field)  # type: ignore[arg-type]


def test_camera_cells_are_fifteen_degrees_clockwise_and_downwards() -> None:
    for value in range(25):
        degrees = 15 * value - 180
        assert decode(cells(at4=value)).motion[3] == pytest.approx(-math.radians(degrees))
        assert decode(cells(at3=value)).motion[4] == pytest.approx(-math.radians(degrees))


def test_the_key_classes_of_worldplay_are_those_of_the_keys_pressed() -> None:
    for ahead, side, gait in itertools.product(range(3), range(3), range(4)):
        for pitch, yaw in itertools.product((11, 12, 13), repeat=2):
            action = decode((ahead, side, gait, pitch, yaw, 0, 0, 0))
            signs = ((0, 1, -1)[ahead], (0, 1, -1)[side], 12 - yaw, 12 - pitch)
            expected = sum((sign + 1) * 3**power for sign, power in zip(signs, (3, 2, 1, 0), strict=True))
            assert int(key_class(torch.tensor(action.motion))) == expected


def test_a_motion_names_its_action_again() -> None:
    for vector in itertools.product(range(3), range(3), range(4), (0, 5, 12, 24), (0, 11, 24)):
        action = decode((*vector, Function.CRAFT, 5, 7))
        back = from_motion(action.motion, Function.CRAFT, 5, 7)
        assert back.motion == pytest.approx(action.motion)
        assert (back.forward, back.left, back.function, back.item, back.slot) == (
            action.forward, action.left, Function.CRAFT, 5, 7,
        )  # fmt: skip


def test_speeds_are_those_of_the_game() -> None:
    for gait, speed in ((Gait.WALK, 4.317), (Gait.SNEAK, 1.295), (Gait.SPRINT, 5.612)):
        assert MineDojoAction(forward=1, gait=gait).motion[0] * 20 == pytest.approx(speed)
    assert MineDojoAction(left=1, gait=Gait.SPRINT).motion[1] * 20 == pytest.approx(4.317)
    diagonal = MineDojoAction(forward=1, left=-1).motion
    assert math.hypot(*diagonal[:2]) * 20 == pytest.approx(4.317)
    assert diagonal[1] < 0 < diagonal[0]


def test_canonical_poses_look_where_minecraft_looks() -> None:
    rng = np.random.default_rng(1)
    axes = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)  # canonical x, y, z in Minecraft's x, y, z
    assert np.linalg.det(axes) == pytest.approx(1)
    for _ in range(200):
        feet, yaw, pitch = rng.uniform(-100, 100, 3), rng.uniform(-1000, 1000), rng.uniform(-90, 90)
        # Minecraft's look: +z turned by pitch about x (nose down), then by yaw about y, clockwise from above.
        a, b = math.radians(pitch), math.radians(yaw)
        tilt = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        turn = np.array([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]])
        look = turn @ tilt @ np.array([0.0, 0.0, 1.0])
        pose = MINECRAFT.to_canonical([*feet, yaw, pitch])
        np.testing.assert_allclose(forward_vector(torch.tensor(pose)).numpy(), axes @ look, atol=1e-12)
        np.testing.assert_allclose(pose[:3], axes @ feet, atol=1e-12)
        assert -math.pi <= pose[3] < math.pi
        *place, back_yaw, back_pitch = MINECRAFT.from_canonical(pose)
        np.testing.assert_allclose(place, feet, atol=1e-9)
        assert math.cos(math.radians(back_yaw - yaw)) == pytest.approx(1)
        assert back_pitch == pytest.approx(pitch)


@pytest.mark.parametrize(
    ("yaw", "direction"), [(0, (0, -1)), (90, (-1, 0)), (180, (0, 1)), (270, (1, 0)), (-90, (1, 0)), (720, (0, -1))]
)
def test_south_west_north_and_east_lie_where_a_map_has_them(yaw: float, direction: tuple[int, int]) -> None:
    pose = MINECRAFT.to_canonical((0, 0, 0, yaw, 0))
    np.testing.assert_allclose([math.cos(pose[3]), math.sin(pose[3])], direction, atol=1e-12)


def test_without_minedojo_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minedojo", None)
    monkeypatch.setitem(sys.modules, "minedojo.sim", None)
    with pytest.raises(ConfigError, match=r"docs/minedojo\.md"):
        MineDojoEnv()


# The real stack, over the wire


@pytest.fixture
def env(server: MineDojoServer, stack: None) -> Iterator[MineDojoEnv]:
    env = MineDojoEnv(port=server.port, timeout=PATIENCE)
    yield env
    env.close()


@pytest.fixture
def full(server: MineDojoServer, stack: None) -> Iterator[MineDojoEnv]:
    server.full = True
    env = MineDojoEnv(actions="full", port=server.port, timeout=PATIENCE)
    env.reset(options={"map_seed": 1})
    yield env
    env.close()


@pytest.fixture(scope="session")
def stack() -> None:
    """MineDojo and all that it needs, or the test is skipped."""
    pytest.importorskip("minedojo", reason="MineDojo is not installed; docs/minedojo.md says how")


@pytest.mark.parametrize("actions", ["discrete", "full"])
def test_the_checkers_accept_it(server: MineDojoServer, stack: None, actions: Any) -> None:
    env = MineDojoEnv(actions, port=server.port, timeout=PATIENCE, render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    if actions == "discrete":
        check_env_sb3(env)
    env.close()


def test_observations_are_pictures_of_their_own(env: MineDojoEnv) -> None:
    first, info = env.reset(options={"map_seed": 3})
    assert first.shape == (48, 64, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert info["map_seed"] == 3
    kept = first.copy()
    second, reward, terminated, truncated, _ = env.step(env.action_names.index("turn_left"))
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert (second != first).any()
    np.testing.assert_array_equal(first, kept)


def test_the_picture_is_the_games_and_upright(env: MineDojoEnv, server: MineDojoServer) -> None:
    frame, _ = env.reset(options={"map_seed": 3})
    assert server.world is not None
    np.testing.assert_array_equal(frame, server.world.picture())
    assert frame[0, :, 2].mean() > frame[-1, :, 2].mean()  # The sky is bluer than the ground.
    act(env, "forward", "turn_left", "look_down")
    np.testing.assert_array_equal(env.set_pose(env.pose), server.world.picture())


def test_frame_size_is_height_by_width(server: MineDojoServer, stack: None) -> None:
    env = MineDojoEnv(frame_size=(32, 80), port=server.port, timeout=PATIENCE)
    frame, _ = env.reset(seed=0)
    assert frame.shape == env.observation_space.shape == (32, 80, 3)
    env.close()


def test_a_walk_on_the_map_ends_where_the_map_says(env: MineDojoEnv) -> None:
    start = env.reset(options={"map_seed": 5})[1]["pose"]
    x, y = start[:2]
    np.testing.assert_allclose(start[2:], [STANDING, -math.pi / 2, 0])  # Facing south, level.
    np.testing.assert_allclose(act(env, *["forward"] * 10), [x, y - 10 * WALK, STANDING, -math.pi / 2, 0])
    # Six turns to the left of 15° each: east.
    east = act(env, *["turn_left"] * 6, *["forward"] * 5)
    np.testing.assert_allclose(east, [x + 5 * WALK, y - 10 * WALK, STANDING, 0, 0], atol=1e-9)
    north = act(env, *["strafe_left"] * 10)
    np.testing.assert_allclose(north, [x + 5 * WALK, y, STANDING, 0, 0], atol=1e-9)
    np.testing.assert_allclose(act(env, "look_up", "look_up", "look_down")[3:], [0, math.radians(15)], atol=1e-9)
    np.testing.assert_allclose(act(env, *["look_up"] * 9)[4], math.pi / 2)  # The game stops there.
    assert act(env, "jump")[2] == pytest.approx(STANDING + 0.42)


@pytest.mark.parametrize("name", DISCRETE.names)
def test_named_actions_move_by_their_nominal_motion(env: MineDojoEnv, name: str) -> None:
    env.reset(options={"map_seed": 5})
    before = act(env, "turn_right", "turn_right")
    after = act(env, name)
    nominal = torch.tensor(DISCRETE.motion[DISCRETE.names.index(name)], dtype=torch.float64)
    np.testing.assert_allclose(after, move(torch.tensor(before), nominal).numpy(), atol=1e-9)


def test_full_turns_wrap_and_close(env: MineDojoEnv) -> None:
    start = env.reset(options={"map_seed": 2})[1]["pose"]
    yaws = [act(env, "turn_right")[3] for _ in range(24)]
    assert all(-math.pi <= yaw < math.pi for yaw in yaws)
    assert len(np.unique(np.round(yaws, 6))) == 24
    np.testing.assert_allclose(yaws[-1], start[3], atol=1e-9)


def test_a_pillar_comes_into_the_middle_when_the_canonical_pose_faces_it(
    env: MineDojoEnv, server: MineDojoServer
) -> None:
    env.reset(options={"map_seed": 6})
    assert server.world is not None
    x, z, colour = server.world.pillars[0]
    pillar = np.array([x, -z])
    for angle in np.linspace(-3, 3, 7):
        stand = pillar - 1.5 * np.array([math.cos(angle), math.sin(angle)])
        frame = env.set_pose([*stand, STANDING, angle, 0.0])
        np.testing.assert_array_equal(frame[20:28, 30:34].reshape(-1, 3), np.tile(colour, (32, 1)))
        # Turned to the left of it, it stands to the right.
        aside = env.set_pose([*stand, STANDING, angle + 0.6, 0.0])
        seen = (aside == np.array(colour)).all(-1)
        assert seen[:, 32:].sum() > seen[:, :32].sum()


@pytest.mark.parametrize("coordinate", [0, 1, 2])
def test_every_key_reaches_the_game(full: MineDojoEnv, server: MineDojoServer, coordinate: int) -> None:
    expected = [
        [set(), {"forward"}, {"back"}],
        [set(), {"left"}, {"right"}],
        [set(), {"jump"}, {"sneak"}, {"sprint"}],
    ][coordinate]
    for value, keys in enumerate(expected):
        full.step(cells(**{f"at{coordinate}": value}))
        assert pressed(server.steps[-1]) == keys
        assert server.steps[-1]["camera"] == "0.0 0.0"


@pytest.mark.parametrize("coordinate", [3, 4])
def test_every_camera_cell_turns_the_camera(full: MineDojoEnv, server: MineDojoServer, coordinate: int) -> None:
    for value in range(25):
        full.set_pose([0.0, 0.0, STANDING, 0.5, 0.0])
        info = full.step(cells(**{f"at{coordinate}": value}))[4]
        degrees = 15 * value - 180
        words = [float(word) for word in server.steps[-1]["camera"].split()]
        assert words == ([degrees, 0] if coordinate == 3 else [0, degrees])
        pitch = max(-90, min(90, degrees)) if coordinate == 3 else 0
        yaw = 0.5 - (math.radians(degrees) if coordinate == 4 else 0)
        np.testing.assert_allclose(info["pose"][4], -math.radians(pitch), atol=1e-6)
        np.testing.assert_allclose(np.exp(1j * info["pose"][3]), np.exp(1j * yaw), atol=1e-6)


def test_combined_keys_move_by_the_nominal_motion_along_the_new_heading(full: MineDojoEnv) -> None:
    for ahead, side, gait, yaw in itertools.product(range(3), range(3), (0, 2, 3), (16,)):
        full.set_pose([1.0, 2.0, STANDING, 0.3, 0.2])
        before = full.pose
        after = full.step(np.array([ahead, side, gait, 12, yaw, 0, 0, 0]))[4]["pose"]
        action = decode((ahead, side, gait, 12, yaw, 0, 0, 0))
        heading = before[3] + action.motion[3]
        forward, left = action.motion[:2]
        along = np.array([math.cos(heading), math.sin(heading)])
        across = np.array([-math.sin(heading), math.cos(heading)])
        expected = before[:2] + forward * along + left * across
        np.testing.assert_allclose(after[:2], expected, atol=1e-6)
        assert math.hypot(forward, left) <= max(WALK, SNEAK * math.sqrt(2), SPRINT) + 1e-12


def test_sneaking_lowers_the_eyes(full: MineDojoEnv) -> None:
    assert full.step(cells(at2=2))[4]["pose"][2] == pytest.approx(GROUND + 1.54)
    assert full.step(cells())[4]["pose"][2] == pytest.approx(STANDING)


@pytest.mark.parametrize("function", list(Function))
def test_every_function_reaches_the_game_and_lasts_as_long_as_it_says(
    full: MineDojoEnv, server: MineDojoServer, function: Function
) -> None:
    before = len(server.steps)
    full.step(cells(at5=function, at6=1, at7=3))
    sent = server.steps[before:]
    assert len(sent) == function.ticks == (1 if function in (0, 1, 3) else 3)
    assert all(not pressed(extra) and "chat" not in extra for extra in sent[1:])
    expected: dict[Function, set[str]] = {
        Function.USE: {"use"},
        Function.ATTACK: {"attack"},
        Function.DROP: {"drop"},
    }
    assert pressed(sent[0]) == expected.get(function, set())
    assert ("chat" in sent[0]) == (function is Function.DESTROY)
    for key, wanted in (("equip", Function.EQUIP), ("place", Function.PLACE)):
        assert (sent[0][key] != "none") == (function is wanted)


def test_every_item_to_craft_reaches_the_game(full: MineDojoEnv, server: MineDojoServer) -> None:
    from minedojo.sim.mc_meta import mc

    names = mc.ALL_CRAFT_SMELT_ITEMS
    assert len(names) == CELLS[6]
    verbs = set()
    for item, name in enumerate(names):
        before = len(server.steps)
        full.step(cells(at5=Function.CRAFT, at6=item))
        said = {verb: server.steps[before][verb] for verb in ("craft", "craftNearby", "smeltNearby")}
        spoken = {verb: word for verb, word in said.items() if word != "none"}
        assert list(spoken.values()) == [name]
        verbs |= set(spoken)
    assert verbs == {"craft", "craftNearby", "smeltNearby"}


@pytest.mark.parametrize("function", [Function.EQUIP, Function.PLACE, Function.DESTROY])
def test_every_slot_reaches_the_game(full: MineDojoEnv, server: MineDojoServer, function: Function) -> None:
    for slot in range(CELLS[7]):
        before = len(server.steps)
        full.step(cells(at5=function, at7=slot))
        command, name = server.steps[before], ITEMS[slot % len(ITEMS)]
        if function is Function.DESTROY:
            place = "slot.weapon.mainhand" if slot == 0 else f"slot.hotbar.{slot}" if slot < 9 else "slot.inventory."
            assert command["chat"].startswith(f"/replaceitem entity @p {place}")
            assert command["chat"].endswith("minecraft:air 1 0")
        else:
            assert command[function.name.lower()].partition("#")[0] == name


def test_functions_on_empty_slots_do_nothing(server: MineDojoServer, stack: None) -> None:
    env = MineDojoEnv(actions="full", port=server.port, timeout=PATIENCE)
    env.reset(options={"map_seed": 1})
    for function in (Function.EQUIP, Function.PLACE, Function.DESTROY):
        before = len(server.steps)
        env.step(cells(at5=function, at7=20))
        assert server.steps[before] == server.steps[before + 1]
    env.close()


def test_a_random_walk_through_the_action_space_keeps_its_promises(full: MineDojoEnv) -> None:
    full.action_space.seed(0)
    for _ in range(60):
        frame, reward, terminated, truncated, info = full.step(full.action_space.sample())
        assert full.observation_space.contains(frame)
        assert np.isfinite(info["pose"]).all()
        assert (reward, terminated, truncated) == (0.0, False, False)


def test_map_seeds_name_worlds(env: MineDojoEnv, server: MineDojoServer) -> None:
    frames = {seed: env.reset(options={"map_seed": seed})[0].tobytes() for seed in (0, 1, 7, 0, 1)}
    assert len(set(frames.values())) == 3
    assert env.reset(options={"map_seed": 7})[0].tobytes() == frames[7]
    # Minecraft takes the seed 0 for "any": it must never be sent. And an old world must not be kept.
    assert [f'seed="{seed + 1}"' in xml for seed, xml in zip((0, 1, 7, 0, 1, 7), server.missions, strict=True)] == [
        True
    ] * 6
    assert all('forceReset="true"' in xml for xml in server.missions)


def test_a_seed_repeats_the_choice_of_maps(env: MineDojoEnv) -> None:
    def maps() -> list[int]:
        return [env.reset(seed=11)[1]["map_seed"], env.reset()[1]["map_seed"], env.reset()[1]["map_seed"]]

    first = maps()
    assert first == maps()
    assert len(set(first)) == 3
    assert all(seed < 100_000 for seed in first)


def test_a_teleport_waits_for_the_game_and_is_exact(env: MineDojoEnv, server: MineDojoServer) -> None:
    env.reset(options={"map_seed": 1})
    # Whole numbers are the trap: without a decimal point the game would take the middle of the block.
    for wanted in ([3.0, -4.0, STANDING, -3.0, 0.5], [1e-5, 2.25, STANDING, 3.1, -1.5]):
        before = len(server.steps)
        frame = env.set_pose(wanted)
        np.testing.assert_allclose(env.pose, wanted, atol=2e-6)
        assert len(server.steps) - before == 1 + LAG
        assert server.world is not None
        np.testing.assert_array_equal(frame, server.world.picture())


def test_a_teleport_into_the_air_is_refused(env: MineDojoEnv) -> None:
    env.reset(options={"map_seed": 1})
    with pytest.raises(ValueError, match="does not stay"):
        env.set_pose([0, 0, STANDING + 5, 0, 0])
    np.testing.assert_allclose(env.pose, [0, 0, STANDING, 0, 0], atol=1e-9)
    with pytest.raises(ValueError, match="five finite numbers"):
        env.set_pose([0, 0, STANDING, 0, 2.0])


def test_a_teleport_to_where_one_stands_undoes_nothing_later(env: MineDojoEnv) -> None:
    start = env.reset(options={"map_seed": 1})[1]["pose"]
    env.set_pose(start)
    walked = act(env, *["forward"] * 5)
    assert math.dist(walked[:2], start[:2]) == pytest.approx(5 * WALK)


def test_rendering_elsewhere_comes_back(env: MineDojoEnv) -> None:
    env.reset(options={"map_seed": 1})
    here = act(env, "forward", "turn_left")
    there = here + np.array([2, 1, 0, 0.5, -0.25])
    picture = env.render_at(there)
    np.testing.assert_allclose(env.pose, here, atol=2e-6)
    np.testing.assert_array_equal(picture, env.set_pose(there))
    with pytest.raises(ValueError, match="does not stay"):
        env.render_at(there + np.array([0, 0, 5, 0, 0]))
    np.testing.assert_allclose(env.pose, there, atol=2e-6)


@pytest.mark.parametrize("fault", ["drop", "drop-after", "garbage", "short", "empty"])
def test_a_failing_game_is_an_error_and_reset_starts_anew(env: MineDojoEnv, server: MineDojoServer, fault: str) -> None:
    first, _ = env.reset(options={"map_seed": 9})
    act(env, "forward")
    server.misbehave = fault
    with pytest.raises(EngineError, match="Minecraft"):
        for _ in range(2):  # A connection lost after the answer may show only at the next step.
            env.step(1)
    with pytest.raises(ResetNeeded):
        env.step(1)
    again, _ = env.reset(options={"map_seed": 9})
    np.testing.assert_array_equal(again, first)
    act(env, "forward")


@pytest.mark.parametrize("function", [Function.NONE, Function.CRAFT, Function.DESTROY])
def test_a_connection_lost_in_any_tick_of_a_step_is_an_error(
    full: MineDojoEnv, server: MineDojoServer, function: Function
) -> None:
    server.misbehave = "drop"
    with pytest.raises(EngineError, match="middle of a step"):
        full.step(cells(at5=function, at7=2))


def test_a_silent_game_is_an_error_after_the_timeout(server: MineDojoServer, stack: None) -> None:
    env = MineDojoEnv(port=server.port, timeout=0.5)
    env.reset(options={"map_seed": 1})
    server.misbehave = "silent"
    with pytest.raises(EngineError, match="fell silent"):
        env.step(1)
    env.close()


def test_no_game_at_the_port_is_an_error(stack: None) -> None:
    with MineDojoServer() as server:
        port = server.port
    env = MineDojoEnv(port=port, timeout=10.0)
    with pytest.raises(EngineError, match="could not start"):
        env.reset(seed=0)
    env.close()


def test_death_and_the_end_of_the_mission_terminate_and_time_truncates(
    env: MineDojoEnv, server: MineDojoServer, stack: None
) -> None:
    env.reset(options={"map_seed": 1})
    server.misbehave = "end"
    assert env.step(0)[2:4] == (True, False)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(options={"map_seed": 1})
    assert server.world is not None
    server.world.player.life = 0.0
    assert env.step(0)[2:4] == (True, False)
    env.close()
    short = MineDojoEnv(max_steps=2, port=server.port, timeout=PATIENCE)
    short.reset(options={"map_seed": 1})
    assert [short.step(0)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    short.close()


def test_random_policies_record_it(env: MineDojoEnv, tmp_path: Path) -> None:
    config = CollectConfig(out=tmp_path, env="worldloop/MineDojo-v0", policy="random", steps=30, maps=2)
    episodes = {seed: record_map(env, config, seed) for seed in config.map_seeds}
    again = record_map(env, config, 0)
    assert sum(len(episode) for episode in episodes[0]) == 30
    for one, other in zip(episodes[0], again, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.poses, other.poses)
    assert {episode.map_seed for episode in episodes[1]} == {1}
    for episode in itertools.chain(*episodes.values()):
        moved = motion_between(torch.tensor(episode.poses[:-1]), torch.tensor(episode.poses[1:]))
        nominal = DISCRETE.nominal_motion(torch.tensor(episode.actions[1:])).double()
        np.testing.assert_allclose(moved[:, 3], nominal[:, 3], atol=1e-6)


def by_command(server: MineDojoServer) -> tuple[str, ...]:
    """Words of `worldloop collect` that record the game of ``server``."""
    return "--env", "worldloop/MineDojo-v0", "--env-kwargs", f"port={server.port}", "--policy", "random"


def test_the_command_records_what_is_recorded_here(server: MineDojoServer, env: MineDojoEnv, tmp_path: Path) -> None:
    dataset = collected(tmp_path / "walks", 3, 60, *by_command(server))
    assert dataset.action_spec == DISCRETE
    config = CollectConfig(tmp_path, env="worldloop/MineDojo-v0", policy="random", steps=60, maps=3)
    here = [episode for seed in config.map_seeds for episode in record_map(env, config, seed)]
    assert all(same(a, b) for a, b in zip(dataset.episodes(), here, strict=True))


@pytest.mark.slow
def test_the_commands_train_on_it_and_imagine_it(server: MineDojoServer, stack: None, tmp_path: Path) -> None:
    dataset = collected(tmp_path / "walks", 3, 60, *by_command(server))
    train_and_imagine(dataset, tmp_path / "walks", tmp_path)


@pytest.mark.slow
def test_a_killed_recording_is_completed_by_the_same_command(
    server: MineDojoServer, stack: None, tmp_path: Path
) -> None:
    collected_after_a_kill(tmp_path, 6, 100, *by_command(server))


def test_a_game_has_one_player(env: MineDojoEnv, server: MineDojoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections would walk the same player, and record what neither did."""
    monkeypatch.setattr("worldloop.envs.minedojo_game.CLAIM_PATIENCE", 0.2)
    env.reset(options={"map_seed": 1})
    second = MineDojoEnv(port=server.port, timeout=PATIENCE)
    with pytest.raises(EngineError, match="--workers 1"):
        second.reset(options={"map_seed": 2})
    act(env, "forward")
    assert len(server.steps) == 1
    env.close()
    assert second.reset(options={"map_seed": 2})[1]["map_seed"] == 2
    second.close()


def test_only_discrete_actions_are_recorded(full: MineDojoEnv) -> None:
    with pytest.raises(DataError, match="Discrete or Box"):
        RecordEpisodes(full, print)


def test_two_environments_do_not_share_a_game(server: MineDojoServer, stack: None) -> None:
    with MineDojoServer() as other:
        one = MineDojoEnv(port=server.port, timeout=PATIENCE)
        two = MineDojoEnv(port=other.port, timeout=PATIENCE)
        one.reset(options={"map_seed": 1})
        two.reset(options={"map_seed": 2})
        act(one, "forward")
        assert (len(server.steps), len(other.steps)) == (1, 0)
        act(two, "forward")
        assert (len(server.steps), len(other.steps)) == (1, 1)
        one.close()
        two.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"actions": "mouse"},
        {"frame_size": (8, 8)},
        {"frame_size": 64},
        {"map_seeds": [100_000]},
        {"map_seeds": []},
        {"max_steps": 0},
        {"render_mode": "human"},
        {"settings": {"gravity": 0}},
        {"settings": {"generate_world_type": "moon"}},
    ],
)
def test_arguments_that_make_no_environment_are_refused(stack: None, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MineDojoEnv(**arguments)


def test_settings_reach_the_mission_and_the_world_is_static_by_default(server: MineDojoServer, stack: None) -> None:
    settings = {"start_position": {"x": 1, "y": 64, "z": 2, "yaw": 30, "pitch": 0}, "start_time": 1000}
    env = MineDojoEnv(settings=settings, port=server.port, timeout=PATIENCE)
    env.reset(seed=0)
    xml = server.missions[-1]
    assert "<StartTime>1000</StartTime>" in xml
    assert "<AllowPassageOfTime>false" in xml
    assert "<AllowSpawning>false" in xml
    assert "<Placement" in xml
    env.close()


def test_closing_twice_and_options_unknown(env: MineDojoEnv) -> None:
    with pytest.raises(ValueError, match="map_seed"):
        env.reset(options={"pose": 1})
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(0), env.reset, lambda: env.pose, lambda: env.set_pose(np.zeros(5))):
        with pytest.raises(ClosedEnvironmentError, match="make another one"):
            call()


def test_the_examples_of_its_page_run(server: MineDojoServer, stack: None) -> None:
    page = (Path(__file__).parent.parent / "docs" / "minedojo.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names: dict[str, Any] = {}
    exec(example.replace("MineDojoEnv()", f"MineDojoEnv(port={server.port}, timeout={PATIENCE})"), names)
    assert names["info"]["map_seed"] == 7 and names["frame"].shape == (48, 64, 3)
    names["env"].close()
