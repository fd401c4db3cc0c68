"""`ImaginedEnv`: a learned world as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..world_models.state import WorldState
from ..world_models.world import World
from .contexts import Contexts
from .episodes import Episodes
from .imagination import Imagination, Observation, draw_seed, read_options


class ImaginedEnv(gym.Env[NDArray[Any], Any]):
    """One imagined world that continues from recorded real experience: a batch of one of `Imagination`.

    Example:
        >>> import gymnasium as gym, worldloop
        >>> env = gym.make("worldloop/Imagined-v0", world="doom-rooms-tiny", max_episode_steps=100)
        >>> frame, info = env.reset(seed=0)
        >>> frame, reward, terminated, truncated, info = env.step(1)
        >>> saved = env.unwrapped.snapshot()

    Observations are frames (H, W, 3) uint8, or latents (C, h, w) float32. ``info`` holds ``pose`` (5,)
    float64 of the frame just returned, ``uncertainty`` (float, 0 at the start, which is real) and ``context``
    (int, index of the recorded start; -1 for none). An episode terminates when the world says that it is more
    likely over than not.

    ``reset(seed=s)`` decides everything: the recorded start and all noise of this and the following episodes.
    ``reset(options={"context": 3})`` starts from the fourth recorded start, ``options={"state": …}`` from a
    `WorldState` of one world or the bytes of its ``snapshot()``.

    Args:
        world: name (``"doom-rooms-tiny"``) or directory of a learned world, or a world itself.
        contexts: recorded starts: a file, or `Contexts`; default: those that came with the world.
        max_episode_steps: time limit after which an episode is truncated; None for none. (``gym.make``
            handles the argument of this name itself, with its ``TimeLimit`` wrapper.)
        observation: ``"frame"`` or ``"latent"``.
        device: where to load a world given by name.
        overrides: of its configuration, e.g. ``{"denoising_steps": 1}``.
        render_mode: ``"rgb_array"`` or None.

    Raises:
        ConfigError: arguments that contradict each other or the world.
        WorldFormatError: no such world, or a damaged one.
        DataError: no such contexts, or damaged ones.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        world: str | Path | World,
        contexts: str | Path | Contexts | None = None,
        max_episode_steps: int | None = None,
        observation: Observation = "frame",
        device: str = "cpu",
        overrides: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.imagination = Imagination(
            world, contexts, max_episode_steps, observation, device, overrides, render_mode
        )
        self.render_mode = render_mode
        self.action_space = self.imagination.action_space
        self.observation_space = self.imagination.observation_space
        self._episodes: Episodes | None = None

    @property
    def state(self) -> WorldState:
        """The world's present state, a batch of one."""
        return self._running.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of this and the following episodes; None goes on with the present one.
            options: ``context`` (int) or ``state`` (`WorldState` of one world, or bytes); not both.

        Raises:
            ValueError: options that contradict each other, are unknown, or do not fit the world.
        """
        super().reset(seed=seed)
        context, state = read_options(options, 1)
        device = self.imagination.world.device
        if seed is not None or self._episodes is None:
            base = torch.tensor([draw_seed(self.np_random)], device=device)
            number = torch.zeros_like(base)
        else:
            base, number = self._episodes.seed, self._episodes.episode + 1
        self._episodes = self.imagination.begin(base, number, context, state)
        return self._observe()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """One imagined step.

        Raises:
            ValueError: an action outside the space.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self._running.done[0]:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
        self._episodes, outcome = self.imagination.step(self._running, np.asarray(action)[None])
        observation, info = self._observe()
        terminated, truncated = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        return observation, float(outcome.reward[0]), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """The newest frame (H, W, 3), or None without a render mode."""
        return self.imagination.render(self._running)[0] if self.render_mode == "rgb_array" else None

    def snapshot(self) -> bytes:
        """The episode as it stands, noise and seeds included, for `restore` here or in another process."""
        return self._running.snapshot()

    def restore(self, snapshot: bytes) -> tuple[NDArray[Any], dict[str, Any]]:
        """Go on from a `snapshot`; returns the observation and info of its moment, as ``reset`` does.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: they hold several episodes, or another kind of world.
        """
        self._episodes = self.imagination.restore(snapshot, 1)
        return self._observe()

    @property
    def _running(self) -> Episodes:
        if self._episodes is None:
            raise gym.error.ResetNeeded("No episode has begun: call reset() first.")
        return self._episodes

    def _observe(self) -> tuple[NDArray[Any], dict[str, Any]]:
        info = self.imagination.info(self._running)
        scalar = {
            "pose": info["pose"][0],
            "uncertainty": float(info["uncertainty"][0]),
            "context": int(info["context"][0]),
        }
        return self.imagination.observe(self._running)[0], scalar
