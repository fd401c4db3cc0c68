"""`AgentExplorer`: a trained agent records experience, so that its world learns more of where it goes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ..envs.imagination import check_fits
from ..errors import ConfigError
from .agent import Agent, AgentState, load_agent


class AgentExplorer:
    """An agent as an `Explorer`: it acts by chance, as likely as it finds each action, and remembers the episode.

    Args:
        path: directory that `load_agent` opens.

    Raises:
        WorldFormatError, ConfigError: no such agent, or its world is gone.
    """

    name = "agent"

    def __init__(self, path: Path | str) -> None:
        path = Path(path).resolve()
        self._agent = _load(path, _modified(path))

    def reset(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        """See `Explorer.reset`.

        Raises:
            ConfigError: the environment has other frames or actions than the agent's world.
        """
        check_fits(self._agent.world, env)
        self._agent.seed = int(rng.integers(2**31))
        self._state: AgentState | None = None

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """See `Explorer.act`."""
        action, self._state = self._agent.predict(
            {"frame": observation, "pose": info["pose"]}, self._state, deterministic=False
        )
        return action

    def took(self, action: Any) -> None:
        """See `Remembers.took`."""
        assert self._state is not None
        done = torch.as_tensor(np.asarray(action)[None])
        self._state = replace(self._state, acted=done.to(self._state.acted))


def _modified(path: Path) -> int:
    try:
        return (path / "agent.json").stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"There is no agent in {path}.") from error


@lru_cache(maxsize=1)
def _load(path: Path, modified: int) -> Agent:
    # Every map gets explorers of its own; what acting does not change is shared between them.
    return load_agent(path)
