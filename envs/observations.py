"""What is observed of an imagined episode's newest frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from ..errors import ConfigError
from ..world_models.pose import POSE_DIM
from ..world_models.state import WorldState
from ..world_models.world import World

ObservationName = Literal["frame", "latent", "pose", "state"]
Observation = ObservationName | Sequence[ObservationName]
"""What is observed of the newest frame: ``"frame"`` (H, W, 3) uint8; ``"latent"`` (C, h, w) float32, without decoding
anything; ``"pose"`` (5,) float64; ``"state"`` (D,) float32, where the world has a state space; or several of them, as a
dict."""


class Observer:
    """Looks at worlds.

    Attributes:
        space: of the observation of one world.

    Args:
        world: whose states are looked at.
        observation: what is seen of them.

    Raises:
        ConfigError: an observation that does not exist, or that this world cannot give.
    """

    def __init__(self, world: World, observation: Observation) -> None:
        names = (observation,) if isinstance(observation, str) else tuple(observation)
        if not names or len(set(names)) < len(names) or not set(names) <= set(get_args(ObservationName)):
            raise ConfigError(
                f"observation is one of {', '.join(get_args(ObservationName))}, or several; got {observation!r}."
            )
        self._world, self._names, self._alone = world, names, isinstance(observation, str)
        spaces: dict[str, gym.Space[Any]] = {name: self._space(name) for name in names}
        self.space: gym.Space[Any] = spaces[names[0]] if self._alone else gym.spaces.Dict(spaces)

    def observe(self, state: WorldState) -> Any:
        """Observations (B, ...) of B worlds; a dict of them where several were asked for."""
        seen = {name: self._observe(state, name) for name in self._names}
        return seen[self._names[0]] if self._alone else seen

    def picture(self, state: WorldState) -> NDArray[np.uint8]:
        """Pictures (B, H, W, 3) uint8 of B worlds."""
        with torch.no_grad():
            return copied(self._world.render(state.latents[:, -1]))

    def _space(self, name: ObservationName) -> gym.Space[Any]:
        if name == "frame":
            return gym.spaces.Box(0, 255, (*self._world.frame_size, 3), np.uint8)
        if name == "latent":
            shape = tuple(self._world.start(1).latents.shape[2:])
            return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        if name == "pose":
            return gym.spaces.Box(-np.inf, np.inf, (POSE_DIM,), np.float64)
        if not self._world.state_size:
            raise ConfigError("This world has no state space, so its states cannot be observed; train one.")
        return gym.spaces.Box(-np.inf, np.inf, (self._world.state_size,), np.float32)

    def _observe(self, state: WorldState, name: ObservationName) -> NDArray[Any]:
        if name == "frame":
            return self.picture(state)
        if name == "state":
            with torch.no_grad():
                return copied(self._world.encode_state(state))
        return copied(state.pose if name == "pose" else state.latents[:, -1].to(torch.float32))


def copied(tensor: Tensor, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """The numbers of a tensor, for callers to keep and to change; of its own type, or of ``dtype``."""
    # On a CPU, Tensor.numpy() shares memory: a caller who edits an observation would edit the world.
    return np.array(tensor.cpu().numpy(), dtype)
