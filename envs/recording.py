"""`RecordEpisodes`: a wrapper that turns what happens in a real environment into `Episode`s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..rollouts.episode import Episode


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Record every episode of an environment that returns RGB frames and the camera's pose.

    An episode is handed to ``sink`` when it ends; one that is still going on when `reset` or `close` is called is
    dropped unless ``keep_partial`` is set.

    Args:
        env: its observations are uint8 (H, W, 3), its actions `Discrete` or `Box`, and ``info["pose"]`` is the
            canonical pose (5,) of the frame just returned. ``info["collided"]`` and ``info["success"]`` are recorded
            where they exist.
        sink: takes each finished episode, for example ``writer.add`` of a `DatasetWriter`.
        policy: name of what chooses the actions; may be set anew before any episode.
        map_seed: the map, for environments whose info has no ``map_seed``.
        keep_partial: also hand over episodes that were cut short, where they have at least two frames.

    Raises:
        DataError: the observations are not RGB frames, the actions neither discrete nor box, or the info has no pose or
            no map seed.

    Example:
        >>> env = RecordEpisodes(gym.make("worldloop/DoomRooms-v0"), writer.add, policy="random")  # doctest: +SKIP
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        sink: Callable[[Episode], object],
        policy: str = "unknown",
        map_seed: int | None = None,
        keep_partial: bool = False,
    ) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or space.shape[2:] != (3,):
            raise DataError(f"Recording needs uint8 (H, W, 3) frames as observations; these are {space}.")
        actions = env.action_space
        if not isinstance(actions, gym.spaces.Discrete | gym.spaces.Box):
            raise DataError(f"Recording needs a Discrete or Box action space; this one is {actions}.")
        self.policy = policy
        self._sink = sink
        self._map_seed = map_seed
        self._keep_partial = keep_partial
        discrete = isinstance(actions, gym.spaces.Discrete)
        self._no_action = np.zeros(actions.shape or (), np.int64 if discrete else np.float32)
        self._rows: list[tuple[Any, ...]] = []
        self._episode_map = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, with the frame returned as its row 0."""
        self.finish()
        observation, info = self.env.reset(seed=seed, options=options)
        map_seed = info.get("map_seed", self._map_seed)
        if map_seed is None:
            raise DataError('The info has no "map_seed": say which map it is by RecordEpisodes(map_seed=…).')
        self._episode_map = int(map_seed)
        self._append(observation, self._no_action, 0.0, False, False, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step and record it; hand the episode over if it ended."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._append(observation, action, reward, terminated, truncated, info)
        if terminated or truncated:
            self._hand_over()
        return observation, reward, terminated, truncated, info

    def finish(self) -> None:
        """Stop recording the present episode: hand it over if partial episodes are kept, else drop it."""
        if self._keep_partial and len(self._rows) > 1:
            self._hand_over()
        self._rows = []

    def close(self) -> None:
        """Finish the present episode and close the environment."""
        self.finish()
        super().close()

    def _append(
        self,
        frame: Any,
        action: Any,
        reward: SupportsFloat,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> None:
        if "pose" not in info:
            raise DataError('Recording needs info["pose"], the canonical pose of the frame; there is none.')
        # Environments may reuse their buffers, so what they return is copied.
        picture: NDArray[np.uint8] = np.array(frame, dtype=np.uint8)
        chosen = np.array(action, dtype=self._no_action.dtype).reshape(self._no_action.shape)
        pose = np.array(info["pose"], dtype=np.float64)
        collided, success = bool(info.get("collided", False)), bool(info.get("success", False))
        self._rows.append((picture, chosen, pose, reward, terminated, truncated, collided, success))

    def _hand_over(self) -> None:
        frames, actions, poses, rewards, *flags = zip(*self._rows, strict=True)
        self._rows = []
        terminated, truncated, collided, success = (np.array(flag, dtype=np.bool_) for flag in flags)
        self._sink(
            Episode(
                frames=np.stack(frames),
                actions=np.stack(actions),
                poses=np.stack(poses),
                rewards=np.array(rewards, dtype=np.float32),
                terminated=terminated,
                truncated=truncated,
                collided=collided,
                success=success,
                map_seed=self._episode_map,
                policy=self.policy,
            )
        )
