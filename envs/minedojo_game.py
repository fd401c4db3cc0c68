"""A Minecraft game behind MineDojo: missions, steps and teleports, with failures raised instead of hidden.

Minecraft's frame has y up, x east and z south; yaw is in degrees clockwise (seen from above) from south, not wrapped,
and pitch in degrees downwards. The canonical frame lays x east, y north and z up.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, EngineError
from .minedojo_actions import NAMED, encode

EYE_HEIGHT = 1.62
"""Blocks from the feet, which Minecraft reports, to the camera."""
SNEAKING_EYE_HEIGHT = 1.54
SETTLE_TICKS = 10
"""Ticks that a teleport may take: the game's server carries it out, and the client hears of it later."""

_NOOP = encode(NAMED["noop"])


def canonical_pose(x: float, y: float, z: float, yaw: float, pitch: float, eye: float = EYE_HEIGHT) -> np.ndarray:
    """The canonical pose (5,) float64 of a player whose feet are at Minecraft's (x, y, z), looking to yaw and pitch.

    Minecraft looks along (-sin yaw cos pitch, -sin pitch, cos yaw cos pitch); with (x, -z, y) as axes that is the
    canonical direction for the angles -(yaw + 90°) and -pitch.
    """
    angle = math.remainder(-math.radians(yaw + 90.0), 2 * math.pi)
    angle = -math.pi if angle >= math.pi else angle
    return np.array([x, 0.0 - z, y + eye, angle, 0.0 - math.radians(pitch)])


def minecraft_place(pose: np.ndarray) -> tuple[float, float, float, float, float]:
    """The inverse of `canonical_pose` for a standing player: x, y, z of the feet, yaw and pitch in degrees."""
    x, y, z, yaw, pitch = pose.tolist()
    return x, z - EYE_HEIGHT, -y, math.remainder(-math.degrees(yaw) - 90.0, 360.0), -math.degrees(pitch)


@dataclass(frozen=True)
class View:
    """What the game shows after a tick.

    Attributes:
        frame: (H, W, 3) uint8.
        pose: canonical pose (5,) float64 of the frame.
        over: the mission has ended, or the player is dead.
    """

    frame: np.ndarray
    pose: np.ndarray
    over: bool


class Game:
    """One Minecraft, which plays one mission after the other.

    Args:
        frame_size: height and width of the pictures.
        settings: arguments of ``minedojo.sim.MineDojoSim`` beside picture size and seeds.
        port: of a game that runs already; by default MineDojo starts one of its own with the first mission.
        timeout: seconds to wait for an answer of the game.

    Raises:
        ConfigError: MineDojo is not installed, or refuses the settings.
    """

    def __init__(self, frame_size: tuple[int, int], settings: dict[str, Any], port: int | None, timeout: float) -> None:
        self._sim_module = _minedojo("minedojo.sim")
        _minedojo("minedojo.sim.bridge.utils.watchdog")  # MineDojo itself would miss its packages only later.
        self._wrappers = _minedojo("minedojo.sim.wrappers.ar_nn.nn_action_space_wrapper")
        self._frame_size, self._settings, self._port, self._timeout = frame_size, settings, port, timeout
        self._bridge: _GuardedBridge | None = None
        self._sim, self._env = self._mission(0)

    def start(self, map_seed: int) -> View:
        """Begin a mission in a newly generated world of ``map_seed``.

        Raises:
            EngineError: the game could not start or did not answer as it should.
        """
        self._sim, self._env = self._mission(map_seed)
        with _failures("start a mission"):
            if self._bridge is None:
                self._bridge = _GuardedBridge(self._sim._bridge_env, self._port, self._timeout)
            # MineDojo ties a world's seed to the simulator object; handing the connection on spares a new game.
            self._sim._bridge_env = self._bridge
            observation = self._env.reset()
            return self._view(observation, False, EYE_HEIGHT)

    def step(self, vector: np.ndarray, sneaking: bool = False) -> View:
        """Carry out one MineDojo action (8,).

        Raises:
            EngineError: the game died, fell silent, or sent what cannot be read.
        """
        with _failures("take a step"):
            observation, _, done, _ = self._env.step(vector)
            return self._view(observation, bool(done), SNEAKING_EYE_HEIGHT if sneaking else EYE_HEIGHT)

    def teleport(self, pose: np.ndarray) -> View:
        """Stand at ``pose`` (5,) and wait until the game says so, for up to `SETTLE_TICKS`.

        Raises:
            ValueError: the player does not stay there: the place is in the air, or inside something.
            EngineError: as `step`.
        """
        # Numbers without a decimal point would be moved to the middle of their block.
        place = (f"{value:.6f}" for value in minecraft_place(pose))
        with _failures("teleport"):
            observation, _, done, _ = self._sim.teleport_agent(*place)
            view = self._view(observation, bool(done), EYE_HEIGHT)
        for _ in range(SETTLE_TICKS):
            if view.over or _close(view.pose, pose):
                break
            view = self.step(_NOOP)
        if not _close(view.pose, pose):
            raise ValueError(f"The player does not stay at {pose.tolist()}; the game has it at {view.pose.tolist()}.")
        return view

    def close(self) -> None:
        """Hang up, and end the game if MineDojo started it."""
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None

    def _mission(self, map_seed: int) -> tuple[Any, Any]:
        # Minecraft reads the seed 0 as "any", so seeds are counted from 1; and it keeps the old world, whatever the
        # seed, unless told to make a new one.
        try:
            sim = self._sim_module.MineDojoSim(
                image_size=self._frame_size,
                seed=map_seed,
                world_seed=str(map_seed + 1),
                regenerate_world_after_reset=True,
                **self._settings,
            )
        except (TypeError, ValueError, AssertionError, LookupError) as error:
            raise ConfigError(f"MineDojo refuses the settings {self._settings}: {error}") from error
        return sim, self._wrappers.NNActionSpaceWrapper(sim, strict_check=False)

    def _view(self, observation: Any, done: bool, eye: float) -> View:
        # The parsed observation holds the same numbers in single precision, and zeros where the game sent none.
        stats = self._sim.prev_info
        x, y, z, yaw, pitch = (float(stats[key]) for key in ("xpos", "ypos", "zpos", "yaw", "pitch"))
        frame = np.ascontiguousarray(observation["rgb"].transpose(1, 2, 0))
        dead = float(stats["life"]) <= 0 or not stats.get("is_alive", True)
        return View(frame, canonical_pose(x, y, z, yaw, pitch, eye), done or dead)


class _GuardedBridge:
    """MineDojo's connection to the game, raising where MineDojo would repeat the last frame or show a black one."""

    def __init__(self, bridge: Any, port: int | None, timeout: float) -> None:
        self._bridge = bridge
        bridge.SOCKTIME = timeout
        self._existing = None
        if port is not None:
            self._existing = bridge._get_new_instance(port=port)
            self._existing._acquire_lock(os.getpid())
            bridge._instances.append(self._existing)

    @property
    def is_terminated(self) -> bool:
        return bool(self._bridge.is_terminated)

    def reset(self, episode: str, missions: list[Any]) -> dict[int, dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = self._bridge.reset(episode, missions)
        _check_picture(answers)
        return answers

    def step(self, actions: list[str]) -> Any:
        result = self._bridge.step(actions)
        # A connection lost between the answer and the next request shows as an ended mission.
        if not result.step_success or (self._bridge.is_terminated and self._hung_up()):
            raise EngineError("Minecraft hung up or fell silent in the middle of a step.")
        _check_picture(result.raw_obs)
        return result

    def close(self) -> None:
        with suppress(Exception):  # It may be dead already, in any way.
            self._bridge.close()
        if self._existing is not None:
            pool = _minedojo("minedojo.sim.bridge.mc_instance").InstanceManager._instance_pool
            if self._existing in pool:
                pool.remove(self._existing)

    def _hung_up(self) -> bool:
        link = self._bridge._instances[0].client_socket
        if not select.select([link], [], [], 0)[0]:
            return False
        try:
            return not link.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def _check_picture(answers: dict[int, dict[str, Any]]) -> None:
    if not answers[0]["pov"]:
        raise EngineError("Minecraft sent no picture.")


def _close(pose: np.ndarray, wanted: np.ndarray) -> bool:
    turn = math.remainder(pose[3] - wanted[3], 2 * math.pi)
    return bool(np.abs(pose[:3] - wanted[:3]).max() < 1e-3 and abs(turn) < 1e-4 and abs(pose[4] - wanted[4]) < 1e-4)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    # MineDojo answers a broken connection or a damaged message with whatever its parsing happens to raise.
    except Exception as error:
        raise EngineError(f"Minecraft could not {what}: {type(error).__name__}: {error}") from error


def _minedojo(name: str) -> Any:
    """A module of MineDojo.

    Raises:
        ConfigError: it is not installed.
    """
    # The one name that MineDojo 0.1 uses and NumPy 2 lacks.
    if not hasattr(np, "unicode_"):
        np.unicode_ = np.str_  # type: ignore[attr-defined]  # noqa: NPY201
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "MineDojo is not installed (docs/minedojo.md of worldloop says how, `pip install minedojo` alone fails "
            f"with current build tools): {error}"
        ) from error
    # Statistics that the game leaves out are reported one by one, at every step, as errors.
    logging.getLogger("minedojo.sim.handlers").setLevel(logging.CRITICAL)
    return module
