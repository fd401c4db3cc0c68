"""`PoseWrapper`: any Gymnasium environment as a world to record, given frames and a pose that is read or integrated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..rollouts.splits import Split, seed_range, split_of
from ..world_models.actions import ActionSpec
from ..world_models.pose import POSE_DIM, motion_between, move
from .doom_rooms.frames import AreaFilter

Axis = Literal["x", "-x", "y", "-y", "z", "-z"]
ReadPose = Callable[[gym.Env[Any, Any]], Sequence[float] | NDArray[Any]]
"""(environment) -> (x, y, z, yaw, pitch) of the camera, in the environment's own convention."""
PlaceCamera = Callable[[gym.Env[Any, Any], NDArray[np.float64]], Any]
"""(environment, its (x, y, z, yaw, pitch)) -> the frame seen from there; ValueError where the camera does not fit."""
Blocked = Callable[[gym.Env[Any, Any], dict[str, Any]], bool]
"""(environment, info of the step just taken) -> whether something stopped the camera."""

_COLLISION = 0.05
_QUARTERS = {(1, 0, 0): 0, (0, 1, 0): 1, (-1, 0, 0): 2, (0, -1, 0): 3}


@dataclass(frozen=True)
class Convention:
    """How an engine writes the pose of its camera: five numbers ``(x, y, z, yaw, pitch)``.

    Handedness and the sense of rotation follow from naming directions, so neither has to be known:

        >>> minecraft = Convention(("x", "-z", "y"), ("z", "-x"), degrees=True, pitch_up=False)
        >>> minecraft.to_canonical((0, 64, 0, 90, 0))[3] == -math.pi  # west
        True

    Args:
        axes: the engine's directions that become canonical x, y and z: z is up, and y is left of x seen from above.
        yaw: the engine's directions that the camera looks along at yaw 0 and at a positive quarter turn.
        degrees: angles are in degrees, not radians.
        pitch_up: positive pitch looks up.

    Raises:
        ConfigError: the directions do not span space, or yaw does not turn about the vertical.
    """

    axes: tuple[Axis, Axis, Axis] = ("x", "y", "z")
    yaw: tuple[Axis, Axis] = ("x", "y")
    degrees: bool = False
    pitch_up: bool = True

    def __post_init__(self) -> None:
        if sorted(axis[-1] for axis in self.axes) != ["x", "y", "z"]:
            raise ConfigError(f"A convention names three different axes; got {self.axes}.")
        if {axis[-1] for axis in self.yaw} != {axis[-1] for axis in self.axes[:2]}:
            raise ConfigError(
                f"Yaw turns from one horizontal axis to the other, of {self.axes[:2]}; got {self.yaw}."
            )

    def to_canonical(self, values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """The canonical pose (5,) of the engine's (x, y, z, yaw, pitch); yaw in [-pi, pi).

        Raises:
            DataError: not five finite numbers.
        """
        numbers = _five(values, DataError)
        position = [_sign(axis) * numbers["xyz".index(axis[-1])] for axis in self.axes]
        zero, sense = self._turn
        yaw = _wrap(zero + sense * numbers[3] * self._unit)
        return np.array([*position, yaw, self._pitch * numbers[4] * self._unit])

    def from_canonical(self, pose: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """The engine's (x, y, z, yaw, pitch) of a canonical pose (5,): the inverse of `to_canonical`.

        Raises:
            ValueError: not five finite numbers.
        """
        numbers = _five(pose, ValueError)
        values = np.empty(POSE_DIM)
        for k, axis in enumerate(self.axes):
            values["xyz".index(axis[-1])] = _sign(axis) * numbers[k]
        zero, sense = self._turn
        values[3] = sense * _wrap(numbers[3] - zero) / self._unit
        values[4] = self._pitch * numbers[4] / self._unit
        return values

    @property
    def _unit(self) -> float:
        return math.pi / 180 if self.degrees else 1.0

    @property
    def _pitch(self) -> float:
        return 1.0 if self.pitch_up else -1.0

    @property
    def _turn(self) -> tuple[float, float]:
        """Canonical yaw of the engine's zero, and +1 where it counts counter-clockwise, -1 clockwise."""
        start, end = (_QUARTERS[self._canonical(axis)] for axis in self.yaw)
        return start * math.pi / 2, 1.0 if (end - start) % 4 == 1 else -1.0

    def _canonical(self, direction: Axis) -> tuple[int, int, int]:
        x, y, z = (_sign(direction) * _sign(axis) * (axis[-1] == direction[-1]) for axis in self.axes)
        return x, y, z


CANONICAL = Convention()
"""The convention of `world_models.pose`."""


@dataclass(frozen=True)
class Capabilities:
    """What a world can be asked.

    Attributes:
        pose: ``"read"`` from the environment, or ``"integrated"`` from nominal motions, which drifts where the
            environment does not do exactly what its actions say.
        settable: whether `PoseWrapper.set_pose` and `PoseWrapper.render_at` work.
        seeds_are_maps: whether another seed is another map. Where it is not, validation and test maps are the
            training map again, and scores on them say nothing about worlds never seen.
    """

    pose: Literal["read", "integrated"]
    settable: bool
    seeds_are_maps: bool


class PoseWrapper(gym.Wrapper[NDArray[np.uint8], Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Frames as observations, and in ``info`` the canonical pose (5,), ``map_seed`` and ``collided``.

    Frames are the observations where these are uint8 (H, W, 3), else what ``env.render()`` returns. Every episode is
    a function of its map seed, which seeds the environment, and of the actions.

        env = PoseWrapper(gym.make("MyWorld-v0"), spec, read=lambda env: env.unwrapped.camera)
        frame, info = env.reset(options={"map_seed": 7})

    Args:
        env: a `Discrete` action space 0 … n-1, or a `Box` (n,) within [-1, 1].
        action_spec: what its actions do to the camera.
        read: reads the camera's pose. Without it the pose is integrated from ``action_spec``: an episode begins at the
            origin, and each step moves by its nominal motion.
        place: puts the camera at a pose; makes `set_pose` and `render_at` work.
        convention: how ``read`` and ``place`` write a pose.
        blocked: tells after a step whether something stopped the camera. An integrated pose then turns, but does not
            translate. Without it a pose that is read counts as collided where it is off the nominal motion by
            more than a twentieth of a step.
        frame_size: height and width in pixels to shrink frames to, by averaging areas; needed for rendered frames.
        split: which map seeds `reset` draws from where none is given.
        seeds_are_maps: see `Capabilities`.

    Raises:
        ConfigError: no frames, other actions than the specification says, or ``place`` without ``read``.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        action_spec: ActionSpec,
        *,
        read: ReadPose | None = None,
        place: PlaceCamera | None = None,
        convention: Convention = CANONICAL,
        blocked: Blocked | None = None,
        frame_size: tuple[int, int] | None = None,
        split: Split = "train",
        seeds_are_maps: bool = True,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            action_spec=action_spec,
            read=read,
            place=place,
            convention=convention,
            blocked=blocked,
            frame_size=frame_size,
            split=split,
            seeds_are_maps=seeds_are_maps,
        )
        super().__init__(env)
        _check_actions(env.action_space, action_spec)
        if place is not None and read is None:
            raise ConfigError("A camera that can be placed needs a pose that is read: give PoseWrapper read=… too.")
        self.action_spec = action_spec
        self.capabilities = Capabilities("read" if read else "integrated", place is not None, seeds_are_maps)
        self._read, self._place, self._blocked, self._convention = read, place, blocked, convention
        self._maps = seed_range(split)
        self._motion = np.array(action_spec.motion, dtype=np.float64)
        space = env.observation_space
        self._rendered = not (isinstance(space, gym.spaces.Box) and _is_picture(space.shape, space.dtype))
        self._size = self._checked_size(frame_size)
        self._filters: dict[tuple[int, int], AreaFilter] = {}
        if not self._rendered:
            height, width, _ = space.shape or (0, 0, 3)
            self._filter((height, width))
        self.observation_space = gym.spaces.Box(0, 255, (*self._size, 3), np.uint8)
        self._closed = False
        self._chance = np.random.default_rng()
        self._map_seed = 0
        self._pose = np.zeros(POSE_DIM)

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: makes the maps of this and later episodes repeatable.
            options: ``"map_seed"``, instead of one drawn from the split; ``"pose"`` (5,) to start at, where poses are
                settable. All others are the environment's.

        Raises:
            DataError: a map seed outside every split.
            ConfigError: a pose where poses are not settable.
            ValueError: a pose where the camera does not fit.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        if seed is not None:
            self._chance = np.random.default_rng(seed)
        rest = dict(options or {})
        map_seed, pose = rest.pop("map_seed", None), rest.pop("pose", None)
        if map_seed is None:
            map_seed = self._maps[int(self._chance.integers(len(self._maps)))]
        split_of(map_seed)
        self._map_seed = int(map_seed)
        observation, info = self.env.reset(seed=self._map_seed, options=rest or None)
        if pose is not None:
            frame = self.set_pose(pose)
        else:
            frame = self._frame(observation)
            self._pose = np.zeros(POSE_DIM) if self._read is None else self._where()
        return frame, self._told(info, collided=False)

    def step(self, action: Any) -> tuple[NDArray[np.uint8], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step; see `PoseWrapper` for what ``info`` holds.

        Raises:
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        observation, reward, terminated, truncated, info = self.env.step(action)
        motion = self._motion[action] if self.action_spec.kind == "discrete" else np.asarray(action) @ self._motion
        wanted = _moved(self._pose, motion)
        told = self._blocked is not None and bool(self._blocked(self.env, info))
        if self._read is not None:
            self._pose = self._where()
            collided = told if self._blocked is not None else self._is_off(wanted)
        else:
            self._pose = np.concatenate([self._pose[:3], wanted[3:]]) if told else wanted
            collided = told
        info = self._told(info, collided)
        return self._frame(observation), float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """What the environment renders.

        Raises:
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        return self.env.render()

    def close(self) -> None:
        """Close the environment, for good. Closing twice is fine."""
        if not self._closed:
            self.env.close()
        self._closed = True

    # What a world offers beyond Gymnasium

    @property
    def pose(self) -> NDArray[np.float64]:
        """Canonical pose (5,) of the present frame."""
        return self._pose.copy()

    def set_pose(self, pose: Sequence[float] | NDArray[Any]) -> NDArray[np.uint8]:
        """Put the camera at the canonical ``pose`` (5,) and return the frame seen there; the episode goes on.

        Raises:
            ConfigError: this world's pose cannot be set.
            ValueError: not a pose, or the camera does not fit there.
        """
        frame = self._placed(self._convention.from_canonical(pose))
        self._pose = self._where()
        return frame

    def render_at(self, pose: Sequence[float] | NDArray[Any]) -> NDArray[np.uint8]:
        """The frame (H, W, 3) seen from the canonical ``pose`` (5,); the episode does not notice.

        Raises:
            ConfigError, ValueError: as `set_pose`.
        """
        self._check_open()
        before = self._raw() if self.capabilities.settable else np.zeros(POSE_DIM)
        frame = self._placed(self._convention.from_canonical(pose))
        self._placed(before)
        return frame

    # Inside

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _checked_size(self, frame_size: Sequence[int] | None) -> tuple[int, int]:
        space = self.env.observation_space
        if self._rendered and self.env.render_mode != "rgb_array":
            raise ConfigError(
                "Frames are uint8 (H, W, 3) observations or rendered ones; this environment observes "
                f"{space}, so make it with render_mode='rgb_array'."
            )
        if frame_size is None and self._rendered:
            raise ConfigError("Rendered frames need a frame_size, such as (48, 64).")
        height, width = frame_size if frame_size is not None else (space.shape or (0, 0))[:2]
        return int(height), int(width)

    def _frame(self, observation: Any) -> NDArray[np.uint8]:
        return self._shrunk(self.env.render() if self._rendered else observation)

    def _shrunk(self, frame: Any) -> NDArray[np.uint8]:
        picture = np.asarray(frame)
        if not _is_picture(picture.shape, picture.dtype):
            raise DataError(f"A frame is uint8 (H, W, 3); the environment gave {picture.dtype} {picture.shape}.")
        source = (picture.shape[0], picture.shape[1])
        if source == self._size:
            return picture
        if source not in self._filters:
            self._filters[source] = self._filter(source)
        return self._filters[source](picture)

    def _filter(self, source: tuple[int, int]) -> AreaFilter:
        try:
            return AreaFilter(source, self._size)
        except ValueError as error:
            raise ConfigError(f"frame_size is larger than the environment's frames: {error}") from error

    def _raw(self) -> NDArray[np.float64]:
        assert self._read is not None
        return np.array(self._read(self.env), dtype=np.float64)

    def _where(self) -> NDArray[np.float64]:
        return self._convention.to_canonical(self._raw())

    def _placed(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        self._check_open()
        if self._place is None:
            raise ConfigError("The pose of this world cannot be set: PoseWrapper was given no place=….")
        return self._shrunk(self._place(self.env, values))

    def _is_off(self, wanted: NDArray[np.float64]) -> bool:
        error = motion_between(torch.from_numpy(wanted), torch.from_numpy(self._pose)).abs()
        length, angle = float(error[:3].max()), float(error[3:].max())
        return length > _COLLISION * self.action_spec.step_length or angle > _COLLISION * self.action_spec.step_angle

    def _told(self, info: dict[str, Any], collided: bool) -> dict[str, Any]:
        return {**info, "pose": self.pose, "map_seed": self._map_seed, "collided": collided}


def _check_actions(space: gym.Space[Any], spec: ActionSpec) -> None:
    if spec.kind == "discrete":
        fits = isinstance(space, gym.spaces.Discrete) and (int(space.n), int(space.start)) == (spec.n, 0)
    else:
        limits = isinstance(space, gym.spaces.Box) and space.shape == (spec.n,)
        fits = limits and bool((space.low == -1).all() and (space.high == 1).all())  # type: ignore[attr-defined]
    if not fits:
        expected = f"Discrete({spec.n})" if spec.kind == "discrete" else f"Box(-1, 1, ({spec.n},))"
        names = ", ".join(spec.names)
        raise ConfigError(f"The action spec ({names}) describes {expected}; the environment has {space}.")


def _is_picture(shape: tuple[int, ...], dtype: Any) -> bool:
    return dtype == np.uint8 and len(shape) == 3 and shape[2] == 3


def _moved(pose: NDArray[np.float64], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    moved: NDArray[np.float64] = move(torch.from_numpy(pose), torch.from_numpy(motion)).numpy()
    return moved


def _five(values: Any, error: type[Exception]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (POSE_DIM,) or not bool(np.isfinite(numbers).all()):
        raise error(f"A pose is five finite numbers (x, y, z, yaw, pitch); got {values!r}.")
    return numbers


def _sign(axis: str) -> int:
    return -1 if axis.startswith("-") else 1


def _wrap(angle: float) -> float:
    """An angle in radians brought into [-pi, pi)."""
    wrapped = math.remainder(angle, 2 * math.pi)
    return -math.pi if wrapped >= math.pi else wrapped
