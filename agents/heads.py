"""Evaluation: what states, and actions in them, are worth. Values and Q-values of state vectors (..., D)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .two_hot import TwoHot


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

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.members) < 1:
            raise ConfigError(f"Width, layers and members of heads are at least 1; got {self}.")


def mlp(inputs: int, outputs: int, config: HeadsConfig) -> nn.Sequential:
    """Linear, LayerNorm and SiLU, so many times, and a last layer that begins at zero."""
    layers: list[nn.Module] = []
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
    """

    def __init__(self, size: int, config: HeadsConfig) -> None:
        super().__init__()
        self.two_hot = TwoHot(config.bins, config.limit)
        self.nets = nn.ModuleList(mlp(size, config.bins, config) for _ in range(config.members))

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
    """

    def __init__(self, size: int, spec: ActionSpec, config: HeadsConfig) -> None:
        super().__init__()
        self.spec, self.bins = spec, config.bins
        self.two_hot = TwoHot(config.bins, config.limit)
        keys = spec.kind == "discrete"
        inputs, outputs = (size, spec.n * config.bins) if keys else (size + spec.n, config.bins)
        self.nets = nn.ModuleList(mlp(inputs, outputs, config) for _ in range(config.members))

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


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, rate: float) -> None:
    """Move the parameters of ``target`` towards those of ``module`` by a share ``rate`` of the way (EMA)."""
    mine: Iterable[Tensor] = target.parameters()
    torch._foreach_lerp_(list(mine), [p.detach() for p in module.parameters()], rate)


