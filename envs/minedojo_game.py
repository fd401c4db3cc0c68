"""A Minecraft game behind MineDojo: missions, steps and teleports, with failures raised instead of hidden."""

from __future__ import annotations

import importlib
import logging
import math
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, EngineError
from .minedojo_actions import EXTRA_TICKS, NAMED, encode
from .pose_wrapper import Convention

MINECRAFT = Convention(("x", "-z", "y"), ("z", "-x"), degrees=True, pitch_up=False)
"""Minecraft has x east, y up and z south; its yaw is clockwise from south and not wrapped, its pitch downwards. The
canonical x is east, y north and z up."""
EYE_HEIGHT = 1.62
"""Blocks from the feet, which Minecraft reports, to the camera."""
SNEAKING_EYE_HEIGHT = 1.54
SETTLE_TICKS = 10
"""Ticks that a teleport may take: the game's server carries it out, and the client hears of it later."""
CLAIM_PATIENCE = 10.0
"""Seconds that a running game may stay another environment's: a recording that was killed hangs up within a step."""

_NOOP = encode(NAMED["noop"])


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

    def is_at(self, pose: np.ndarray) -> bool:
        """Whether the frame is from ``pose`` (5,), within a thousandth of a block and 1e-4 radians."""
        turn = math.remainder(self.pose[3] - pose[3], 2 * math.pi)
        near = np.abs(self.pose[:3] - pose[:3]).max() < 1e-3
        return bool(near and abs(turn) < 1e-4 and abs(self.pose[4] - pose[4]) < 1e-4)


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
        """Send the player to ``pose`` (5,) and wait until the game says so, for up to `SETTLE_TICKS`.

        The view is from somewhere else where the player does not stay there: in the air, or inside something.

        Raises:
            EngineError: as `step`.
        """
        x, y, z, yaw, pitch = MINECRAFT.from_canonical(pose)
        # Numbers without a decimal point would be moved to the middle of their block.
        place = (f"{value:.6f}" for value in (x, y - EYE_HEIGHT, z, yaw, pitch))
        with _failures("teleport"):
            observation, _, done, _ = self._sim.teleport_agent(*place)
            view = self._view(observation, bool(done), EYE_HEIGHT)
        for tick in range(SETTLE_TICKS):
            # The pose may be right already and the command still on its way, to undo what happens next.
            if view.over or (tick >= EXTRA_TICKS and view.is_at(pose)):
                break
            view = self.step(_NOOP)
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
            # Its spaces have infinite bounds of whole numbers, of which NumPy warns.
            with np.errstate(invalid="ignore"):
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
        pose = MINECRAFT.to_canonical([float(stats[key]) for key in ("xpos", "ypos", "zpos", "yaw", "pitch")])
        pose[2] += eye
        frame = np.ascontiguousarray(observation["rgb"].transpose(1, 2, 0))
        dead = float(stats["life"]) <= 0 or not stats.get("is_alive", True)
        return View(frame, pose, done or dead)


class _GuardedBridge:
    """MineDojo's connection to the game, raising where MineDojo would repeat the last frame or show a black one."""

    def __init__(self, bridge: Any, port: int | None, timeout: float) -> None:
        self._bridge = bridge
        bridge.SOCKTIME = timeout
        self._existing = self._claim = None
        if port is not None:
            self._claim = _claim(port)
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
        if self._claim is not None:
            self._claim.close()

    def _hung_up(self) -> bool:
        link = self._bridge._instances[0].client_socket
        if not select.select([link], [], [], 0)[0]:
            return False
        try:
            return not link.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def _claim(port: int) -> socket.socket | None:
    """The sole right to play the game at ``port`` of this machine, until the socket is closed or the process dies.

    A game takes a second connection and then plays one walk with two players' keys, telling neither.

    Raises:
        EngineError: another environment plays it, of this or any other process.
    """
    # Elsewhere a name that vanishes with its process would take a file.
    if sys.platform != "linux":
        return None
    claim = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + CLAIM_PATIENCE
    while True:
        try:
            claim.bind(f"\0worldloop.minedojo.{port}")
            return claim
        except OSError as error:
            if time.monotonic() > deadline:
                claim.close()
                raise EngineError(
                    f"The game at port {port} is played by another environment, and a game has one player: collect "
                    "with --workers 1, or leave port out so that every worker starts a game of its own."
                ) from error
        time.sleep(0.1)


def _check_picture(answers: dict[int, dict[str, Any]]) -> None:
    if not answers[0]["pov"]:
        raise EngineError("Minecraft sent no picture.")


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
    # It tells of its tasks, unasked, wherever it is imported.
    logging.getLogger("minedojo.tasks").addFilter(_is_warning)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "MineDojo is not installed: it takes `PIP_CONSTRAINT=minedojo-build.txt pip install --no-deps "
            "minedojo==0.1 gym==0.21.0` and a few packages, which docs/minedojo.md of worldloop names; "
            f"import says: {error}."
        ) from error
    # Statistics that the game leaves out are reported one by one, at every step, as errors.
    logging.getLogger("minedojo.sim.handlers").setLevel(logging.CRITICAL)
    return module


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
