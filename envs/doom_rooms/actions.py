"""What the player of DoomRooms can do: keys or numbers, and the movement each asks for."""

from __future__ import annotations

import math
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ...errors import ConfigError
from ...world_models.actions import ActionSpec

STEP_LENGTH = 25.0
"""Map units of one move on free ground, exact to 1/65536 unit."""
STEP_ANGLE = math.pi / 8
"""Radians of one turn, exact."""

ActionKind = Literal["discrete", "continuous"]
Move = tuple[float, float, float]
"""(forward, left, turn) in [-1, 1], in units of `STEP_LENGTH` and `STEP_ANGLE`."""

_MOVES: dict[str, Move] = {
    "noop": (0.0, 0.0, 0.0),
    "forward": (1.0, 0.0, 0.0),
    "back": (-1.0, 0.0, 0.0),
    "strafe_left": (0.0, 1.0, 0.0),
    "strafe_right": (0.0, -1.0, 0.0),
    "turn_left": (0.0, 0.0, 1.0),
    "turn_right": (0.0, 0.0, -1.0),
}


class Actions:
    """The action space of one kind, and what its actions mean.

    Attributes:
        spec: what they are called and how they move, for whoever learns from them.
        space: the Gymnasium space.
        names: of discrete actions; none of continuous ones.

    Args:
        kind: ``"discrete"`` keys, or ``"continuous"`` (forward, strafe to the left, turn to the left).

    Raises:
        ConfigError: another kind.
    """

    def __init__(self, kind: ActionKind) -> None:
        if kind not in ("discrete", "continuous"):
            raise ConfigError(f"actions is 'discrete' or 'continuous'; got {kind!r}.")
        self.names: tuple[str, ...] = ()
        self.space: gym.Space[Any]
        if kind == "discrete":
            self.names = tuple(_MOVES)
            self.spec = ActionSpec("discrete", self.names, tuple(_motion(*move) for move in _MOVES.values()))
            self.space = gym.spaces.Discrete(len(self.names))
        else:
            axes = (_motion(1, 0, 0), _motion(0, 1, 0), _motion(0, 0, 1))
            self.spec = ActionSpec("box", ("forward", "strafe", "turn"), axes)
            self.space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def move(self, action: Any) -> Move:
        """What ``action`` asks for.

        Raises:
            ValueError: it is not in the space.
        """
        if self.names:
            if not self.space.contains(action):
                raise ValueError(f"An action is 0 … {len(self.names) - 1} ({', '.join(self.names)}); got {action!r}.")
            return _MOVES[self.names[int(action)]]
        values = np.asarray(action, np.float64)
        if values.shape != (3,) or not bool((np.abs(values) <= 1 + 1e-6).all()):
            raise ValueError(f"An action is (forward, left, turn), each in [-1, 1]; got {action!r}.")
        forward, left, turn = values.tolist()
        return forward, left, turn


def _motion(forward: float, left: float, turn: float) -> tuple[float, ...]:
    return (forward * STEP_LENGTH, left * STEP_LENGTH, 0.0, turn * STEP_ANGLE, 0.0)
