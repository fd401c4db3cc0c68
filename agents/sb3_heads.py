"""`Sb3Heads`: policies and critics of Stable-Baselines3 as an agent's heads, on state vectors (..., D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from ..envs.imagination import action_space
from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .heads import TokenLayers, by_token
from .policies import PolicyHead
from .sb3_config import EXPLORES, Algorithm, Sb3Config

ALGORITHMS: dict[Algorithm, type[BaseAlgorithm]] = {"PPO": PPO, "A2C": A2C, "DQN": DQN}


@dataclass(frozen=True)
class Sb3Shape:
    """Which network of Stable-Baselines3 it is.

    Attributes:
        algorithm: that taught it.
        observation: (D,) state vectors, or (C, H, W) stacked frames with levels 0 … 255.
        hidden: widths of the hidden layers; frames go through NatureCNN (Mnih et al. 2015) before them.
        tokens: T and W: the first T · W numbers of a state vector are T tokens of W numbers, one for each part of the
            picture, and go through `TokenFeatures` before the hidden layers; None: vectors go there as they are.
    """

    algorithm: Algorithm
    observation: tuple[int, ...]
    hidden: tuple[int, ...]
    tokens: tuple[int, int] | None = None

    @property
    def space(self) -> gym.spaces.Box:
        """Observations as Stable-Baselines3 sees them."""
        if len(self.observation) == 1:
            return gym.spaces.Box(-np.inf, np.inf, self.observation, np.float32)
        return gym.spaces.Box(0, 255, self.observation, np.uint8)

    @property
    def policy(self) -> str:
        """Its name for the kind of network."""
        return "MlpPolicy" if len(self.observation) == 1 else "CnnPolicy"

    @property
    def settings(self) -> dict[str, Any]:
        """Its ``policy_kwargs``."""
        settings: dict[str, Any] = {"net_arch": [*self.hidden]}
        if self.tokens is not None:
            settings["features_extractor_class"] = TokenFeatures
            settings["features_extractor_kwargs"] = {"tokens": self.tokens}
        return settings

    def build(self, spec: ActionSpec) -> BasePolicy:
        """A new network.

        Raises:
            ConfigError: actions that the algorithm cannot take.
        """
        check_actions(self.algorithm, spec)
        kind = ALGORITHMS[self.algorithm].policy_aliases[self.policy]
        return kind(self.space, action_space(spec), lambda _: 0.0, **self.settings)


class TokenFeatures(BaseFeaturesExtractor):
    """`TokenLayers` that policy and critic share, as they share NatureCNN on frames.

    Args:
        space: of state vectors (D,).
        tokens: T and W, of which their first T · W numbers are; the others pass.
    """

    def __init__(self, space: gym.Space[Any], tokens: tuple[int, int]) -> None:
        assert space.shape is not None
        layers = TokenLayers(space.shape[0], tokens, nn.ReLU)
        super().__init__(space, layers.size)
        self.tokens, self.net = tokens, layers.net

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, F) of vectors (N, D)."""
        return by_token(self.net, self.tokens, vectors)


class Sb3Policy(PolicyHead):
    """What a network of Stable-Baselines3 does: PPO's and A2C's distribution; DQN's best key and sometimes any.

    Args:
        net: the network.
        shape: of it.
        spec: the actions.
    """

    def __init__(self, net: BasePolicy, shape: Sb3Shape, spec: ActionSpec) -> None:
        super().__init__()
        self.net, self._shape, self._spec = net, shape, spec

    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        chances = self.distribution(vectors)
        if isinstance(chances, Categorical):
            below = chances.probs.cumsum(-1)[..., :-1]
            return (below < uniform[..., :1]).sum(-1)
        drawn: Tensor = chances.mean + chances.stddev * torch.special.ndtri(uniform)
        return drawn.clamp(-1, 1)

    def best(self, vectors: Tensor) -> Tensor:
        chances = self.distribution(vectors)
        return chances.probs.argmax(-1) if isinstance(chances, Categorical) else chances.mean.clamp(-1, 1)

    def log_prob(self, vectors: Tensor, actions: Tensor) -> Tensor:
        likely: Tensor = self.distribution(vectors).log_prob(actions)  # type: ignore[no-untyped-call]
        return likely if self._spec.kind == "discrete" else likely.sum(-1)

    def entropy(self, vectors: Tensor) -> Tensor:
        entropy: Tensor = self.distribution(vectors).entropy()  # type: ignore[no-untyped-call]
        return entropy if self._spec.kind == "discrete" else entropy.sum(-1)

    def probabilities(self, vectors: Tensor) -> Tensor:
        chances = self.distribution(vectors)
        return chances.probs if isinstance(chances, Categorical) else super().probabilities(vectors)

    def distribution(self, vectors: Tensor) -> Categorical | Normal:
        """Of keys (...), or of vectors (..., n) before they are cut to [-1, 1]."""
        seen = observation(vectors, self._shape)
        if isinstance(self.net, ActorCriticPolicy):
            chances = self.net.get_distribution(seen).distribution
        else:
            assert isinstance(self.net, DQNPolicy)
            worth = self.net.q_net(seen)
            greedy = torch.nn.functional.one_hot(worth.argmax(-1), self._spec.n)
            chances = Categorical((1 - EXPLORES) * greedy + EXPLORES / self._spec.n)
        leading = vectors.shape[:-1]
        if isinstance(chances, Categorical):
            return Categorical(chances.probs.view(*leading, -1))
        assert isinstance(chances, Normal)
        return Normal(chances.mean.view(*leading, -1), chances.stddev.view(*leading, -1))


class Sb3Critic(nn.Module):
    """What it takes a state to be worth: V(s) of PPO and A2C, max_a Q(s, a) of DQN.

    Args:
        net: the network.
        shape: of it.
    """

    def __init__(self, net: BasePolicy, shape: Sb3Shape) -> None:
        super().__init__()
        self.net, self._shape = net, shape

    def value(self, vectors: Tensor) -> Tensor:
        """(...) discounted reward to be expected."""
        seen = observation(vectors, self._shape)
        if isinstance(self.net, ActorCriticPolicy):
            return self.net.predict_values(seen).view(vectors.shape[:-1])
        assert isinstance(self.net, DQNPolicy)
        worth: Tensor = self.net.q_net(seen).amax(-1)
        return worth.view(vectors.shape[:-1])


class Sb3Heads(nn.Module):
    """Policy and critic of one network.

    Args:
        shape: which network.
        spec: the actions.
        config: how it learned.
        net: the network, where there is one already; default: a new one.

    Raises:
        ConfigError: actions that the algorithm cannot take.
    """

    def __init__(self, shape: Sb3Shape, spec: ActionSpec, config: Sb3Config, net: BasePolicy | None = None) -> None:
        super().__init__()
        self.shape, self.spec, self.config = shape, spec, config
        net = net or shape.build(spec)
        self.policy, self.critic = Sb3Policy(net, shape, spec), Sb3Critic(net, shape)

    @property
    def size(self) -> int:
        """D of state vectors."""
        return int(np.prod(self.shape.observation))

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Take parameters by the names of `named_parameters`.

        Raises:
            ValueError: others than this network has.
        """
        own = dict(self.named_parameters())
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError(f"its weights are not those of {self.shape.algorithm} on {self.shape.observation}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])


def observation(vectors: Tensor, shape: Sb3Shape) -> Tensor:
    """State vectors (..., D) as Stable-Baselines3 sees them, (N, *observation)."""
    return vectors.reshape(-1, *shape.observation)


def check_actions(algorithm: Algorithm, spec: ActionSpec) -> None:
    """Refuse an algorithm that cannot take these actions.

    Raises:
        ConfigError: DQN, and actions are vectors.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm is one of {', '.join(ALGORITHMS)}; got {algorithm!r}.")
    if algorithm == "DQN" and spec.kind != "discrete":
        raise ConfigError("DQN learns what keys are worth, and these actions are vectors: choose PPO or A2C.")


def heads_from(
    shape: dict[str, Any], spec: ActionSpec, config: dict[str, Any], weights: dict[str, Tensor]
) -> Sb3Heads:
    """Heads as they were saved: shape and configuration as JSON, parameters by name.

    Raises:
        KeyError, TypeError, ValueError, ConfigError: they make no heads.
    """
    observed, hidden = (tuple(int(n) for n in shape[name]) for name in ("observation", "hidden"))
    tokens = None if shape["tokens"] is None else (int(shape["tokens"][0]), int(shape["tokens"][1]))
    made = Sb3Heads(Sb3Shape(shape["algorithm"], observed, hidden, tokens), spec, Sb3Config(**config))
    made.restore(weights)
    return made


def heads_of(model: BaseAlgorithm, spec: ActionSpec, config: Sb3Config | None = None) -> Sb3Heads:
    """A model of Stable-Baselines3 as heads, sharing its parameters; nothing is drawn from global generators.

    Args:
        model: PPO, A2C or DQN with an ``MlpPolicy`` on state vectors, or a ``CnnPolicy`` on stacked frames.
        spec: the actions it takes.
        config: how it learned, kept with the agent; default: what it says itself of environments and discount.

    Raises:
        ConfigError: another algorithm, other actions, or networks of its user's own.
    """
    algorithm = type(model).__name__
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"Agents are models of {', '.join(ALGORITHMS)}; this is one of {algorithm}.")
    if model.action_space != action_space(spec):
        raise ConfigError(f"This model takes the actions {model.action_space}; these are {', '.join(spec.names)}.")
    net, arch = model.policy, getattr(model.policy, "net_arch", [])
    same = not isinstance(arch, dict) or arch.get("pi") == arch.get("vf")
    layers = arch.get("pi", []) if isinstance(arch, dict) else arch
    features = getattr(getattr(net, "q_net", net), "features_extractor", None)
    tokens = features.tokens if isinstance(features, TokenFeatures) else None
    shape = Sb3Shape(algorithm, tuple(net.observation_space.shape or ()), tuple(layers), tokens)
    if len(shape.observation) not in (1, 3) or net.observation_space != shape.space:
        raise ConfigError(f"Agents see state vectors or stacked frames; this model sees {net.observation_space}.")
    with torch.random.fork_rng(devices=[]):
        plain = shape.build(spec)
    if not same or str(plain) != str(net):
        raise ConfigError("An agent has the plain networks of Stable-Baselines3, policy and value alike; not these.")
    config = config or Sb3Config(envs=model.n_envs, discount=float(getattr(model, "gamma", 1.0)))
    return Sb3Heads(shape, spec, config, net)
