"""`MiniWorldEnv`: the rooms, mazes and halls of MiniWorld, with exact poses and motions."""

from __future__ import annotations

import io
import math
import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, EngineError
from ..rollouts.splits import Split
from ..world_models.actions import ActionSpec
from .pose_wrapper import Capabilities, Convention, PoseWrapper

CONVENTION = Convention(axes=("x", "-z", "y"), yaw=("x", "-z"))
"""MiniWorld's y is up; its agent looks along x at angle 0 and along -z a quarter turn later; radians."""

_LOOKS = ("sky_color", "light_pos", "light_color", "light_ambient", "obj_color_bias")


class MiniWorldEnv(gym.Env[NDArray[np.uint8], int]):
    """A task of MiniWorld; every map seed is one placement of rooms, objects and agent, and one start.

    Observations are uint8 (H, W, 3). ``info`` holds ``pose`` (float64 (5,), canonical, of the camera; metres),
    ``map_seed``, ``collided`` and ``success`` (the episode ended with a reward). Moves are exact: on free floor the
    pose changes by the nominal motion of the action, and something solid stops a move altogether.

        env = gym.make("worldloop/MiniWorld-v0", env_id="MiniWorld-Maze-v0", num_rows=3, num_cols=3)
        frame, info = env.reset(seed=0)
        picture = env.unwrapped.render_at(info["pose"])

    Args:
        env_id: the task: any Gymnasium id of a MiniWorld environment. `FourRooms`, `OneRoom` and most others have the
            same rooms in every map, with objects and start elsewhere; `Maze` and its kin are another maze in each.
        frame_size: height and width of an observation in pixels.
        fov: horizontal field of view in degrees. MiniWorld's own is 75; worlds are trained for 90.
        split: which map seeds `reset` draws from. Test maps are for reports only.
        random_looks: textures, colours and light differ from map to map (MiniWorld's domain randomisation, but of
            the looks alone: motions and camera stay exact).
        render_mode: ``"rgb_array"`` or None.
        render_size: height and width of what `render` returns; by default the observation's.
        **task: arguments of the task itself, such as ``size=8`` of `PickupObjects`.

    Raises:
        ConfigError: MiniWorld is not installed, has no such task, or the arguments make no sense.
        EngineError: there is no OpenGL to draw with.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        env_id: str = "MiniWorld-FourRooms-v0",
        frame_size: Sequence[int] = (48, 64),
        fov: float = 90.0,
        split: Split = "train",
        random_looks: bool = False,
        render_mode: str | None = None,
        render_size: Sequence[int] | None = None,
        **task: Any,
    ) -> None:
        if not 0 < fov < 180:
            raise ConfigError(f"fov lies between 0 and 180 degrees; got {fov}.")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode is None or 'rgb_array'; got {render_mode!r}.")
        self.render_mode = render_mode
        size = _size(frame_size, "frame_size")
        engine = _Engine(_made(env_id, size, _size(render_size or size, "render_size"), task))
        engine.configure(fov, random_looks)
        self._engine = engine
        self._world = PoseWrapper(
            engine, engine.action_spec, read=_camera, place=_place, convention=CONVENTION, frame_size=size, split=split
        )
        self.action_space = self._world.action_space
        self.observation_space = self._world.observation_space
        self.action_spec = engine.action_spec
        self.action_names = engine.action_spec.names

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode; see `PoseWrapper.reset` for ``seed`` and the options ``"map_seed"`` and ``"pose"``."""
        super().reset(seed=seed)
        frame, info = self._world.reset(seed=seed, options=options)
        return frame, {**info, "success": False}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move, and see what comes of it.

        Raises:
            ValueError: an action outside the action space.
        """
        if not self.action_space.contains(action):
            names = ", ".join(self.action_names)
            raise ValueError(f"An action is 0 … {len(self.action_names) - 1} ({names}); got {action!r}.")
        frame, reward, terminated, truncated, info = self._world.step(int(action))
        success = terminated and float(reward) > 0
        return frame, float(reward), terminated, truncated, {**info, "success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """The view as a picture of ``render_size``."""
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing without render_mode="rgb_array".')
            return None
        picture: NDArray[np.uint8] = self._world.render()
        return picture

    def close(self) -> None:
        """Give back what the engine holds, for good. Closing twice is fine."""
        self._world.close()

    # What a real world offers beyond Gymnasium

    @property
    def capabilities(self) -> Capabilities:
        """What this world can be asked."""
        return self._world.capabilities

    @property
    def generator_version(self) -> str:
        """Version of what makes maps out of seeds."""
        return f"miniworld {import_module('miniworld').__version__}"

    @property
    def pose(self) -> NDArray[np.float64]:
        """Canonical pose (5,) of the present frame."""
        return self._world.pose

    def set_pose(self, pose: Sequence[float] | NDArray[Any]) -> NDArray[np.uint8]:
        """Put the agent at ``pose`` (5,), at the height of its eyes, and return the frame there; the episode goes on.

        Raises:
            ValueError: the agent does not fit there.
        """
        return self._world.set_pose(pose)

    def render_at(self, pose: Sequence[float] | NDArray[Any]) -> NDArray[np.uint8]:
        """The frame (H, W, 3) at ``pose`` (5,); the episode does not notice.

        Raises:
            ValueError: as `set_pose`.
        """
        return self._world.render_at(pose)


class _Engine(gym.Wrapper[Any, Any, Any, Any]):
    """One MiniWorld environment among others of the same process.

    All of them compile their walls into the same OpenGL display list, so whoever did so last is what every one of them
    shows; here each compiles its own again when another has done so since.
    """

    _shown: ClassVar[weakref.ref[_Engine] | None] = None

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._open = True
        type(self)._shown = None
        steps = {name: float(self.core.params.params[name].default) for name in ("forward_step", "turn_step")}
        motions = {
            "turn_left": (0.0, 0.0, 0.0, math.radians(steps["turn_step"]), 0.0),
            "turn_right": (0.0, 0.0, 0.0, -math.radians(steps["turn_step"]), 0.0),
            "move_forward": (steps["forward_step"], 0.0, 0.0, 0.0, 0.0),
            "move_back": (-steps["forward_step"], 0.0, 0.0, 0.0, 0.0),
        }
        names = tuple(action.name for action in self.core.actions)[: int(self.core.action_space.n)]
        self.action_spec = ActionSpec("discrete", names, tuple(motions.get(name, (0.0,) * 5) for name in names))

    @property
    def core(self) -> Any:
        """MiniWorld's own environment."""
        return self.env.unwrapped

    def configure(self, fov: float, random_looks: bool) -> None:
        """From the next reset on: the horizontal field of view in degrees, and what is drawn at random."""
        width, height = self.core.obs_fb.width, self.core.obs_fb.height
        vertical = 2 * math.atan(math.tan(math.radians(fov) / 2) * height / width)
        randomised, params = self.core.params.params, self.core.params.no_random()
        params.set("cam_fov_y", math.degrees(vertical))
        if random_looks:
            params.params.update({name: randomised[name] for name in _LOOKS})
        self.core.params, self.core.domain_rand = params, random_looks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As MiniWorld's."""
        self.core.shadow_window.switch_to()
        result = self.env.reset(seed=seed, options=options)
        type(self)._shown = weakref.ref(self)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As MiniWorld's."""
        self._claim()
        return self.env.step(action)

    def render(self) -> Any:
        """As MiniWorld's."""
        self._claim()
        return self.env.render()

    def look(self) -> Any:
        """The frame seen by the agent where it stands now."""
        self._claim()
        return self.core.render_obs()

    def close(self) -> None:
        """Close the window too, which MiniWorld leaves open."""
        if self._open:
            self.env.close()
            self.core.shadow_window.close()
        self._open = False

    def _claim(self) -> None:
        if self._shown is None or self._shown() is not self:
            self.core.shadow_window.switch_to()
            self.core._render_static()
            type(self)._shown = weakref.ref(self)


def _camera(env: gym.Env[Any, Any]) -> tuple[float, ...]:
    agent: Any = env.get_wrapper_attr("core").agent
    x, y, z = agent.pos
    return x, y + agent.cam_height, z, agent.dir, math.radians(agent.cam_pitch)


def _place(env: gym.Env[Any, Any], values: NDArray[np.float64]) -> Any:
    core: Any = env.get_wrapper_attr("core")
    agent = core.agent
    x, height, z, yaw, pitch = values.tolist()
    if abs(height - agent.pos[1] - agent.cam_height) > 1e-6 or abs(pitch) >= math.pi / 2:
        raise ValueError(f"The agent looks from height {agent.cam_height}, not straight up or down; got {values}.")
    position = np.array([x, agent.pos[1], z])
    if not any(room.point_inside(position) for room in core.rooms) or core.intersect(agent, position, agent.radius):
        raise ValueError(f"The agent does not fit at x {x:.2f}, y {-z:.2f} of this map.")
    agent.pos, agent.dir, agent.cam_pitch = position, yaw, math.degrees(pitch)
    return env.get_wrapper_attr("look")()


def _made(env_id: str, frame_size: tuple[int, int], render_size: tuple[int, int], task: dict[str, Any]) -> Any:
    _load()
    sizes = {"obs_height": frame_size[0], "obs_width": frame_size[1]}
    sizes |= {"window_height": render_size[0], "window_width": render_size[1]}
    try:
        # MiniWorld prints how finely it draws.
        with redirect_stdout(io.StringIO()):
            env = gym.make(env_id, disable_env_checker=True, render_mode="rgb_array", **sizes, **task)
    except (gym.error.Error, TypeError) as error:
        raise ConfigError(f"Cannot make {env_id} of MiniWorld with {task}: {error}") from error
    if not isinstance(env.unwrapped, import_module("miniworld.miniworld").MiniWorldEnv):
        env.close()
        raise ConfigError(f"{env_id} is no environment of MiniWorld; PoseWrapper takes others.")
    return env


def _load() -> None:
    """Import MiniWorld, which opens OpenGL at once; without a display through EGL."""
    if find_spec("miniworld") is None:
        raise ConfigError("MiniWorld is not installed: pip install miniworld.")
    try:
        pyglet = import_module("pyglet")
        if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
            pyglet.options["headless"] = True
        import_module("miniworld")
    except Exception as error:
        raise EngineError(
            f"MiniWorld found no OpenGL to draw with ({error}); on Linux without a display it needs EGL: "
            "apt install libegl1 libgl1 libglu1-mesa libgl1-mesa-dri libopengl0."
        ) from error


def _size(size: Sequence[int], name: str) -> tuple[int, int]:
    sizes = np.asarray(size)
    if sizes.shape != (2,) or sizes.dtype.kind not in "iu" or sizes.min() < 8:
        raise ConfigError(f"{name} is (height, width) in pixels, at least (8, 8); got {size!r}.")
    return int(sizes[0]), int(sizes[1])
