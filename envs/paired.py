"""`PairedEnv`: a real world and its imagined twin, stepped together by the same actions."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..world_models.pose import pose_distance
from .episodes import Episodes
from .experience import KeepExperience
from .imagination import check_fits, draw_seed
from .imagined import ImaginedEnv


class PairedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A real environment beside what a learned world makes of the same actions.

    `reset` begins an episode of the real one and takes ``warm_up`` random steps in it; from there the twin imagines on.
    Observations are dicts of ``real`` and ``imagined`` frames (H, W, 3) uint8. Rewards and ends are the real ones;
    where the twin believes the episode to be over, it goes on all the same. ``info`` is the real one's, with
    ``imagined`` (the twin's own info, its ``reward`` and whether it believes to have ``terminated``),
    ``position_error`` in world units and ``heading_error`` in radians, between the two poses.

    Args:
        real: observations are frames (H, W, 3) uint8, ``info["pose"]`` their canonical poses.
        imagined: the twin, of a world that sees frames of the same size and acts alike.
        warm_up: real steps before imagination begins; a world that has seen more remembers more.

    Raises:
        ConfigError: the two do not fit, or ``warm_up`` is below 0.

    Example:
        >>> real = gym.make("worldloop/DoomRooms-v0")                       # doctest: +SKIP
        >>> pair = PairedEnv(real, ImaginedEnv("doom-rooms-tiny"))          # doctest: +SKIP
        >>> frames, info = pair.reset(seed=0)                               # doctest: +SKIP
    """

    def __init__(self, real: gym.Env[Any, Any], imagined: ImaginedEnv, warm_up: int = 8) -> None:
        if warm_up < 0:
            raise ConfigError(f"warm_up is at least 0 real steps; got {warm_up}.")
        check_fits(imagined.imagination.world, real)
        super().__init__(KeepExperience(real))
        self._imagination, self._warm_up = imagined.imagination, warm_up
        self._twin: Episodes | None = None
        frame = gym.spaces.Box(0, 255, real.observation_space.shape, np.uint8)
        self.observation_space = gym.spaces.Dict({"imagined": frame, "real": frame})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the real environment, warm up, and let the twin go on from there.

        Args:
            seed: of both, and of the warm-up.
            options: of the real environment.
        """
        if seed is not None:
            self.action_space.seed(seed)
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(self._warm_up):
            result = self.env.step(self.action_space.sample())
            if result[2] or result[3]:
                # What has been seen of an episode that is over already is enough.
                frame, info = self.env.reset(options=options)
                break
            frame, info = result[0], result[4]
        device = self._imagination.world.device
        own, first = torch.tensor([draw_seed(self.np_random)]), torch.zeros(1, dtype=torch.int64)
        experience = self.env.get_wrapper_attr("experience")
        self._twin = self._imagination.begin(own.to(device), first.to(device), experience=experience)
        return self._pair(frame, info, 0.0, False)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of both.

        Raises:
            ValueError: an action outside the space.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self._twin is None:
            raise gym.error.ResetNeeded("No episode has begun: call reset() first.")
        twin, outcome = self._imagination.step(self._twin, np.asarray(action)[None])
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._twin = twin
        observation, info = self._pair(frame, info, float(outcome.reward[0]), bool(outcome.terminated[0]))
        return observation, reward, terminated, truncated, info

    def _pair(
        self, frame: NDArray[np.uint8], info: dict[str, Any], reward: float, terminated: bool
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, Any]]:
        assert self._twin is not None
        known = {name: values[0] for name, values in self._imagination.info(self._twin).items()}
        known |= {"reward": reward, "terminated": terminated, "uncertainty": float(known["uncertainty"])}
        known["context"] = int(known["context"])
        distance, angle = pose_distance(torch.as_tensor(known["pose"]), torch.as_tensor(np.asarray(info["pose"])))
        errors = {"position_error": float(distance), "heading_error": float(angle)}
        frames = {"imagined": self._imagination.render(self._twin)[0], "real": np.asarray(frame)}
        return frames, info | errors | {"imagined": known}
