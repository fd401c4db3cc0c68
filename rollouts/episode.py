"""`Episode`: one recorded stay in a real world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

ROW_FIELDS: dict[str, tuple[tuple[int, ...] | None, tuple[str, ...]]] = {
    "actions": (None, ("int64", "float32")),
    "poses": ((5,), ("float64",)),
    "rewards": ((), ("float32",)),
    "terminated": ((), ("bool",)),
    "truncated": ((), ("bool",)),
    "collided": ((), ("bool",)),
    "success": ((), ("bool",)),
}
"""Every array of an episode but its frames: the shape of a row (None: that of an action), and its types."""


@dataclass(frozen=True)
class Episode:
    """T frames of one episode and what is known of each.

    Row i of every array belongs to frame i, and ``actions[i]`` is the action that **led to** frame i.
    Row 0 is the frame that ``reset`` returned: its action is zero and means nothing, its reward is 0.

    An episode whose last row is neither terminated nor truncated was still going on when recording stopped.

    Attributes:
        frames: (T, H, W, 3) uint8.
        actions: (T, ...) in the environment's own action space: int64 for discrete, float32 for box.
        poses: (T, 5) float64 canonical, of the camera that saw each frame.
        rewards: (T,) float32.
        terminated: (T,) bool, true in the last row or nowhere.
        truncated: (T,) bool, true in the last row or nowhere.
        collided: (T,) bool, whether something stopped the movement that led to the frame.
        success: (T,) bool, whether the task was solved at the frame.
        map_seed: the map it happened in.
        policy: name of the policy that chose the actions.

    Raises:
        DataError: an array has the wrong shape or type, a number is not finite, or frames follow the end.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    collided: NDArray[np.bool_]
    success: NDArray[np.bool_]
    map_seed: int
    policy: str = "unknown"

    def __post_init__(self) -> None:
        frames, t = self.frames, len(self.frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or t == 0:
            raise DataError(
                f"Frames of an episode are (T, H, W, 3) uint8 with T >= 1; got {frames.shape} {frames.dtype}."
            )
        for name, (row, types) in ROW_FIELDS.items():
            array = getattr(self, name)
            if len(array) != t or row not in (None, array.shape[1:]) or str(array.dtype) not in types:
                raise DataError(
                    f"'{name}' of an episode of {t} frames needs shape {(t, *(row or ()))} and type "
                    f"{' or '.join(types)}; got {array.shape} {array.dtype}."
                )
        if not (np.isfinite(self.poses).all() and np.isfinite(self.rewards).all()):
            raise DataError("Poses and rewards of an episode must be finite; got NaN or infinity.")
        if self.terminated[:-1].any() or self.truncated[:-1].any():
            raise DataError("An episode ends at its first terminated or truncated frame; more frames follow.")

    def __len__(self) -> int:
        """T, the number of frames."""
        return len(self.frames)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])
