"""Decision: policies over keys and over vectors, as heads on state vectors (..., D).

Actions are drawn by random numbers that are handed in, so that a policy draws nothing of its own and repeats itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .heads import HeadsConfig, mlp

UNIFORM = 0.01
"""Share of every policy over keys that is uniform, so that no key is ever lost for good (DreamerV3 §3)."""
REACH = 3.0
"""Largest mean of a vector's coordinate before tanh: 0.995 after it."""
SPREAD = (0.1, 1.0)
"""Least and largest deviation before tanh."""
_NODES = 16


class PolicyHead(nn.Module, ABC):
    """π(a | s). Vectors (..., D), random numbers (..., n) in (0, 1), actions (..., *shape)."""

    @abstractmethod
    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        """Actions chosen by random numbers ``uniform``, n those of `ActionSpec.n`; of vectors, differentiable."""

    @abstractmethod
    def best(self, vectors: Tensor) -> Tensor:
        """The most likely key, or the vector that the mean leads to."""

    @abstractmethod
    def log_prob(self, vectors: Tensor, actions: Tensor) -> Tensor:
        """(...) logarithm of the probability (density) of ``actions``."""

    @abstractmethod
    def entropy(self, vectors: Tensor) -> Tensor:
        """(...) in nats."""

    def probabilities(self, vectors: Tensor) -> Tensor:
        """(..., A) of the keys.

        Raises:
            ConfigError: actions are vectors.
        """
        raise ConfigError("Only a policy over keys has probabilities; this one acts by vectors.")


class KeysPolicy(PolicyHead):
    """A categorical distribution over keys, uniform at the start of training.

    Args:
        size: D of state vectors.
        spec: the actions.
        config: sizes.
        tokens: of states, see `TokenLayers`; None: all numbers are seen at once.
    """

    def __init__(
        self, size: int, spec: ActionSpec, config: HeadsConfig, tokens: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if spec.kind != "discrete":
            raise ConfigError("A policy over keys does not fit a world whose actions are vectors; use BoxPolicy.")
        self.net = mlp(size, spec.n, config, tokens)

    def probabilities(self, vectors: Tensor) -> Tensor:
        likely: Tensor = self.net(vectors).float().softmax(-1)
        return (1 - UNIFORM) * likely + UNIFORM / likely.shape[-1]

    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        below = self.probabilities(vectors).cumsum(-1)[..., :-1]
        return (below < uniform[..., :1]).sum(-1)

    def best(self, vectors: Tensor) -> Tensor:
        return self.probabilities(vectors).argmax(-1)

    def log_prob(self, vectors: Tensor, actions: Tensor) -> Tensor:
        return self.probabilities(vectors).log().gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, vectors: Tensor) -> Tensor:
        likely = self.probabilities(vectors)
        return -(likely * likely.log()).sum(-1)


class BoxPolicy(PolicyHead):
    """A normal distribution squashed by tanh, for vectors in [-1, 1]; its mean is 0 at the start of training.

    Args:
        size: D of state vectors.
        spec: the actions.
        config: sizes.
        tokens: of states, see `TokenLayers`; None: all numbers are seen at once.
    """

    def __init__(
        self, size: int, spec: ActionSpec, config: HeadsConfig, tokens: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if spec.kind != "box":
            raise ConfigError("A policy over vectors does not fit a world whose actions are keys; use KeysPolicy.")
        self.net = mlp(size, 2 * spec.n, config, tokens)
        # ∫ f(u) N(u; 0, 1) du by Gauss–Hermite quadrature.
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        self.nodes: Tensor
        self.weights: Tensor
        self.register_buffer("nodes", torch.from_numpy(nodes).to(torch.float32), persistent=False)
        weights = weights / math.sqrt(2 * math.pi)
        self.register_buffer("weights", torch.from_numpy(weights).to(torch.float32), persistent=False)

    def normal(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (..., n) before tanh."""
        mean, spread = self.net(vectors).float().chunk(2, -1)
        least, most = SPREAD
        return REACH * (mean / REACH).tanh(), least + (most - least) * (spread + 1).sigmoid()

    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        mean, spread = self.normal(vectors)
        drawn: Tensor = (mean + spread * torch.special.ndtri(uniform)).tanh()
        return drawn

    def best(self, vectors: Tensor) -> Tensor:
        return self.normal(vectors)[0].tanh()

    def log_prob(self, vectors: Tensor, actions: Tensor) -> Tensor:
        mean, spread = self.normal(vectors)
        # Recorded vectors may lie on the bounds, where the density is infinite.
        before = actions.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
        density = -0.5 * ((before - mean) / spread).square() - spread.log() - 0.5 * math.log(2 * math.pi)
        likely: Tensor = (density - _log_slope(before)).sum(-1)
        return likely

    def entropy(self, vectors: Tensor) -> Tensor:
        mean, spread = self.normal(vectors)
        before = mean.unsqueeze(-1) + spread.unsqueeze(-1) * self.nodes
        squashed = (_log_slope(before) * self.weights).sum(-1)
        return (0.5 * math.log(2 * math.pi * math.e) + spread.log() + squashed).sum(-1)


def make_policy(
    size: int, spec: ActionSpec, config: HeadsConfig, tokens: tuple[int, int] | None = None
) -> PolicyHead:
    """The policy head that fits ``spec``."""
    return (KeysPolicy if spec.kind == "discrete" else BoxPolicy)(size, spec, config, tokens)


def _log_slope(x: Tensor) -> Tensor:
    """ln(1 - tanh²(x)), without loss where tanh is nearly 1."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))
