"""`PoseWrapper`: a strange world gets the canonical frame; conventions against rotation matrices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from commands import collected, collected_after_a_kill, train_and_imagine
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from worldloop.envs.collecting import CollectConfig, collect
from worldloop.envs.pose_wrapper import Axis, Capabilities, Convention, PoseWrapper
from worldloop.errors import ConfigError, DataError
from worldloop.rollouts.splits import split_of
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.pose import forward_vector, motion_between

STEP, TURN = 0.5, math.pi / 6
SPEC = ActionSpec(
    "discrete",
    ("forward", "back", "left", "right"),
    ((STEP, 0, 0, 0, 0), (-STEP, 0, 0, 0, 0), (0, 0, 0, TURN, 0), (0, 0, 0, -TURN, 0)),
)
BOX = ActionSpec("box", ("forward", "turn"), ((STEP, 0, 0, 0, 0), (0, 0, 0, TURN, 0)))
ENGINE = Convention(("z", "-x", "y"), ("z", "x"), degrees=True, pitch_up=False)
"""How `Yard` counts, which is how Unity does: left-handed, y up, degrees clockwise from z."""
SIDE = 3.0


class Yard(gym.Env[np.ndarray, Any]):
    """A square yard, walked by an engine of left-handed metres and clockwise degrees; a fence stops whoever walks."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, actions: str = "discrete", picture: bool = True, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = gym.spaces.Discrete(4) if actions == "discrete" else gym.spaces.Box(-1, 1, (2,), np.float32)
        self._picture = picture
        box = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8) if picture else gym.spaces.Box(-180, 180, (3,), np.float64)
        self.observation_space = box

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.options = options
        self.x, self.z = self.np_random.uniform(-1, 1, 2).tolist()
        self.heading = float(self.np_random.integers(360))
        self.colour = int(self.np_random.integers(256))
        return self._observation(), {"fenced": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if isinstance(self.action_space, gym.spaces.Discrete):
            forward, turn = ((1, 0), (-1, 0), (0, 1), (0, -1))[int(action)]
        else:
            forward, turn = action.tolist()
        x = self.x + STEP * forward * math.sin(math.radians(self.heading))
        z = self.z + STEP * forward * math.cos(math.radians(self.heading))
        fenced = max(abs(x), abs(z)) > SIDE
        if not fenced:
            self.x, self.z = x, z
        self.heading = (self.heading - 30 * turn) % 360
        return self._observation(), 1, False, False, {"fenced": fenced}

    def render(self) -> np.ndarray:
        corner = np.array([self.x, self.z, self.heading, self.colour]).tobytes()
        return np.frombuffer(corner * 96, np.uint8).reshape(32, 32, 3).copy()

    def where(self) -> tuple[float, ...]:
        return self.x, 1.7, self.z, self.heading, 0.0

    def stand(self, values: np.ndarray) -> np.ndarray:
        if max(abs(values[0]), abs(values[2])) > SIDE:
            raise ValueError("That is outside the fence.")
        self.x, self.z, self.heading = values[0], values[2], values[3]
        return self.render()

    def _observation(self) -> np.ndarray:
        return self.render() if self._picture else np.array([self.x, self.z, self.heading])


def reading(**changes: Any) -> PoseWrapper:
    """A yard whose pose is read and set."""
    settings: dict[str, Any] = {
        "read": lambda env: env.unwrapped.where(),
        "place": lambda env, values: env.unwrapped.stand(values),
        "convention": ENGINE,
    }
    return PoseWrapper(Yard(), SPEC, **settings | changes)


def reckoning(**settings: Any) -> PoseWrapper:
    """A yard whose pose is integrated."""
    return PoseWrapper(Yard(), SPEC, **settings)


# Recording imports this module once more, by its plain name.
if "Yard-v0" not in gym.registry:
    gym.register(id="Yard-v0", entry_point=reading)
    gym.register(id="ReckonedYard-v0", entry_point=reckoning)
    gym.register(id="BareYard-v0", entry_point=Yard)
    gym.register(id="BoxYard-v0", entry_point=lambda: PoseWrapper(Yard("box"), BOX))

AXES = {"x": np.eye(3)[0], "y": np.eye(3)[1], "z": np.eye(3)[2]} | {
    "-x": -np.eye(3)[0], "-y": -np.eye(3)[1], "-z": -np.eye(3)[2]
}  # fmt: skip


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues: the right-handed rotation (3, 3) about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


# What is known of the engines: rows turn their coordinates into (x, y, z) with z up, right-handed; the direction of
# yaw 0; the axis that a right-handed yaw turns about (a down axis turns clockwise); degrees; whether pitch looks up.
ENGINES = {
    "canonical": (Convention(), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "x", "z", False, True),
    "Minecraft": (
        Convention(("x", "-z", "y"), ("z", "-x"), True, False),
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "z", "-y", True, False,
    ),
    "MiniWorld": (Convention(("x", "-z", "y"), ("x", "-z")), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "x", "y", False, True),
    "Doom": (Convention(degrees=True, pitch_up=False), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "x", "z", True, False),
    "Unreal": (
        Convention(("x", "-y", "z"), ("x", "y"), True),
        [[1, 0, 0], [0, -1, 0], [0, 0, 1]], "x", "z", True, True,
    ),
    "Unity": (ENGINE, [[0, 0, 1], [-1, 0, 0], [0, 1, 0]], "z", "y", True, False),
    "camera": (Convention(("z", "-x", "-y"), ("z", "x")), [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], "z", "y", False, True),
}  # fmt: skip
numbers = st.floats(-1000, 1000)


@pytest.mark.parametrize("engine", ENGINES)
@given(position=st.tuples(numbers, numbers, numbers), yaw=st.floats(-7, 7), pitch=st.floats(-1.5, 1.5))
def test_a_converted_pose_looks_where_the_engines_rotation_looks(
    engine: str, position: tuple[float, float, float], yaw: float, pitch: float
) -> None:
    convention, matrix, zero, spindle, degrees, pitch_up = ENGINES[engine]
    to_canonical = np.array(matrix, dtype=float)
    level = about(AXES[spindle], yaw) @ AXES[zero]
    up = to_canonical.T @ np.array([0, 0, 1])
    ahead = math.cos(pitch) * level + math.sin(pitch) * (up if pitch_up else -up)
    unit = 180 / math.pi if degrees else 1.0
    pose = convention.to_canonical((*position, yaw * unit, pitch * unit))
    assert np.allclose(pose[:3], to_canonical @ position, atol=0)
    assert np.allclose(forward_vector(torch.from_numpy(pose)), to_canonical @ ahead, atol=1e-12)
    assert -math.pi <= pose[3] < math.pi


@pytest.mark.parametrize("engine", ENGINES)
@given(pose=st.tuples(numbers, numbers, numbers, st.floats(-3.1, 3.1), st.floats(-1.5, 1.5)))
def test_from_canonical_is_the_inverse_of_to_canonical(engine: str, pose: tuple[float, ...]) -> None:
    convention = ENGINES[engine][0]
    assert np.allclose(convention.to_canonical(convention.from_canonical(pose)), pose, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("axes", "yaw", "message"),
    [
        (("x", "-x", "z"), ("x", "z"), "three different axes"),
        (("x", "y", "z"), ("x", "z"), "horizontal"),
        (("x", "y", "z"), ("x", "-x"), "horizontal"),
    ],
)
def test_a_convention_that_cannot_be_is_refused(
    axes: tuple[Axis, Axis, Axis], yaw: tuple[Axis, Axis], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Convention(axes, yaw)


def test_no_pose_is_read_from_what_is_none() -> None:
    for values in ([1, 2, 3], [0, 0, 0, math.nan, 0]):
        with pytest.raises(DataError, match="five finite numbers"):
            reading(read=lambda env, values=values: values).reset(seed=0)


@pytest.mark.parametrize("actions", ["discrete", "box"])
def test_read_poses_move_as_the_actions_say_until_the_fence(actions: str) -> None:
    spec = SPEC if actions == "discrete" else BOX
    env = PoseWrapper(Yard(actions), spec, read=lambda env: env.unwrapped.where(), convention=ENGINE)
    _, info = env.reset(seed=4)
    env.action_space.seed(4)
    seen = {True: 0, False: 0}
    for _ in range(400):
        before, action = torch.from_numpy(info["pose"]), env.action_space.sample()
        frame, _, _, _, info = env.step(action)
        table = np.array(spec.motion)
        nominal = table[action] if actions == "discrete" else action.astype(float) @ table
        moved = motion_between(before, torch.from_numpy(info["pose"])).numpy()
        if not info["fenced"]:
            assert np.allclose(moved, nominal, rtol=0, atol=1e-12)
        moves = abs(nominal[0]) > 0.1 * STEP
        assert not moves or info["collided"] == info["fenced"]
        seen[info["collided"]] += 1
        assert np.array_equal(frame, env.unwrapped.render())
    assert min(seen.values()) > 10


def test_integrated_poses_equal_the_engines_up_to_where_they_began() -> None:
    env = reckoning(blocked=lambda env, info: info["fenced"])
    _, info = env.reset(seed=1)
    assert np.array_equal(info["pose"], np.zeros(5))
    start = torch.from_numpy(ENGINE.to_canonical(env.unwrapped.where()))
    env.action_space.seed(1)
    collisions = 0
    for _ in range(400):
        _, _, _, _, info = env.step(env.action_space.sample())
        true = motion_between(start, torch.from_numpy(ENGINE.to_canonical(env.unwrapped.where()))).numpy()
        assert np.allclose(info["pose"][:3], true[:3], atol=1e-9)
        assert math.isclose(math.cos(info["pose"][3] - true[3]), 1, abs_tol=1e-12)
        assert info["collided"] == info["fenced"]
        collisions += info["collided"]
    assert collisions > 10


def test_without_being_told_of_the_fence_dead_reckoning_walks_through() -> None:
    env = reckoning()
    env.reset(seed=1)
    for _ in range(20):
        info = env.step(0)[4]
    assert np.allclose(info["pose"], [20 * STEP, 0, 0, 0, 0]) and not info["collided"]


def test_every_map_seed_is_a_map_of_its_own_and_the_same_again() -> None:
    env = reading()
    frames = [env.reset(options={"map_seed": n})[0] for n in (5, 6, 5)]
    assert np.array_equal(frames[0], frames[2]) and not np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], Yard().reset(seed=5)[0])
    assert env.reset(options={"map_seed": 5})[1]["map_seed"] == 5


def test_maps_are_drawn_from_the_split_and_repeatable() -> None:
    def maps(seed: int) -> list[int]:
        env = reading(split="validation")
        return [env.reset(seed=seed)[1]["map_seed"], *(env.reset()[1]["map_seed"] for _ in range(5))]

    assert maps(0) == maps(0) != maps(1)
    assert {split_of(n) for n in maps(0)} == {"validation"} and len(set(maps(0))) == 6
    with pytest.raises(DataError, match="map seed"):
        reading().reset(options={"map_seed": 300_000})


def test_other_options_reach_the_environment() -> None:
    env = reading()
    env.reset(options={"map_seed": 1, "weather": "rain"})
    assert env.unwrapped.options == {"weather": "rain"}


def test_a_pose_that_is_set_is_the_one_that_is_read_and_looking_elsewhere_changes_nothing() -> None:
    env = reading()
    first, info = env.reset(seed=0)
    pose = np.array([1.0, -2.0, 1.7, 0.3, 0.0])
    other = env.render_at(pose)
    assert np.array_equal(env.pose, info["pose"]) and np.array_equal(env.unwrapped.render(), first)
    assert np.array_equal(env.set_pose(pose), other) and not np.array_equal(other, first)
    assert np.allclose(env.pose, pose, rtol=0, atol=1e-12)
    frame, info = env.reset(seed=0, options={"pose": pose})
    assert np.allclose(info["pose"], pose, rtol=0, atol=1e-12) and np.array_equal(frame, env.unwrapped.render())
    with pytest.raises(ValueError, match="outside the fence"):
        env.set_pose([9, 9, 1.7, 0, 0])
    for blind in (reckoning(), reading(place=None)):
        blind.reset(seed=0)
        for change in (blind.set_pose, blind.render_at):
            with pytest.raises(ConfigError, match="cannot be set"):
                change(pose)


def test_frames_are_rendered_where_none_are_observed_and_shrunk_by_areas() -> None:
    env = PoseWrapper(Yard(picture=False, render_mode="rgb_array"), SPEC, frame_size=(16, 16))
    frame, _ = env.reset(seed=0)
    large = env.unwrapped.render().astype(float)
    assert np.abs(frame - large.reshape(16, 2, 16, 2, 3).mean((1, 3))).max() <= 0.5
    assert frame.dtype == np.uint8 and env.observation_space.contains(frame)
    assert np.array_equal(frame, PoseWrapper(Yard(), SPEC, frame_size=(16, 16)).reset(seed=0)[0])


def test_what_a_world_can_be_asked_is_told() -> None:
    assert reading().capabilities == Capabilities("read", settable=True, seeds_are_maps=True)
    assert reckoning(seeds_are_maps=False).capabilities == Capabilities("integrated", False, False)


@pytest.mark.parametrize(
    ("env", "spec", "settings", "message"),
    [
        (Yard(), BOX, {}, r"Box\(-1, 1, \(2,\)\); the environment has Discrete\(4\)"),
        (Yard("box"), SPEC, {}, r"Discrete\(4\); the environment has Box"),
        (Yard(picture=False), SPEC, {}, "render_mode='rgb_array'"),
        (Yard(picture=False, render_mode="rgb_array"), SPEC, {}, "frame_size"),
        (Yard(), SPEC, {"frame_size": (48, 64)}, "larger than"),
        (Yard(), SPEC, {"place": lambda env, values: None}, "read="),
    ],
)
def test_what_does_not_fit_is_refused(env: Yard, spec: ActionSpec, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PoseWrapper(env, spec, **settings)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_checker_of_gymnasium_is_content() -> None:
    check_env(reading(), skip_render_check=True)
    check_env(reckoning(), skip_render_check=True)


def test_it_is_made_again_from_its_spec() -> None:
    env = PoseWrapper(gym.make("BareYard-v0"), SPEC, frame_size=(16, 16))
    again = gym.make(env.spec)
    assert np.array_equal(again.reset(seed=2)[0], env.reset(seed=2)[0])
    assert again.get_wrapper_attr("action_spec") == SPEC


@pytest.mark.parametrize("name", ["Yard-v0", "ReckonedYard-v0"])
def test_it_is_recorded_by_its_id(tmp_path: Path, name: str) -> None:
    config = CollectConfig(
        out=tmp_path, env=f"test_pose_wrapper:{name}", policy="random", maps=3, steps=30, workers=1
    )  # fmt: skip
    dataset = collect(config)
    assert (dataset.num_frames, dataset.action_spec) == (90, SPEC)
    free = 0
    for episode in dataset.episodes():
        poses = torch.from_numpy(episode.poses)
        moved = motion_between(poses[:-1], poses[1:]).numpy()
        nominal = np.array(SPEC.motion)[episode.actions[1:]]
        assert np.allclose(moved[~episode.collided[1:]], nominal[~episode.collided[1:]], rtol=0, atol=1e-9)
        free += int((~episode.collided).sum())
        assert np.array_equal(episode.frames[0], Yard().reset(seed=episode.map_seed)[0])
    assert free > 40


@pytest.mark.slow
def test_a_killed_recording_is_completed_by_the_same_command(tmp_path: Path) -> None:
    collected_after_a_kill(tmp_path, 20, 250, "--env", "test_pose_wrapper:Yard-v0", "--policy", "random")


def test_after_close_nothing_is_done() -> None:
    env = reading()
    pose = env.reset(seed=0)[1]["pose"]
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(0), env.render, lambda: env.set_pose(pose), lambda: env.render_at(pose)):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="make another one"):
            call()


@pytest.mark.parametrize(("name", "spec"), [("ReckonedYard-v0", SPEC), ("BoxYard-v0", BOX)])
def test_the_commands_record_it_train_on_it_and_imagine_it(tmp_path: Path, name: str, spec: ActionSpec) -> None:
    dataset = collected(tmp_path / "yard", 3, 60, "--env", f"test_pose_wrapper:{name}", "--policy", "random")
    assert dataset.action_spec == spec
    train_and_imagine(dataset, tmp_path / "yard", tmp_path)


@pytest.mark.parametrize("policy", ["mix", "waypoint", "loop"])
def test_walkers_are_refused_where_there_is_no_layout_before_anything_is_written(tmp_path: Path, policy: str) -> None:
    config = CollectConfig(out=tmp_path / "data", env="test_pose_wrapper:Yard-v0", policy=policy, maps=1, workers=1)
    with pytest.raises(ConfigError, match="no 'layout' to walk by: use the random policy"):
        collect(config)
    assert not config.out.exists()
