"""A real world that takes no engine: exact walking through generated rooms; pictures that hold the pose."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np

from worldloop.envs.doom_rooms.layout import generate
from worldloop.world_models.actions import ActionSpec

STEP, TURN = 25.0, math.pi / 8
GOAL_DISTANCE = 64.0
_MOTION = {
    "noop": (0.0, 0.0, 0.0, 0.0, 0.0),
    "forward": (STEP, 0.0, 0.0, 0.0, 0.0),
    "back": (-STEP, 0.0, 0.0, 0.0, 0.0),
    "strafe_left": (0.0, STEP, 0.0, 0.0, 0.0),
    "strafe_right": (0.0, -STEP, 0.0, 0.0, 0.0),
    "turn_left": (0.0, 0.0, 0.0, TURN, 0.0),
    "turn_right": (0.0, 0.0, 0.0, -TURN, 0.0),
}
_AXES = {
    "forward": (STEP, 0.0, 0.0, 0.0, 0.0),
    "strafe": (0.0, -STEP, 0.0, 0.0, 0.0),
    "turn": (0.0, 0.0, 0.0, -TURN, 0.0),
}
SPECS = {
    "discrete": ActionSpec("discrete", tuple(_MOTION), tuple(_MOTION.values())),
    "continuous": ActionSpec("box", tuple(_AXES), tuple(_AXES.values())),
}


def picture(pose: np.ndarray, map_seed: int) -> np.ndarray:
    """A (16, 16, 3) frame that says exactly from where it was seen: 48 bytes, sixteen times."""
    return np.frombuffer(np.append(pose, float(map_seed)).tobytes() * 16, np.uint8).reshape(16, 16, 3).copy()


class WalkRooms(gym.Env[np.ndarray, Any]):
    """Reach the goal (reward 1, terminated) by steps of 25 units and 22.5°; a blocked step does nothing.

    ``slow`` sleeps that many seconds a step; the process dies in map ``die_in``, and map ``fail_in`` raises.
    """

    generator_version = "walk/1"

    def __init__(
        self,
        actions: str = "discrete",
        slow: float = 0.0,
        die_in: int = -1,
        fail_in: int = -1,
        max_steps: int = 10_000,
    ) -> None:
        self.action_spec = SPECS[actions]
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        n = self.action_spec.n
        self.action_space = (
            gym.spaces.Discrete(n) if actions == "discrete" else gym.spaces.Box(-1, 1, (n,), np.float32)
        )
        self._slow, self._die_in, self._fail_in, self._max_steps = slow, die_in, fail_in, max_steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.map_seed = int((options or {}).get("map_seed", 0))
        if self.map_seed == self._die_in:
            os._exit(7)
        if self.map_seed == self._fail_in:
            raise RuntimeError("the map is on fire")
        self.layout = generate(self.map_seed)
        x, y = self.layout.random_position(self.np_random)
        self._pose = np.array([x, y, 41.0, TURN * self.np_random.integers(16), 0.0])
        self._steps, self._collided = 0, False
        return picture(self._pose, self.map_seed), self._info(False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self._slow)
        table = np.array(self.action_spec.motion)
        motion = table[action] if self.action_spec.kind == "discrete" else action.astype(float) @ table
        yaw = self._pose[3]
        x = self._pose[0] + motion[0] * math.cos(yaw) - motion[1] * math.sin(yaw)
        y = self._pose[1] + motion[0] * math.sin(yaw) + motion[1] * math.cos(yaw)
        self._collided = not self.layout.clear(x, y)
        if not self._collided:
            self._pose[:2] = x, y
        self._pose[3] = (yaw + motion[3] + math.pi) % (2 * math.pi) - math.pi
        self._steps += 1
        success = math.dist(self._pose[:2], self.layout.goal) <= GOAL_DISTANCE
        reward = 1.0 if success else -0.002
        info = self._info(success)
        return picture(self._pose, self.map_seed), reward, success, self._steps >= self._max_steps, info

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "pose": self._pose.copy(),
            "map_seed": self.map_seed,
            "collided": self._collided,
            "success": success,
        }


gym.register(id="WalkRooms-v0", entry_point=WalkRooms)
