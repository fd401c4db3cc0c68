"""What an action means to the camera: one description for every real world's action space.

A world model never sees a Gymnasium space. It sees an `ActionSpec`: plain data that turns a batch of actions into
the nominal camera motion they ask for, from which the two encodings of the papers follow — WorldPlay's key classes
(§5: translation and rotation bits, opposite keys cancel) and RELIC's 13 non-negative magnitudes (§3.2).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .pose import MOTION_DIM

KEY_CLASSES = 81
MAGNITUDES = 13


@dataclass(frozen=True)
class ActionSpec:
    """An action space as data.

    Attributes:
        kind: ``"discrete"`` (integers 0 … n-1) or ``"box"`` (vectors in [-1, 1]).
        names: one name per discrete action, or per coordinate of a box action.
        motion: one nominal motion ``(forward, left, up, yaw, pitch)`` per name, in world units and radians: what the
            key does on free ground, or what the coordinate does at +1.
    """

    kind: Literal["discrete", "box"]
    names: tuple[str, ...]
    motion: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if self.kind not in ("discrete", "box"):
            raise ConfigError(f"An action spec is 'discrete' or 'box', not {self.kind!r}.")
        if len(self.names) != len(self.motion) or any(len(m) != MOTION_DIM for m in self.motion):
            raise ConfigError(
                f"An action spec needs one motion of {MOTION_DIM} numbers for each of its {len(self.names)} names."
            )

    @property
    def n(self) -> int:
        """Number of discrete actions, or of box coordinates."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: () for discrete, (n,) for box."""
        return () if self.kind == "discrete" else (self.n,)

    @property
    def still(self) -> NDArray[Any]:
        """The action that moves least, of shape `shape`."""
        if self.kind == "discrete":
            return np.array(np.abs(np.array(self.motion)).sum(1).argmin())
        return np.zeros(self.shape, np.float32)

    def check(self, actions: Any, batch: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Actions as a tensor of shape ``batch + self.shape`` (int64, or float32), or a clear error.

        Raises:
            ValueError: wrong shape, an integer outside 0 … n-1, a coordinate outside [-1, 1] or not finite.
        """
        dtype = torch.int64 if self.kind == "discrete" else torch.float32
        tensor = torch.as_tensor(actions, device=device)
        if self.kind == "discrete" and tensor.is_floating_point():
            raise ValueError(f"Actions of this world are integers 0 … {self.n - 1}; got {tensor.dtype}.")
        tensor = tensor.to(dtype)
        if tuple(tensor.shape) != (*batch, *self.shape):
            raise ValueError(f"Expected actions of shape {(*batch, *self.shape)}, got {tuple(tensor.shape)}.")
        if self.kind == "discrete":
            if tensor.numel() and not bool(((tensor >= 0) & (tensor < self.n)).all()):
                raise ValueError(
                    f"Actions of this world are 0 … {self.n - 1} ({', '.join(self.names)}); "
                    f"got {tensor.flatten().tolist()[:8]}."
                )
        elif not bool((tensor.abs() <= 1 + 1e-6).all()):
            raise ValueError(
                f"Actions of this world lie in [-1, 1] per coordinate ({', '.join(self.names)}); got values outside it."
            )
        return tensor

    @property
    def step_length(self) -> float:
        """The longest nominal translation of one action, in world units (1 where nothing translates)."""
        return max((sum(x * x for x in m[:3]) ** 0.5 for m in self.motion), default=0.0) or 1.0

    @property
    def step_angle(self) -> float:
        """The largest nominal rotation of one action, in radians (1 where nothing rotates)."""
        return max((max(abs(m[3]), abs(m[4])) for m in self.motion), default=0.0) or 1.0

    def nominal_motion(self, actions: Tensor) -> Tensor:
        """Motion (..., 5), float32, that actions (..., *shape) ask for on free ground."""
        table = torch.tensor(self.motion, dtype=torch.float32, device=actions.device)
        return table[actions] if self.kind == "discrete" else actions.to(torch.float32) @ table

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionSpec:
        """The inverse of `to_json`."""
        return cls(data["kind"], tuple(data["names"]), tuple(tuple(float(x) for x in m) for m in data["motion"]))


def key_class(motion: Tensor, threshold: float = 1e-3) -> Tensor:
    """WorldPlay's class in 0 … 80 for motions (..., 5).

    Nine translations (forward/none/back x left/none/right) times nine rotations (yaw left/none/right x pitch
    up/none/down). Motions smaller than ``threshold`` (world units, radians) count as none, so that opposite keys
    pressed together give class 40, "stay".
    """
    sign = torch.where(motion.abs() > threshold, motion.sign(), torch.zeros_like(motion)).long() + 1
    forward, left, yaw, pitch = sign[..., 0], sign[..., 1], sign[..., 3], sign[..., 4]
    return ((forward * 3 + left) * 3 + yaw) * 3 + pitch


def motion_magnitudes(motion: Tensor, length: float = 1.0, angle: float = 1.0, threshold: float = 0.05) -> Tensor:
    """RELIC's 13 non-negative magnitudes (..., 13) for motions (..., 5).

    Order: forward, back, left, right, up, down, yaw left, yaw right, pitch up, pitch down, roll left, roll right,
    static. Translations are divided by ``length`` and rotations by ``angle`` (the mean step of the data); a canonical
    camera has no roll, so those two are zero. ``static`` is 1 when nothing moves by more than ``threshold`` of a step.
    """
    scale = motion.new_tensor([length, length, length, angle, angle])
    scaled = motion / scale
    pairs = torch.stack([scaled, -scaled], -1).flatten(-2).clamp(min=0)
    static = (scaled.abs() <= threshold).all(-1, keepdim=True).to(motion.dtype)
    return torch.cat([pairs, pairs.new_zeros(*pairs.shape[:-1], 2), static], -1)


def motion_from_magnitudes(magnitudes: Tensor, length: float = 1.0, angle: float = 1.0) -> Tensor:
    """The inverse of `motion_magnitudes`: motions (..., 5) from (..., 13)."""
    pairs: Tensor = magnitudes[..., :10].unflatten(-1, (5, 2))
    return (pairs[..., 0] - pairs[..., 1]) * magnitudes.new_tensor([length, length, length, angle, angle])
