"""How algorithms of Stable-Baselines3 learn, as data; nothing here needs that package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

Algorithm = Literal["PPO", "A2C", "DQN"]
"""PPO and A2C learn from what they have just lived through, keys or vectors; DQN, of keys alone, from all they have."""

EXPLORES = 0.05
"""DQN's least chance of a random action, in training and afterwards."""
Schedule = Literal["constant", "linear"]
"""Of the learning rate: as it is, or in a straight line to 0 at the last step."""
SB3_FORMAT = "worldloop.agent.sb3/1"


@dataclass(frozen=True)
class Sb3Config:
    """How an algorithm of Stable-Baselines3 learns. What is not named here is as it is there."""

    envs: int = 8
    """Environments side by side, imagined or real."""
    learning_rate: float = 3e-4
    """Of the optimiser, at first."""
    discount: float = 0.985
    """γ, per step."""
    batch_size: int = 256
    """Steps in a batch of PPO and DQN."""
    width: int = 128
    """Hidden width of a policy on state vectors."""
    layers: int = 2
    """Its hidden layers."""
    rollout: int | None = None
    """Steps of each environment between updates of PPO and A2C; default 128 and 8."""
    epochs: int = 4
    """Times that PPO goes through a roll-out."""
    entropy: float = 0.01
    """Weight of the entropy bonus of PPO and A2C."""
    buffer: int = 50_000
    """Steps that DQN remembers."""
    exploration: float = 0.3
    """Share of the training in which DQN's chance of a random action falls from 1 to 0.05."""
    target_interval: int = 1000
    """Steps between updates of DQN's target."""
    schedule: Schedule = "constant"
    """The learning rate stays, or falls in a straight line to 0; then all steps are to be asked for at once."""
    checkpoint_every: int = 20_000
    """Steps in all environments together between checkpoints."""
    tokens: bool = False
    """State vectors are seen token by token, through layers that policy and critic share; otherwise all at once."""

    def __post_init__(self) -> None:
        counts = (self.envs, self.batch_size, self.width, self.layers, self.epochs, self.buffer)
        if min(*counts, self.target_interval, self.checkpoint_every, self.rollout or 1) < 1:
            raise ConfigError(f"Sizes, counts and intervals are at least 1; got {self}.")
        if not (0 <= self.discount <= 1 and 0 < self.exploration <= 1 and self.entropy >= 0 < self.learning_rate):
            raise ConfigError("discount and exploration lie in 0 … 1, entropy from 0 on, learning_rate above 0.")

    def rollout_of(self, algorithm: Algorithm) -> int:
        """Steps of each environment between updates."""
        return 1 if algorithm == "DQN" else self.rollout or {"PPO": 128, "A2C": 8}[algorithm]

    def whole(self, algorithm: Algorithm, steps: int) -> int:
        """``steps`` rounded up to whole roll-outs of all environments: what is really lived through."""
        unit = self.rollout_of(algorithm) * self.envs
        return -(-steps // unit) * unit


def imagined_sb3() -> Sb3Config:
    """How PPO learns in imagination unless told otherwise: what `find` was found with (docs/find-near.md)."""
    return Sb3Config(envs=32, rollout=32, schedule="linear", discount=0.95, tokens=True)


def check_installed() -> None:
    """Refuse to go on without Stable-Baselines3.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("stable_baselines3") is None:
        raise ConfigError(
            "This needs Stable-Baselines3, which is not installed; install it with pip install stable-baselines3."
        )
