"""Policies that collect experience: they walk, look around, come back, or do what a given policy does."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .steering import OTHER_GAITS, WALKING, YAW, Gait, Layout, Point, Steering, Walk

ROOMS_PER_BLOCK = 1 / 20
"""Scale of LoopNav's radii, in Minecraft blocks: 5 | 15 | 30 | 50 blocks become 0.25 … 2.5 rooms."""

AGENT = "worldloop.agents.exploring:AgentExplorer"
"""Trained agents as explorers. They are named and not imported: environments know nothing of agents."""

LOOP_RADII = tuple(blocks * ROOMS_PER_BLOCK for blocks in (5, 15, 30, 50))


Decide = Callable[[Any, dict[str, Any], np.random.Generator], Any]
"""A policy as a function: (observation, info, rng) -> action."""


@runtime_checkable
class Explorer(Protocol):
    """A policy that may know more than it sees: the map, and where it stands.

    Attributes:
        name: what is recorded as the policy's name.
    """

    name: str

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """Begin an episode: ``env`` has just been reset. All chance comes from ``rng``."""

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """The action for the frame and info just returned."""


@runtime_checkable
class Remembers(Protocol):
    """An explorer that goes by what it has done, and so must hear of it where something else was done instead."""

    def took(self, action: Any) -> None:
        """Not what `Explorer.act` returned last was carried out, but ``action``."""


class RandomPolicy:
    """Uniformly random actions, each held for a random number of steps up to ``max_repeat``."""

    name = "random"

    def __init__(self, max_repeat: int = 6) -> None:
        self._max_repeat = max_repeat

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        self._steering, self._rng, self._left = Steering(action_spec(env)), rng, 0

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        if self._left == 0:
            self._action = self._steering.random(self._rng)
            self._left = int(self._rng.integers(1, self._max_repeat + 1))
        self._left -= 1
        return self._action


class Planned:
    """Base of the explorers that write down what they do as a generator of actions."""

    name: str

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        self._layout, self._steering, self._rng = layout_of(env), Steering(action_spec(env)), rng
        self._plan: Iterator[Any] | None = None

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        self._pose = np.asarray(info["pose"], dtype=np.float64)
        self._collided = bool(info.get("collided", False))
        if self._plan is None:
            self._plan = self._live()
        return next(self._plan)

    def _live(self) -> Iterator[Any]:
        """Actions without end. After each ``yield`` the pose and collision are those of the newest frame."""
        raise NotImplementedError

    def _go(self, target: Point, gait: Gait = WALKING) -> Iterator[Any]:
        walk = Walk(self._layout, self._steering, self._pose, target, gait)
        self._collided = False
        while (action := walk.act(self._pose, self._collided, self._rng)) is not None:
            yield action

    def _turn_to(self, yaw: float) -> Iterator[Any]:
        while (action := self._steering.facing(self._pose, yaw)) is not None:
            yield action

    def _look_around(self) -> Iterator[Any]:
        """Turn by a quarter, half or whole circle one way; now and then turn back."""
        angle = float(self._rng.choice([0.5, 1.0, 2.0])) * math.pi
        sign = 1 if self._rng.random() < 0.5 else -1
        steps = round(angle / self._steering.turn)
        yield from [self._steering.action(YAW, sign * self._steering.turn)] * steps
        if angle < 2 * math.pi and self._rng.random() < 0.5:
            yield from [self._steering.action(YAW, -sign * self._steering.turn)] * steps

    def _somewhere(self) -> Point:
        return self._layout.random_position(self._rng)


class WaypointExplorer(Planned):
    """Walks from place to place through the whole map and looks around at some of them.

    Args:
        goal_fraction: share of the places that are the goal object, which ends an episode of the task
            ``find``.
        look_fraction: how often it looks around on arrival.
        other_gaits: share of its walks to places other than the goal that go backwards or sideways, so
            that every action is seen in motion and not only as a mishap.
    """

    name = "waypoint"

    def __init__(
        self, goal_fraction: float = 1 / 3, look_fraction: float = 0.3, other_gaits: float = 0.3
    ) -> None:
        self._goal_fraction, self._look_fraction, self._other_gaits = (
            goal_fraction,
            look_fraction,
            other_gaits,
        )

    def _live(self) -> Iterator[Any]:
        while True:
            to_goal = self._rng.random() < self._goal_fraction
            if to_goal:
                yield from self._go(self._layout.goal)
            else:
                yield from self._go(self._somewhere(), self._gait())
            # At the goal it always looks around: a walk to where one stands already takes no action, and
            # going to the goal again and again must not become a loop without any.
            if to_goal or self._rng.random() < self._look_fraction:
                yield from self._look_around()

    def _gait(self) -> Gait:
        possible = [gait for gait in OTHER_GAITS if self._steering.can(gait)]
        if not possible or self._rng.random() >= self._other_gaits:
            return WALKING
        return possible[int(self._rng.integers(len(possible)))]


class LoopWalker(Planned):
    """Leaves a place and comes back to it, facing as before: LoopNav's ABA and ABCA paths.

    B lies at one of LoopNav's four radii from A, scaled by `ROOMS_PER_BLOCK`, as nearly as the map
    allows, and C at the same distance from A. Every leg takes the map's shortest route, so that an ABA
    path returns as it went.

    Args:
        radii: distances from A, in rooms.
    """

    name = "loop"
    _PLACES = 24

    def __init__(self, radii: tuple[float, ...] = LOOP_RADII) -> None:
        self._radii = radii

    def _live(self) -> Iterator[Any]:
        while True:
            start: Point = (float(self._pose[0]), float(self._pose[1]))
            yaw = float(self._pose[3])
            radius = float(self._rng.choice(self._radii)) * self._layout.room_size
            if self._rng.random() < 0.5:
                yield from self._look_around()
            for _ in range(1 if self._rng.random() < 0.5 else 2):
                yield from self._go(self._at_distance(start, radius))
            if self._rng.random() < 0.5:
                yield from self._look_around()
            yield from self._go(start)
            yield from self._turn_to(yaw)
            yield from self._look_around()

    def _at_distance(self, start: Point, radius: float) -> Point:
        places = [self._somewhere() for _ in range(self._PLACES)]
        return min(places, key=lambda place: abs(math.dist(place, start) - radius))


class SB3Policy:
    """A model saved by Stable-Baselines3.

    Loading one unpickles it, which runs whatever code is inside: only load files that you trust.

    Args:
        path: the model's ``.zip``.
        algorithm: name of its class in `stable_baselines3`, such as ``"PPO"``.

    Raises:
        ConfigError: SB3 is not installed, has no such algorithm, or cannot load the file.
    """

    name = "sb3"

    def __init__(self, path: Path | str, algorithm: str = "PPO") -> None:
        try:
            import stable_baselines3
        except ImportError as error:
            raise ConfigError("SB3 policies need the extra 'rl': pip install worldloop[rl].") from error
        if not hasattr(getattr(stable_baselines3, algorithm, None), "load"):
            raise ConfigError(f"Stable-Baselines3 has no algorithm {algorithm!r}.")
        try:
            self._model = _load_sb3(Path(path), algorithm, Path(path).stat().st_mtime_ns)
        except Exception as error:
            raise ConfigError(f"{path} could not be loaded as an SB3 {algorithm} model: {error}.") from error

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        self._state: Any = None
        self._start = np.ones(1, dtype=np.bool_)

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """The model's most likely action; sampling would draw from the global random generator."""
        action, self._state = self._model.predict(
            observation, state=self._state, episode_start=self._start, deterministic=True
        )
        self._start = np.zeros(1, dtype=np.bool_)
        return action


@lru_cache(maxsize=1)
def _load_sb3(path: Path, algorithm: str, modified: int) -> Any:
    # Every map gets explorers of its own; only the model, which acting does not change, is shared
    # between them.
    import stable_baselines3

    return getattr(stable_baselines3, algorithm).load(path, device="cpu")


class FunctionPolicy:
    """A plain function ``f(observation, info, rng) -> action``."""

    def __init__(self, function: Decide, name: str) -> None:
        self._function, self.name = function, name

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        self._rng = rng

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        return self._function(observation, info, self._rng)


class WithRandomActions:
    """Another explorer, disturbed by single random actions.

    Args:
        explorer: what chooses all other actions.
        epsilon: probability of a random action at each step.
    """

    def __init__(self, explorer: Explorer, epsilon: float) -> None:
        self._explorer, self._epsilon = explorer, epsilon
        self.name = explorer.name

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`."""
        self._explorer.reset(env, rng)
        self._steering, self._rng = Steering(action_spec(env)), rng

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        action = self._explorer.act(observation, info)
        if self._rng.random() >= self._epsilon:
            return action
        action = self._steering.random(self._rng)
        if isinstance(self._explorer, Remembers):
            self._explorer.took(action)
        return action


def load_explorer(name: str, *arguments: Any) -> Explorer:
    """An explorer of your own, named ``module:attribute``.

    The attribute is a class that makes an `Explorer`, or a function ``f(observation, info, rng) -> action``. The module
    is looked for in the working directory too.

    Args:
        name: of the class or function.
        arguments: that the class is made with.

    Raises:
        ConfigError: there is no such module or attribute, or it is neither.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"Cannot load the policy {name!r} (expected module:attribute): {error}.") from error
    if isinstance(found, type):
        explorer = found(*arguments)
        if not isinstance(explorer, Explorer):
            raise ConfigError(f"The class {name} needs a name, reset(env, rng) and act(observation, info).")
        return explorer
    if not callable(found):
        raise ConfigError(f"The policy {name} is neither a class nor a function.")
    return FunctionPolicy(found, name)


def digest_of(agent: Path) -> str:
    """What tells one saved agent from another: a hash of the files in its directory.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(path for path in agent.glob("[!.]*") if path.is_file())
    if not files:
        raise ConfigError(f"There is no agent in {agent}.")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()[:16]


def action_spec(env: gym.Env[Any, Any]) -> ActionSpec:
    """The action space of ``env`` as data.

    Raises:
        ConfigError: the environment does not tell.
    """
    spec = env.get_wrapper_attr("action_spec") if env.has_wrapper_attr("action_spec") else None
    if not isinstance(spec, ActionSpec):
        raise ConfigError(f"{env.unwrapped} needs an attribute 'action_spec' that says what its actions do.")
    return spec


def layout_of(env: gym.Env[Any, Any]) -> Layout:
    """The map of ``env``.

    Raises:
        ConfigError: the environment does not tell.
    """
    layout: Layout | None = env.get_wrapper_attr("layout") if env.has_wrapper_attr("layout") else None
    if layout is None:
        raise ConfigError(f"{env.unwrapped} has no 'layout' to walk by: use the random policy or your own.")
    return layout
