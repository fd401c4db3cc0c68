"""`Experience`: real frames with their poses, from which imagination goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..world_models.actions import ActionSpec


@dataclass(frozen=True)
class Experience:
    """T real frames in a row.

    Attributes:
        frames: (T, H, W, 3) uint8.
        actions: (T, ...) in the action space; ``actions[t]`` led to frame t, the first means nothing.
        poses: (T, 5) float64 canonical, of every frame.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    poses: NDArray[np.float64]

    def __post_init__(self) -> None:
        t = len(self.frames)
        if not t or len(self.actions) != t or np.shape(self.poses) != (t, 5):
            raise ValueError(
                f"Experience has at least one frame and as many actions and poses (T, 5); got {t} frames, "
                f"{len(self.actions)} actions and poses {np.shape(self.poses)}."
            )

    def __len__(self) -> int:
        """T, the number of frames."""
        return len(self.frames)

    @classmethod
    def of_image(cls, frame: NDArray[np.uint8], pose: Any, spec: ActionSpec) -> Experience:
        """A single picture (H, W, 3) uint8 seen from ``pose`` (5,), in a world with the actions of ``spec``."""
        nothing = np.zeros((1, *spec.shape), np.int64 if spec.kind == "discrete" else np.float32)
        return cls(np.asarray(frame)[None], nothing, np.asarray(pose, np.float64)[None])


class KeepExperience(gym.Wrapper[Any, Any, Any, Any]):
    """Keep the frames, actions and poses of the running episode, so that imagination can go on from them.

    Args:
        env: a real environment: its observations are frames (H, W, 3) uint8, ``info["pose"]`` their canonical poses.
        frames: how many of the newest frames to keep; None for all.

    Example:
        >>> real = KeepExperience(gym.make("worldloop/DoomRooms-v0"))  # doctest: +SKIP
        >>> real.reset(seed=0); real.step(1)                           # doctest: +SKIP
        >>> imagined.start_from(real)                                  # doctest: +SKIP
    """

    def __init__(self, env: gym.Env[Any, Any], frames: int | None = None) -> None:
        if frames is not None and frames < 1:
            raise ConfigError(f"At least one frame is kept, or None for all; got frames={frames}.")
        super().__init__(env)
        self._most = frames
        self._rows: list[tuple[NDArray[np.uint8], Any, NDArray[np.float64]]] = []

    @property
    def experience(self) -> Experience:
        """What the running episode has shown.

        Raises:
            gymnasium.error.ResetNeeded: no episode has begun.
        """
        if not self._rows:
            raise gym.error.ResetNeeded("The real environment has shown nothing yet: call reset() first.")
        frames, actions, poses = zip(*self._rows, strict=True)
        space = self.env.action_space
        return Experience(np.stack(frames), np.array(actions, space.dtype), np.stack(poses))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and forget the last one."""
        observation, info = self.env.reset(seed=seed, options=options)
        space = self.env.action_space
        self._rows = [self._row(observation, np.zeros(space.shape or (), space.dtype), info)]
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the real environment."""
        result = self.env.step(action)
        self._rows.append(self._row(result[0], action, result[4]))
        if self._most is not None:
            del self._rows[: -self._most]
        return result

    def _row(self, frame: Any, action: Any, info: dict[str, Any]) -> tuple[NDArray[np.uint8], Any, NDArray[np.float64]]:
        if "pose" not in info:
            raise ConfigError(f"Imagination goes on from frames with poses, but {self.env} gives no info['pose'].")
        return np.array(frame), np.array(action), np.array(info["pose"], np.float64)


def experience_of(source: Any) -> Experience:
    """The experience that ``source`` is, or keeps.

    Raises:
        ConfigError: it is neither an `Experience` nor an environment inside `KeepExperience`.
    """
    if isinstance(source, Experience):
        return source
    if isinstance(source, gym.Env):
        try:
            found: Experience = source.get_wrapper_attr("experience")
        except AttributeError:
            raise ConfigError(
                "A real environment is imagined on from what it has shown: wrap it in KeepExperience before reset()."
            ) from None
        return found
    raise ConfigError(f"Imagination goes on from an Experience, or an env inside KeepExperience; got {source!r}.")
