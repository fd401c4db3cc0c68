"""MineDojo's eight-number action, every cell of it, as a typed action with a canonical motion; and back.

What the numbers mean is MineDojo's; lengths and angles are Minecraft 1.11's on level ground. Camera steps are exact
(up to the game's limit of 90 degrees up and down). Walking is the speed once under way: the game accelerates, so the
first tick from rest covers 0.098 blocks instead of 0.216, and a walker coasts for a few ticks after the key is let go.
Sneaking and sprinting are likewise speeds once under way. A jump's ``up`` is its first tick alone, and only when it
starts from the ground. Water, ladders, ice, hunger and walls are not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from ..world_models.actions import ActionSpec

CELLS = (3, 3, 4, 25, 25, 8, 244, 36)
"""Sizes of MineDojo's action: forward/back, left/right, gait, pitch, yaw, function, item to craft, inventory slot."""

TICKS_PER_SECOND = 20
WALK = 4.317 / TICKS_PER_SECOND
"""Blocks per tick."""
SNEAK = 1.295 / TICKS_PER_SECOND
SPRINT = 5.612 / TICKS_PER_SECOND
JUMP = 0.42
"""Blocks upwards in the first tick of a jump."""
TURN_DEGREES = 15
_MIDDLE = 12
_SIGNS = (0, 1, -1)
EXTRA_TICKS = 2


class Gait(IntEnum):
    """The third number: a key held beside the movement keys."""

    WALK = 0
    JUMP = 1
    SNEAK = 2
    SPRINT = 3


class Function(IntEnum):
    """The sixth number. All but `NONE`, `USE` and `ATTACK` run `EXTRA_TICKS` further ticks in which nothing is held,
    because the game answers them late."""

    NONE = 0
    USE = 1
    DROP = 2
    ATTACK = 3
    CRAFT = 4
    EQUIP = 5
    PLACE = 6
    DESTROY = 7

    @property
    def ticks(self) -> int:
        """Game ticks that a step with this function lasts."""
        return 1 if self in (Function.NONE, Function.USE, Function.ATTACK) else 1 + EXTRA_TICKS


@dataclass(frozen=True)
class MineDojoAction:
    """One step in Minecraft.

    Attributes:
        forward: 1 forward, -1 back, 0 neither.
        left: 1 to the left, -1 to the right, 0 neither.
        gait: what is held beside.
        turn_left: degrees counter-clockwise, a multiple of 15 in -180 … 180.
        look_up: degrees upwards, likewise.
        function: what the hands do.
        item: index of the item to craft or smelt, 0 … 243; read by `Function.CRAFT` alone.
        slot: inventory slot, 0 … 35; read by `Function.EQUIP`, `PLACE` and `DESTROY` alone.
    """

    forward: int = 0
    left: int = 0
    gait: Gait = Gait.WALK
    turn_left: int = 0
    look_up: int = 0
    function: Function = Function.NONE
    item: int = 0
    slot: int = 0

    def __post_init__(self) -> None:
        if self.forward not in _SIGNS or self.left not in _SIGNS:
            raise ValueError(f"forward and left are -1, 0 or 1; got {self.forward} and {self.left}.")
        for degrees in (self.turn_left, self.look_up):
            if degrees % TURN_DEGREES or abs(degrees) > 180:
                raise ValueError(f"Camera steps are multiples of {TURN_DEGREES} degrees in -180 … 180; got {degrees}.")
        if not (0 <= self.item < CELLS[6] and 0 <= self.slot < CELLS[7]):
            raise ValueError(f"item lies below {CELLS[6]} and slot below {CELLS[7]}; got {self.item} and {self.slot}.")

    @property
    def motion(self) -> tuple[float, float, float, float, float]:
        """Nominal (forward, left, up, yaw, pitch) of the first tick's keys, in blocks per tick and radians.

        The game turns first and then walks along the new heading; ``forward`` and ``left`` are along that heading.
        """
        sprinting = self.gait is Gait.SPRINT and self.forward > 0
        speed = SPRINT if sprinting else SNEAK if self.gait is Gait.SNEAK else WALK
        # The game caps the length of a diagonal input at that of one key, but sneaking shortens it before the cap.
        both = self.forward != 0 and self.left != 0 and self.gait is not Gait.SNEAK
        speed /= math.sqrt(2) if both else 1
        up = JUMP if self.gait is Gait.JUMP else 0.0
        return (
            self.forward * speed,
            self.left * speed,
            up,
            math.radians(self.turn_left),
            math.radians(self.look_up),
        )


def encode(action: MineDojoAction) -> np.ndarray:
    """The eight numbers (8,) int64 of ``action``, which MineDojo takes."""
    return np.array(
        [
            _SIGNS.index(action.forward),
            _SIGNS.index(action.left),
            action.gait,
            _MIDDLE - action.look_up // TURN_DEGREES,
            _MIDDLE - action.turn_left // TURN_DEGREES,
            action.function,
            action.item,
            action.slot,
        ],
        np.int64,
    )


def decode(vector: Sequence[int] | np.ndarray) -> MineDojoAction:
    """The inverse of `encode`.

    Raises:
        ValueError: not eight whole numbers within `CELLS`.
    """
    ahead, side, gait, pitch, yaw, function, item, slot = check(vector).tolist()
    return MineDojoAction(
        forward=_SIGNS[ahead],
        left=_SIGNS[side],
        gait=Gait(gait),
        turn_left=(_MIDDLE - yaw) * TURN_DEGREES,
        look_up=(_MIDDLE - pitch) * TURN_DEGREES,
        function=Function(function),
        item=item,
        slot=slot,
    )


def from_motion(
    motion: Sequence[float], function: Function = Function.NONE, item: int = 0, slot: int = 0
) -> MineDojoAction:
    """The action whose nominal motion is nearest to ``motion`` (5,), in blocks per tick and radians; the inverse of
    `MineDojoAction.motion`. Angles beyond a half turn are cut to it.

    Raises:
        ValueError: an item or slot that does not exist.
    """
    turn, look = (_cell_degrees(angle) for angle in motion[3:])
    keys = min(_KEYS, key=lambda action: math.dist(action.motion[:3], motion[:3]))
    return replace(keys, turn_left=turn, look_up=look, function=function, item=item, slot=slot)


def _cell_degrees(angle: float) -> int:
    cells = round(math.degrees(angle) / TURN_DEGREES)
    return max(-_MIDDLE, min(_MIDDLE, cells)) * TURN_DEGREES


def check(vector: Any) -> np.ndarray:
    """``vector`` as (8,) int64.

    Raises:
        ValueError: not eight whole numbers within `CELLS`.
    """
    array = np.asarray(vector)
    if array.shape != (len(CELLS),) or array.dtype.kind not in "iu":
        raise ValueError(f"A MineDojo action is {len(CELLS)} whole numbers; got {vector!r}.")
    if not bool(((array >= 0) & (array < CELLS)).all()):
        raise ValueError(f"A MineDojo action's numbers lie below {CELLS}; got {array.tolist()}.")
    return array.astype(np.int64)


_KEYS = tuple(MineDojoAction(forward, left, gait) for gait in Gait for forward in _SIGNS for left in _SIGNS)
"""Every combination of movement keys; where two move alike, the one with no key beside comes first."""

NAMED = {
    "noop": MineDojoAction(),
    "forward": MineDojoAction(forward=1),
    "back": MineDojoAction(forward=-1),
    "strafe_left": MineDojoAction(left=1),
    "strafe_right": MineDojoAction(left=-1),
    "turn_left": MineDojoAction(turn_left=TURN_DEGREES),
    "turn_right": MineDojoAction(turn_left=-TURN_DEGREES),
    "look_up": MineDojoAction(look_up=TURN_DEGREES),
    "look_down": MineDojoAction(look_up=-TURN_DEGREES),
    "jump": MineDojoAction(gait=Gait.JUMP),
    "jump_forward": MineDojoAction(forward=1, gait=Gait.JUMP),
}
"""The keys of ``actions="discrete"``, in order."""

DISCRETE = ActionSpec("discrete", tuple(NAMED), tuple(action.motion for action in NAMED.values()))
