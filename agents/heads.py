"""Evaluation: what states, and actions in them, are worth. Values and Q-values of state vectors (..., D)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .two_hot import TwoHot

TOKEN_FEATURES = 16
"""Numbers that become of each token."""


@dataclass(frozen=True)
class HeadsConfig:
    """Sizes of an agent's heads."""

    width: int = 128
    """Hidden width."""
    layers: int = 2
    """Hidden layers."""
    members: int = 2
    """Value functions, and Q-functions; their mean counts."""
    bins: int = 101
    """Numbers that a value is a distribution over, odd."""
    limit: float = 5.0
    """Symlog of the largest value that can be told: 5 is 147."""
    tokens: bool = False
    """State vectors are seen token by token, every head through layers of its own; otherwise all at once."""

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.members) < 1:
            raise ConfigError(f"Width, layers and members of heads are at least 1; got {self}.")


class TokenLayers(nn.Module):
    """Every token of a state through the same two layers: what a goal looks like is learned once and not for each part
    of the picture.

    Args:
        size: D of state vectors.
        tokens: T and W, of which their first T · W numbers are; the others pass.
        activation: after each layer.

    Attributes:
        tokens: as given.
        size: F of what comes out.
    """

    def __init__(self, size: int, tokens: tuple[int, int], activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        count, width = self.tokens = tokens
        self.size = size - count * (width - TOKEN_FEATURES)
        self.net = nn.Sequential(nn.Linear(width, width), activation(), nn.Linear(width, TOKEN_FEATURES), activation())

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., F) of vectors (..., D)."""
        return by_token(self.net, self.tokens, vectors)


def by_token(net: nn.Module, tokens: tuple[int, int], vectors: Tensor) -> Tensor:
    """(..., F): the first T · W numbers of ``vectors`` (..., D), token by token through ``net``, and the others."""
    seen = math.prod(tokens)
    features = net(vectors[..., :seen].unflatten(-1, tokens)).flatten(-2)
    return torch.cat([features, vectors[..., seen:]], -1)


def mlp(inputs: int, outputs: int, config: HeadsConfig, tokens: tuple[int, int] | None = None) -> nn.Sequential:
    """Linear, LayerNorm and SiLU, so many times, and a last layer that begins at zero; before them `TokenLayers`, where
    there are tokens."""
    layers: list[nn.Module] = []
    if tokens is not None:
        seen = TokenLayers(inputs, tokens)
        layers, inputs = [seen], seen.size
    for width in (inputs, *[config.width] * (config.layers - 1)):
        layers += [nn.Linear(width, config.width), nn.LayerNorm(config.width), nn.SiLU()]
    last = nn.Linear(config.width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class ValueHead(nn.Module):
    """V(s): an ensemble of two-hot values, all 0 at the start of training.

    Args:
        size: D of state vectors.
        config: sizes.
        tokens: of states, see `TokenLayers`; None: all numbers are seen at once.
    """

    def __init__(self, size: int, config: HeadsConfig, tokens: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.two_hot = TwoHot(config.bins, config.limit)
        self.nets = nn.ModuleList(mlp(size, config.bins, config, tokens) for _ in range(config.members))

    def logits(self, vectors: Tensor) -> Tensor:
        """(..., E, K) of every member."""
        return torch.stack([net(vectors) for net in self.nets], -2)

    def members(self, vectors: Tensor) -> Tensor:
        """(..., E) what every member says."""
        return self.two_hot.mean(self.logits(vectors))

    def value(self, vectors: Tensor) -> Tensor:
        """(...) their mean."""
        return self.members(vectors).mean(-1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(...) cross-entropy of `logits` (..., E, K) against ``targets`` (...), mean over the members."""
        return self.two_hot.loss(logits, targets.unsqueeze(-1)).mean(-1)


class QHead(nn.Module):
    """Q(s, a): an ensemble of two-hot values; of keys, all at once.

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
        self.spec, self.bins = spec, config.bins
        self.two_hot = TwoHot(config.bins, config.limit)
        keys = spec.kind == "discrete"
        inputs, outputs = (size, spec.n * config.bins) if keys else (size + spec.n, config.bins)
        self.nets = nn.ModuleList(mlp(inputs, outputs, config, tokens) for _ in range(config.members))

    def of_keys(self, vectors: Tensor) -> Tensor:
        """(..., A) the value of every key; the decision argmax_a Q(s, a) is its largest.

        Raises:
            ConfigError: actions are no keys.
        """
        if self.spec.kind != "discrete":
            raise ConfigError("Only keys can be valued all at once; these actions are vectors.")
        return self.two_hot.mean(self._of_keys(vectors)).mean(-2)

    def value(self, vectors: Tensor, actions: Tensor) -> Tensor:
        """(...) of ``actions`` (..., *shape) in states ``vectors`` (..., D); differentiable in both, where they are."""
        return self.two_hot.mean(self._logits(vectors, actions)).mean(-1)

    def loss(self, vectors: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
        """(...) cross-entropy against ``targets`` (...), mean over the members."""
        return self.two_hot.loss(self._logits(vectors, actions), targets.unsqueeze(-1)).mean(-1)

    def _of_keys(self, vectors: Tensor) -> Tensor:
        """(..., E, A, K)."""
        return torch.stack([net(vectors).unflatten(-1, (self.spec.n, self.bins)) for net in self.nets], -3)

    def _logits(self, vectors: Tensor, actions: Tensor) -> Tensor:
        """(..., E, K)."""
        if self.spec.kind == "discrete":
            logits = self._of_keys(vectors)
            index = actions.view(*actions.shape, 1, 1, 1).expand(*logits.shape[:-2], 1, self.bins)
            return logits.gather(-2, index).squeeze(-2)
        joined = torch.cat([vectors, actions.to(vectors.dtype)], -1)
        return torch.stack([net(joined) for net in self.nets], -2)


_Module = TypeVar("_Module", bound=nn.Module)


def target_of(module: _Module) -> _Module:
    """A copy that no optimiser changes; it follows by `follow`."""
    return copy.deepcopy(module).requires_grad_(False)


@contextmanager
def given_parameters(module: nn.Module) -> Iterator[None]:
    """What ``module`` computes meanwhile teaches its inputs and not itself; all of its parameters learn otherwise."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, rate: float) -> None:
    """Move the parameters of ``target`` towards those of ``module`` by a share ``rate`` of the way (EMA)."""
    mine: Iterable[Tensor] = target.parameters()
    torch._foreach_lerp_(list(mine), [p.detach() for p in module.parameters()], rate)
