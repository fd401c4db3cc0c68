"""`ImaginedEnv`: a learned world as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..files import write_bytes
from ..world_models.state import WorldState
from ..world_models.world import World
from .contexts import Contexts
from .episodes import Episodes, read_snapshot
from .experience import Experience
from .imagination import Imagination, draw_seed
from .observations import Observation
from .starts import read_options
from .uncertainty import MaxUncertainty, Uncertainty


class ImaginedEnv(gym.Env[Any, Any]):
    """One imagined world that continues from recorded real experience: a batch of one of `Imagination`.

    Example:
        >>> import gymnasium as gym, worldloop
        >>> env = gym.make("worldloop/Imagined-v0", world="doom-rooms-tiny", max_episode_steps=100)
        >>> frame, info = env.reset(seed=0)
        >>> frame, reward, terminated, truncated, info = env.step(1)
        >>> saved = env.unwrapped.snapshot()

    Observations are frames (H, W, 3) uint8, latents (C, h, w) float32, poses (5,) float64, or a dict of several.
    ``info`` holds ``pose`` (5,) float64 of the frame just returned, ``uncertainty`` (float, 0 at the start, which is
    real) and ``context`` (int, index of the recorded start; -1 for none). An episode terminates when the world says
    that it is more likely over than not.

    ``reset(seed=s)`` decides everything: the recorded start and all noise of this and the following episodes.
    ``reset(options={"context": 3})`` starts from the fourth recorded start, ``options={"state": …}`` from a
    `WorldState` of one world or the bytes of its ``snapshot()``, ``options={"experience": …}`` after real frames.

    The world can be saved and entered again another day (`snapshot`, `restore`), and edited (`set_pose`, `remember`,
    `forget`).

    Args:
        world: name (``"doom-rooms-tiny"``) or directory of a learned world, or a world itself.
        contexts: recorded starts: a file, or `Contexts`; default: those that came with the world.
        max_episode_steps: time limit after which an episode is truncated; None for none. (``gym.make``
            handles the argument of this name itself, with its ``TimeLimit`` wrapper.)
        observation: ``"frame"``, ``"latent"``, ``"pose"`` or ``"state"``, or several of them.
        device: where to load a world given by name.
        overrides: of its configuration, e.g. ``{"denoising_steps": 1}``.
        render_mode: ``"rgb_array"`` or None.
        uncertainty: ``"denoising"`` (free), ``"disagreement"`` (each noise seed costs a step) or ``"coverage"`` (how
            far the nearest pose really seen is).
        uncertainty_samples: noise seeds that ``"disagreement"`` compares.
        max_uncertainty: truncate where the uncertainty passes this; None for never; ``"calibrated"``: the threshold
            that ``worldloop evaluate calibration --write`` has put beside the world.
        retrieved: tell in ``info`` which frames memory gave: ``retrieved`` (R,) int64, the steps at which they were
            seen (-1 for none), and ``retrieved_poses`` (R, 5) float64.
        curiosity: reward of a step to where memory knows nothing within 80 world units and 45 degrees, less where it
            does; what is imagined is remembered, so a place is new once.

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
        uncertainty: Uncertainty = "denoising",
        uncertainty_samples: int = 4,
        max_uncertainty: MaxUncertainty = None,
        retrieved: bool = False,
        curiosity: float = 0.0,
    ) -> None:
        self.imagination = Imagination(
            world, contexts, max_episode_steps, observation, device, overrides, render_mode,
            uncertainty, uncertainty_samples, max_uncertainty, retrieved, curiosity,
        )  # fmt: skip
        self.render_mode = render_mode
        self.action_space = self.imagination.action_space
        self.observation_space = self.imagination.observation_space
        self._episodes: Episodes | None = None
        self._closed = False

    @property
    def state(self) -> WorldState:
        """The world's present state, a batch of one."""
        return self._running.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of this and the following episodes; None goes on with the present one.
            options: ``context`` (int), ``state`` (`WorldState` of one world, or bytes) or ``experience`` (`Experience`,
                or a real environment inside `KeepExperience`); one of them at most.

        Raises:
            ValueError: options that contradict each other, are unknown, or do not fit the world.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        start = read_options(options, 1)
        super().reset(seed=seed)
        device = self.imagination.world.device
        if seed is not None or self._episodes is None:
            base = torch.tensor([draw_seed(self.np_random)], device=device)
            number = torch.zeros_like(base)
        else:
            base, number = self._episodes.seed, self._episodes.episode + 1
        self._episodes = self.imagination.begin(base, number, *start)
        return self._observe()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
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

    def start_from(
        self, source: Experience | gym.Env[Any, Any], *, seed: int | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode where reality stands: after what ``source`` has shown; returns what `reset` returns.

        Args:
            source: an `Experience` (``Experience.of_image`` makes one of a single picture), or a running real
                environment inside `KeepExperience`.
            seed: of this and the following episodes; None goes on with the present one.

        Raises:
            ConfigError: ``source`` keeps no experience.
            ValueError: its frames, actions or poses do not fit the world.
        """
        return self.reset(seed=seed, options={"experience": source})

    def snapshot(self, path: str | Path | None = None) -> bytes:
        """The episode as it stands, noise and seeds included, for `restore` here or in another process.

        Args:
            path: also write it to this file, whole or not at all.
        """
        data = self._running.snapshot()
        if path is not None:
            write_bytes(Path(path), data)
        return data

    def restore(self, snapshot: bytes | str | Path) -> tuple[Any, dict[str, Any]]:
        """Go on from a `snapshot`, bytes or file; returns the observation and info of its moment, as ``reset`` does.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: they hold several episodes, or another kind of world.
            OSError: the file cannot be read.
        """
        self._check_open()
        self._episodes = self.imagination.restore(read_snapshot(snapshot), 1)
        return self._observe()

    def set_pose(self, pose: Any) -> tuple[Any, dict[str, Any]]:
        """Go to canonical ``pose`` (5,) at once; returns what the world imagines there. No step is counted.

        Raises:
            ValueError: a pose of another shape, or not finite.
        """
        self._episodes = self.imagination.moved_to(self._running, np.asarray(pose, np.float64)[None])
        return self._observe()

    def remember(self, frame: NDArray[np.uint8], pose: Any) -> None:
        """Put a real picture (H, W, 3), seen from ``pose`` (5,), into the world's memory and stay where it is.

        Raises:
            ValueError: a world without a long-term memory, or a picture or pose that does not fit.
        """
        self._episodes = self.imagination.remember(self._running, np.asarray(frame)[None], np.asarray(pose)[None])

    def forget(self, centre: Any, radius: float) -> None:
        """Let the world forget what it saw from within ``radius`` world units of ``centre`` (x, y).

        The latest frames, those the next one continues, stay.

        Raises:
            ValueError: a world without a long-term memory, a centre that is no point, or a radius not above 0.
        """
        self._episodes = self.imagination.forget(self._running, centre, radius)

    def close(self) -> None:
        """Let go of the episode; what is called afterwards raises. Closing twice is fine."""
        self._episodes, self._closed = None, True

    @property
    def _running(self) -> Episodes:
        self._check_open()
        if self._episodes is None:
            raise gym.error.ResetNeeded("No episode has begun: call reset() first.")
        return self._episodes

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        observations, info = self.imagination.observe(self._running), self.imagination.info(self._running)
        known: dict[str, Any] = {name: values[0] for name, values in info.items()}
        known["uncertainty"], known["context"] = float(known["uncertainty"]), int(known["context"])
        if isinstance(observations, dict):
            return {name: values[0] for name, values in observations.items()}, known
        return observations[0], known
