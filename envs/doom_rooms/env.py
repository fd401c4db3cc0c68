"""`DoomRoomsEnv`: generated rooms, drawn by a real game engine, behind the Gymnasium interface."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from ...errors import ConfigError, DataError
from ...files import sealed, unsealed
from ...rollouts.splits import Split, seed_range, split_of
from .actions import STEP_ANGLE, STEP_LENGTH, ActionKind, Actions
from .display import Display, Lens, checked_size
from .engine import FIXED, Engine, Place
from .events import EVENTS_VERSION, add_things, touched
from .layout import GENERATOR_VERSION, Layout, generate
from .map_picture import draw_map
from .places import EYE_HEIGHT, place_of, pose_at
from .tasks import Assignment, Level, Task
from .wad import HOPS

__all__ = ["EYE_HEIGHT", "STEP_ANGLE", "STEP_LENGTH", "DoomRoomsEnv"]

_STATE_FORMAT = "worldloop.doom-rooms/2"


class DoomRoomsEnv(gym.Env[np.ndarray, Any]):
    """Rooms with doors, furniture and a goal; every map seed names another map.

    Observations are pictures (H, W, 3) uint8. ``info`` holds, after `reset` and `step` alike, ``pose`` (float64 (5,),
    the canonical pose of the picture), ``map_seed``, ``collided`` (the step was cut short or bent by something solid)
    and ``success``. The world is static and its player has no inertia: at the same pose of the same map the picture
    is the same to the last bit, in any process, and a move followed by its opposite leads back exactly. With
    ``events`` some things change, by walking alone: items vanish when walked over, and shut doors open when one comes
    near; both stay so until the next `reset`. ``info["events"]`` then counts what has changed, `changed` names it, and
    a picture depends on the pose and on these changes, on nothing else.

        env = gym.make("worldloop/DoomRooms-v0", task="find", level="near")
        frame, info = env.reset(seed=0)
        frame, reward, terminated, truncated, info = env.step(1)  # forward

    Args:
        task: ``"explore"`` (no reward), ``"find"`` (reach the goal: reward 1) or ``"return"`` (go away and come back
            to the first pose: reward 1). Both of the latter cost `tasks.STEP_COST` per step.
        level: for ``"find"``: the goal is in the room of the start (``"near"``), one door away (``"next"``), or
            anywhere (``"far"``).
        split: which map seeds `reset` draws from. Test maps are for reports only.
        map_seeds: draw from these seeds of the split instead of from all.
        actions: ``"discrete"``: one of `action_names`; or ``"continuous"``: (forward, strafe to the left, turn to the
            left), each in [-1, 1] times `STEP_LENGTH` or `STEP_ANGLE`.
        frame_size: height and width of an observation in pixels. The view spans 90 degrees horizontally at 4:3 and
            wider; higher shapes are cut from the middle of that.
        rows: rooms from south to north.
        cols: rooms from west to east.
        room_size: side of a room in map units.
        props: pieces of furniture per room.
        events: items lie in the rooms, and some doors are shut (`events`); rooms, props and goal stay as they are.
        max_steps: steps after which an episode is truncated; by default it depends on task and level.
        shaping: add a potential-based term to the reward (`tasks.Assignment`).
        render_mode: ``"rgb_array"`` or ``"human"`` (a window).
        render_size: height and width of what `render` shows, drawn by a second engine so that observations stay as
            they are; by default the observation itself.

    Raises:
        ConfigError: arguments that make no environment.
        EngineError: the engine could not start; and, from `reset` and `step`, it died. `reset` starts a new one.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}

    def __init__(
        self,
        task: Task = "explore",
        level: Level = "near",
        split: Split = "train",
        map_seeds: Sequence[int] | None = None,
        actions: ActionKind = "discrete",
        frame_size: tuple[int, int] = (48, 64),
        rows: int = 2,
        cols: int = 2,
        room_size: int = 320,
        props: int = 3,
        events: bool = False,
        max_steps: int | None = None,
        shaping: bool = False,
        render_mode: str | None = None,
        render_size: tuple[int, int] | None = None,
    ) -> None:
        self._task = Assignment(task, level, shaping)
        self._seeds = _check_seeds(split, map_seeds)
        self._map_shape = {"rows": rows, "cols": cols, "room_size": room_size, "props": props}
        self._kind = {
            "format": _STATE_FORMAT, "generator": GENERATOR_VERSION, **self._map_shape,
            "task": task, "level": level, "shaping": shaping,
        }  # fmt: skip
        self._events = events
        if events:
            self._kind["events"] = EVENTS_VERSION
        self.frame_size = checked_size(frame_size, "frame_size")
        shown = self.frame_size if render_size is None else checked_size(render_size, "render_size")
        self._lens, self._display = Lens(), Display(shown, self.metadata["render_fps"])
        self.max_steps = self._task.default_steps if max_steps is None else int(max_steps)
        if self.max_steps < 1:
            raise ConfigError(f"max_steps is at least 1; got {max_steps}.")
        if task == "find" and level == "next" and rows * cols < 2:
            raise ConfigError('Level "next" needs at least two rooms.')
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode is None, 'rgb_array' or 'human'; got {render_mode!r}.")
        self.render_mode = render_mode
        self._actions = Actions(actions)
        self.action_names, self.action_spec = self._actions.names, self._actions.spec
        self.action_space = self._actions.space
        self.observation_space = gym.spaces.Box(0, 255, (*self.frame_size, 3), np.uint8)

        self._layout: Layout = self._map(self._seeds[0])
        self._engine: Engine | None = None
        self._path: list[np.ndarray] = []
        self._steps = 0
        self._collided = self._success = self._over = False
        self._started = self._closed = False

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: makes the map and the start, and those of all later episodes, repeatable.
            options: ``"map_seed"`` (any seed of any split) and ``"pose"`` (5,), each instead of a random one.

        Raises:
            ValueError: an option that does not exist, or a pose where the player does not fit.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        super().reset(seed=seed)
        self._started = False
        options = dict(options or {})
        map_seed = options.pop("map_seed", None)
        pose = options.pop("pose", None)
        if options:
            raise ValueError(f"reset() knows the options 'map_seed' and 'pose'; got {', '.join(map(repr, options))}.")
        if map_seed is None:
            map_seed = self._seeds[int(self.np_random.integers(len(self._seeds)))]
        map_seed = operator.index(map_seed)
        split_of(map_seed)
        self._show(map_seed)
        if pose is None:
            x, y = self._task.draw_start(self._layout, self.np_random)
            place = round(x * FIXED), round(y * FIXED), int(self.np_random.integers(FIXED))
        else:
            place = place_of(pose)
        self._put(place)
        self._steps, self._path = 0, [self.pose]
        self._collided = self._success = self._over = False
        self._started = True
        self._task.begin(self._layout, *self._planar())
        self._after()
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, and see what comes of it.

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: the episode is over or has not begun.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        if not self._started or self._over:
            raise gym.error.ResetNeeded("The episode is over or has not begun; call reset() before step().")
        forward, left, turn = self._actions.move(action)
        engine = self._live()
        x, y, angle = engine.where()
        yaw = angle * 2 * math.pi / FIXED
        hop = STEP_LENGTH * FIXED / HOPS
        dx = round(hop * (forward * math.cos(yaw) - left * math.sin(yaw)))
        dy = round(hop * (forward * math.sin(yaw) + left * math.cos(yaw)))
        wanted = (
            x + HOPS * dx,
            y + HOPS * dy,
            (angle + round(turn * STEP_ANGLE * FIXED / (2 * math.pi))) % FIXED,
        )
        engine.move(dx, dy, wanted[2])
        self._collided = engine.where() != wanted
        self._steps += 1
        self._path.append(self.pose)
        self._change()
        verdict = self._task.judge(self._layout, *self._planar())
        self._success = verdict.success
        truncated = not verdict.success and self._steps >= self.max_steps
        self._over = verdict.success or truncated
        self._after()
        return self._observation(), verdict.reward, verdict.success, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The view as a picture (``"rgb_array"``), or shown in the window (``"human"``)."""
        if self.render_mode is None:
            gym.logger.warn('render() shows nothing without render_mode="rgb_array" or "human".')
            return None
        self._check_open()
        if not self._started:
            raise gym.error.ResetNeeded("There is nothing to render yet; call reset() first.")
        if self._display.size == self.frame_size:
            picture = self._observation()
        else:
            picture = self._display.draw(self._layout, self._live().where())
        if self.render_mode == "rgb_array":
            return picture
        self._display.show(picture)
        return None

    def close(self) -> None:
        """End the engines and remove their files, for good. Closing twice is fine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._display.close()
        self._started, self._closed = False, True

    # What a real world offers beyond Gymnasium

    @property
    def layout(self) -> Layout:
        """The map of this episode, as it is now."""
        return self._layout

    @property
    def changed(self) -> frozenset[int]:
        """Which of ``layout.things`` have changed in this episode."""
        return self._layout.changed

    @property
    def generator_version(self) -> str:
        """Version of the map generator; with a map seed and the map's shape it names a map."""
        return GENERATOR_VERSION + (f"+events-{EVENTS_VERSION}" if self._events else "")

    @property
    def pose(self) -> np.ndarray:
        """Canonical pose (5,) float64 of the present picture."""
        return pose_at(self._live().where())

    @property
    def path(self) -> np.ndarray:
        """Poses (n, 5) float64 of this episode so far."""
        return np.stack(self._path) if self._path else np.empty((0, 5))

    def set_pose(self, pose: Any) -> np.ndarray:
        """Put the player at ``pose`` (5,), exact to 1/65536 unit and turn, and return the picture there.

        The episode goes on: neither a step is counted nor a reward given, and nothing changes by it.

        Raises:
            ValueError: the player does not fit there, or the pose does not look level from `EYE_HEIGHT`.
        """
        self._put(place_of(pose))
        self._path.append(self.pose)
        return self._observation()

    def render_at(self, pose: Any, changed: Collection[int] | None = None) -> np.ndarray:
        """The observation (H, W, 3) at ``pose`` (5,); the episode does not notice.

        Args:
            pose: where to look from.
            changed: show the map with exactly these of ``layout.things`` changed; by default as it is now.

        Raises:
            ValueError: as `set_pose`, where a door that is then shut counts; or a thing that does not exist.
        """
        frame: np.ndarray = self.render_path([pose], changed)[0]
        return frame

    def render_path(self, poses: Sequence[Any], changed: Collection[int] | None = None) -> np.ndarray:
        """The observations (n, H, W, 3) at ``poses`` (n, 5), n at least 1, as `render_at` gives them one by one."""
        places = [place_of(pose) for pose in poses]
        before, now, frames = self._live().where(), self._layout, []
        try:
            self._alter(now if changed is None else now.with_changed(changed))
            for place in places:
                self._put(place)
                frames.append(self._observation())
            return np.stack(frames)
        finally:
            self._alter(now)
            self._put(before)

    def save_state(self) -> bytes:
        """All of the environment's state, random numbers included; `load_state` continues exactly from there."""
        state = {
            "kind": self._kind,
            "map_seed": self._layout.map_seed,
            "place": self._live().where(),
            "steps": self._steps,
            "flags": [self._collided, self._success, self._over],
            "progress": [self._task.start, self._task.left, self._task.potential],
            "path": [pose.tolist() for pose in self._path],
            "random": self.np_random.bit_generator.state,
        }
        if self._events:
            state["changed"] = sorted(self.changed)
        return sealed(json.dumps(state).encode())

    def load_state(self, data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
        """Continue from `save_state`, in this or another environment with the same task and shape of map.

        Returns what `reset` returns.

        Raises:
            DataError: the bytes are damaged, or of another kind of environment.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        body = unsealed(data)
        if body is None:
            raise DataError("These bytes are no state of a DoomRooms environment, or they are damaged.")
        state = json.loads(body)
        if state["kind"] != self._kind:
            raise DataError(f"This state is of an environment with {state['kind']}; this one has {self._kind}.")
        self._show(state["map_seed"], state["changed"] if self._events else ())
        self._put(tuple(state["place"]))
        self._steps = state["steps"]
        self._collided, self._success, self._over = state["flags"]
        start, left, potential = state["progress"]
        self._task = replace(self._task, start=tuple(start), left=left, potential=potential)
        self._path = [np.array(pose) for pose in state["path"]]
        self.np_random.bit_generator.state = state["random"]
        self._started = True
        self._after()
        return self._observation(), self._info()

    def map_picture(self, size: tuple[int, int] = (512, 512)) -> np.ndarray:
        """The map from above with path, goal, start and heading: (height, width, 3) uint8."""
        return draw_map(self._layout, self._path, checked_size(size, "size"))

    # Inside

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _live(self) -> Engine:
        self._check_open()
        if self._engine is None:
            raise gym.error.ResetNeeded("The environment shows no map yet; call reset() first.")
        return self._engine

    def _map(self, map_seed: int) -> Layout:
        layout = generate(map_seed, **self._map_shape)
        return add_things(layout) if self._events else layout

    def _show(self, map_seed: int, changed: Collection[int] = ()) -> None:
        """Have the engine show the map of ``map_seed``, starting or replacing it when there is none that lives."""
        if map_seed != self._layout.map_seed:
            self._layout = self._map(map_seed)
        self._layout = self._layout.with_changed(changed)
        if self._engine is None or not self._engine.alive:
            self._engine = Engine(self._layout, self.frame_size)
        else:
            self._engine.load(self._layout)

    def _alter(self, layout: Layout) -> None:
        """Show the same map with other changes; where the player then is, is not said."""
        self._layout = layout
        self._live().load(layout)

    def _change(self) -> None:
        """Let what the player touches change."""
        if news := touched(self._layout, *self._planar()[:2]):
            place = self._live().where()
            self._alter(self._layout.with_changed(self.changed | news))
            self._put(place)

    def _put(self, place: Place) -> None:
        x, y = place[0] / FIXED, place[1] / FIXED
        # The engine alone would let a player stand in the void outside the map.
        if not self._layout.clear(x, y, -0.1) or not self._live().place(place):
            raise ValueError(f"The player does not fit at x {x:.2f}, y {y:.2f} of map {self._layout.map_seed}.")

    def _planar(self) -> tuple[float, float, float]:
        pose = self.pose
        return float(pose[0]), float(pose[1]), float(pose[3])

    def _observation(self) -> np.ndarray:
        return self._lens.picture(self._live(), self.frame_size)

    def _info(self) -> dict[str, Any]:
        info = {
            "pose": self.pose,
            "map_seed": self._layout.map_seed,
            "collided": self._collided,
            "success": self._success,
        }
        return info | {"events": len(self.changed)} if self._events else info

    def _after(self) -> None:
        if self.render_mode == "human":
            self.render()


def _check_seeds(split: Split, map_seeds: Sequence[int] | None) -> Sequence[int]:
    everything = seed_range(split)
    if map_seeds is None:
        return everything
    if not len(map_seeds):
        raise ConfigError("map_seeds needs at least one seed, or None for the whole split.")
    strangers = [int(seed) for seed in map_seeds if seed not in everything]
    if strangers:
        raise ConfigError(
            f"Map seed {strangers[0]} is not of the {split} split ({everything.start} … {everything.stop - 1}); "
            "name its split."
        )
    return [int(seed) for seed in map_seeds]
